"""Model files on the coordinator: where they come from and what they are called."""
