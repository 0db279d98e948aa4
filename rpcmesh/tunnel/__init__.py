"""The Python side of the native tunnel: its arguments, its routes file, its status document."""
