"""In pieces of which size a batch goes through the model. Pure."""

from __future__ import annotations

from rpcmesh.engine.messages import LoadSpec

# Small enough that a prompt is several pieces. llama.cpp's attention on a CPU shares work from so many tokens on.
PIPELINED = 64


def ubatch_size(spec: LoadSpec) -> int:
    """Tokens that go through the model at a time, llama.cpp's ``n_ubatch``.

    With layers on several workers one of them computes while the others wait. llama.cpp hands them the next piece of a
    batch meanwhile, if there is one. Decoding stays in one piece, which reuses its graph.
    """
    n_batch = max(spec.n_batch, spec.n_seq_max)
    wanted = spec.n_ubatch or (PIPELINED if len(spec.devices) > 1 else n_batch)
    return min(max(wanted, spec.n_seq_max), n_batch)


def full_piece(spec: LoadSpec) -> int:
    """Batches of a multiple of so many tokens leave no work unshared."""
    return ubatch_size(spec) if len(spec.devices) > 1 else min(PIPELINED, max(spec.n_batch, spec.n_seq_max))
