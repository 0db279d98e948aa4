"""The native parts, built once per machine from pinned source: fetch, verify, compile, and a manifest of hashes."""

from rpcmesh.native_build.compile import Progress, build, stock
from rpcmesh.native_build.manifest import Build, open_build

__all__ = ["Build", "Progress", "build", "open_build", "stock"]
