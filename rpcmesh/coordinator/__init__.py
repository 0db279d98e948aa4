"""The coordinator: what it knows, what it decides, whom it admits, and what it remembers across restarts."""
