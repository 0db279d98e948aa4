"""In pieces of which size a batch goes through the model. Pure."""

from __future__ import annotations

from rpcmesh.engine.messages import LoadSpec
from rpcmesh.engine.scheduler import Limits

# Small enough that a prompt is several pieces, large enough for a card to be busy with one.
PIPELINED = 32


def ubatch_size(limits: Limits, spec: LoadSpec) -> int:
    """Tokens that go through the model at a time, llama.cpp's ``n_ubatch``.

    With layers on several workers one of them computes while the others wait. llama.cpp hands them the next piece of a
    batch meanwhile, if there is one. Decoding stays in one piece, which reuses its graph.
    """
    wanted = spec.n_ubatch or (PIPELINED if len(spec.devices) > 1 else limits.n_batch)
    return min(max(wanted, limits.n_seq_max), limits.n_batch)
