"""A child process that saves and restores a sequence's cells in one context and another, model by model.

Paths of models as arguments; for each one JSON line: whether its state is whole, and the logits of the next token in
the first context and in the second.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from llama_cpp import llama_cpp as llama

from rpcmesh.engine.llama import Cells
from rpcmesh.engine.snapshots import next_piece

N_TOKENS = 300
N_BATCH = 64
TOLD = 64
TOKENS = [(7919 * at) % 90 + 3 for at in range(N_TOKENS + 1)]


def main(paths: list[str]) -> None:
    llama.llama_log_set(_quiet, None)
    llama.llama_backend_init()
    for path in paths:
        model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
        first, second = context(model, n_ctx=2048), context(model, n_ctx=1024)
        # Another sequence's cells lie between those of this one.
        for start in range(0, N_TOKENS, N_BATCH):
            decode(first, 1, start, min(N_BATCH, N_TOKENS - start))
            decode(first, 0, start, min(N_BATCH, N_TOKENS - start))
        move(Cells(first, model, spare=3), Cells(second, model, spare=3))
        told = [decode(first, 1, N_TOKENS, 1), decode(second, 2, N_TOKENS, 1)]
        sys.stdout.write(json.dumps({"whole": Cells(first, model, spare=3).whole, "logits": told}) + "\n")


def move(source: Cells, target: Cells) -> None:
    """Sequence 1 of one context becomes sequence 2 of the other, as an engine and the one after it do it."""
    n_saved = 0
    while due := next_piece(n_saved=n_saved, n_cached=N_TOKENS, n_prompt=N_TOKENS, min_tokens=1, whole=source.whole):
        start, n_saved = due
        target.restore(2, start, n_saved, source.save(1, start, n_saved))


def context(model: Any, n_ctx: int) -> Any:
    params = llama.llama_context_default_params()
    params.n_ctx = n_ctx
    params.n_batch = params.n_ubatch = N_BATCH
    params.n_seq_max = 4
    params.n_threads = params.n_threads_batch = 1
    params.kv_unified = True
    return llama.llama_init_from_model(model, params)


def decode(at: Any, sequence: int, start: int, n_tokens: int) -> list[float]:
    batch = llama.llama_batch_init(N_BATCH, 0, 1)
    batch.n_tokens = n_tokens
    for index in range(n_tokens):
        batch.token[index], batch.pos[index] = TOKENS[start + index], start + index
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
        batch.logits[index] = index == n_tokens - 1
    status = llama.llama_decode(at, batch)
    llama.llama_batch_free(batch)
    if status != 0:
        raise SystemExit(f"llama_decode returned {status}")
    logits = llama.llama_get_logits_ith(at, n_tokens - 1)
    return [logits[place] for place in range(TOLD)]


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def _quiet(_level: int, _text: bytes, _: object) -> None:
    pass


if __name__ == "__main__":
    main(sys.argv[1:])
