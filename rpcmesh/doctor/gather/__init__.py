"""Looks at this home, this machine and this mesh, a file a subject. Nothing here is judged."""
