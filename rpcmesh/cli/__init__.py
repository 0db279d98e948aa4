"""The command line: one file a verb group. Each parses, calls and prints; decisions live elsewhere."""
