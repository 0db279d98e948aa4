"""llama.cpp behind plain Python values. Only this folder imports llama_cpp; nothing in it decides what runs next."""

from rpcmesh.engine.llama.faults import DecodeError, LoadError, NoMemoryError, StateError
from rpcmesh.engine.llama.logs import attach_log
from rpcmesh.engine.llama.runtime import Runtime
from rpcmesh.engine.llama.sampler import Sampler
from rpcmesh.engine.llama.snapshot import Cells

__all__ = ["Cells", "DecodeError", "LoadError", "NoMemoryError", "Runtime", "Sampler", "StateError", "attach_log"]
