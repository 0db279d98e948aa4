"""The inference engine: a disposable child process that holds one model, and the client that owns it."""
