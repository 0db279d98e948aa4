"""The HTTPS gateway: OpenAI-compatible bodies in, server-sent events out. It knows a Backend, never a node."""
