"""An engine of its own judges others' answers: each token must be the model's choice behind those before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rpcmesh.engine.client import Engine
from rpcmesh.engine.messages import LoadSpec, Score

# How much the best logit may beat that of a token which was the best when it was decoded: prefill and decoding round
# differently. Undisturbed answers stay below 0.3; a token of another text misses by several.
MARGIN_MAX = 0.75
N_CTX = 1024
# Logits of so many tokens are asked for at once.
CHECK_AT_ONCE = 32


async def margins(lib_dir: Path, model_file: Path, answers: Sequence[Score]) -> list[tuple[float, ...]]:
    """For each answer what :class:`Scored` says of it, by an engine on this machine's CPU alone."""
    spec = LoadSpec("reference", str(model_file), n_ctx=N_CTX, n_seq_max=CHECK_AT_ONCE)
    async with await Engine.start(lib_dir=lib_dir, on_log=lambda _: None) as engine:
        await engine.load(spec)
        return [await engine.margins(answer) for answer in answers]
