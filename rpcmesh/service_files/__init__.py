"""rpcmesh as a service of systemd or launchd: which files and commands that takes, and carrying them out."""
