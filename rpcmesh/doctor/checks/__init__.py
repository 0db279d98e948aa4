"""The checks, a file a subject: pure functions from a fact to what is said. Nothing here looks at anything itself."""
