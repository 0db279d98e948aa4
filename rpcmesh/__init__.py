"""rpcmesh runs one large model across several machines with llama.cpp, safely."""

__version__ = "0.1.0"
