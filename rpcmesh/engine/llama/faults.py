"""What can go wrong in llama.cpp without ending the process."""

from __future__ import annotations

from rpcmesh.errors import RpcmeshError


class LoadError(RpcmeshError):
    """The model cannot be loaded as asked."""


class NoMemoryError(LoadError):
    """A device did not give the memory that the load asked for."""


class DecodeError(RpcmeshError):
    """llama.cpp refused one batch. The process lives on; a lost worker ends it instead."""


class StateError(RpcmeshError):
    """KV cells could not be turned into bytes or back. Nothing else happened, but to the cells of that sequence."""
