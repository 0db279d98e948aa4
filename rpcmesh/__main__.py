"""``python -m rpcmesh`` is ``rpcmesh``."""

from rpcmesh.cli.main import main

main()
