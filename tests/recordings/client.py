"""A stock llama.cpp client as a child process, because ggml ends the process of a client whose connection is cut.

One JSON order on standard input, one JSON line for each variant and each place on standard output. Every logit and
embedding is from the same fixed tokens, so that a difference in one does not make the rest incomparable.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recordings.models import Kind
from recordings.variants import BY_NAME, Variant

# At most so many numbers of a vector are told.
TOLD = 128
# ggml_log_level
WARN, ERROR = 3, 4
N_CTX, N_SEQUENCES = 1024, 4
TESTS = Path(__file__).parents[1]


class Heard(NamedTuple):
    """What one variant gave at one worker: a vector for each output of the script."""

    endpoint: str
    variant: str
    outputs: list[list[float]]


def run(
    lib_dir: Path, model: Path, kind: Kind, variants: Iterable[Variant], *endpoints: str, limit_s: float = 300
) -> list[Heard]:
    """On one worker after the other. AssertionError with the client's last words if it did not get through."""
    order = {"model": str(model), "kind": kind, "variants": [one.name for one in variants], "endpoints": endpoints}
    # A client that aborts would otherwise call a debugger for its last words.
    environment = os.environ | {"LLAMA_CPP_LIB_PATH": str(lib_dir), "PYTHONPATH": str(TESTS), "GGML_NO_BACKTRACE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "recordings.client"],
        input=json.dumps(order),
        env=environment,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    heard = [Heard(**json.loads(line)) for line in done.stdout.splitlines()]
    reached = [(one.endpoint, one.variant) for one in heard]
    assert done.returncode == 0, f"{model.stem}: exit {done.returncode} after {reached}\n{done.stderr[-3000:]}"
    return heard


class Context:
    """One llama.cpp context, and batches of fixed tokens for it."""

    def __init__(self, llama: Any, model: Any, variant: Variant, kind: Kind) -> None:
        self.llama = llama
        self.outputs: list[list[float]] = []
        self._embeds = kind == "embedding"
        self._n_batch = variant.n_batch
        self._chance = random.Random(7)  # noqa: S311
        self._n_vocab = min(llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model)), 1000)
        self._width = llama.llama_model_n_embd_out(model) if self._embeds else self._n_vocab
        self._position = dict.fromkeys(range(N_SEQUENCES), 0)
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = N_CTX, N_SEQUENCES
        params.n_batch, params.n_ubatch = variant.n_batch, variant.n_ubatch
        params.n_threads = params.n_threads_batch = 1
        params.flash_attn_type = int(variant.flash)
        params.type_k, params.type_v = variant.key, variant.value
        params.kv_unified = variant.unified
        params.embeddings = self._embeds
        self._context = llama.llama_init_from_model(model, params)
        if not self._context:
            raise SystemExit(f"no context for {variant}")
        self._memory = llama.llama_get_memory(self._context)
        self._batch = llama.llama_batch_init(variant.n_batch, 0, 1)

    def free(self) -> None:
        self.llama.llama_batch_free(self._batch)
        self.llama.llama_free(self._context)

    def feed(self, lengths: dict[int, int], encode: bool = False) -> None:
        """So many tokens for each sequence, in as few batches as they fit in; the last of each has an output."""
        rows = [
            (self._chance.randrange(self._n_vocab), self._position[sequence] + at, sequence, at == length - 1)
            for sequence, length in lengths.items()
            for at in range(length)
        ]
        for sequence, length in lengths.items():
            self._position[sequence] += length
        for start in range(0, len(rows), self._n_batch):
            self._run(rows[start : start + self._n_batch], encode)

    def begin_again(self) -> None:
        self.llama.llama_memory_clear(self._memory, True)
        self._position = dict.fromkeys(self._position, 0)

    def copy(self, source: int, target: int) -> None:
        self.llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._position[target] = self._position[source]

    def shift(self, sequence: int, dropped: int) -> None:
        """Forget the first tokens and move the others up, where the cache can."""
        if not self.llama.llama_memory_can_shift(self._memory):
            return
        self.llama.llama_memory_seq_rm(self._memory, sequence, 0, dropped)
        self.llama.llama_memory_seq_add(self._memory, sequence, dropped, -1, -dropped)
        self._position[sequence] -= dropped

    def move(self, source: int, target: int) -> None:
        """A sequence's state out of the worker and back in under another number."""
        size = self.llama.llama_state_seq_get_size(self._context, source)
        state = (ctypes.c_uint8 * size)()
        written = self.llama.llama_state_seq_get_data(self._context, state, size, source)
        self.llama.llama_memory_seq_rm(self._memory, target, -1, -1)
        if self.llama.llama_state_seq_set_data(self._context, state, written, target) == 0:
            raise SystemExit("a state that was read cannot be written")
        self._position[target] = self._position[source]

    def _run(self, rows: Sequence[tuple[int, int, int, bool]], encode: bool) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for index, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
            batch.logits[index] = wanted or self._embeds or encode
        status = (self.llama.llama_encode if encode else self.llama.llama_decode)(self._context, batch)
        if status != 0:
            raise SystemExit(f"llama.cpp returned {status} for {len(rows)} tokens")
        if encode and not self._embeds:
            return
        for index, (_, _, sequence, wanted) in enumerate(rows):
            if wanted:
                vector = (
                    self.llama.llama_get_embeddings_seq(self._context, sequence)
                    if self._embeds
                    else self.llama.llama_get_logits_ith(self._context, index)
                )
                self.outputs.append([vector[at] for at in range(min(self._width, TOLD))])


def script(context: Context, kind: Kind) -> None:
    if kind == "embedding":
        context.feed({0: 1})
        context.feed({0: 7, 1: 40, 2: 3})
        context.feed({3: 100})
        return
    if kind == "encoder_decoder":
        context.feed({0: 20}, encode=True)
        context.begin_again()
        context.feed({0: 1})
        context.feed({0: 1})
        return
    context.feed({0: 1})
    context.feed({0: 1})
    context.begin_again()
    context.feed({0: 100})
    context.feed({0: 1})
    context.begin_again()
    context.feed({0: 5, 1: 9, 2: 3})
    context.feed({0: 1, 1: 1, 2: 1})
    context.copy(0, 3)
    context.feed({0: 1, 1: 1, 2: 1, 3: 1})
    context.shift(1, 4)
    context.feed({1: 1, 3: 1})
    context.move(0, 2)
    context.feed({0: 1, 2: 1})


def main() -> None:
    # The native library prints its path-dependent log when it is imported, so only the child may import it.
    from llama_cpp import llama_cpp as llama  # noqa: PLC0415

    from rpcmesh.engine.llama import devices  # noqa: PLC0415
    from rpcmesh.engine.messages import DeviceSpec  # noqa: PLC0415

    @llama.llama_log_callback  # type: ignore[untyped-decorator]
    def log(level: int, text: bytes, _: object) -> None:
        if level in (WARN, ERROR):
            sys.stderr.write(text.decode(errors="replace"))

    order = json.load(sys.stdin)
    llama.llama_log_set(log, None)
    llama.llama_backend_init()
    devices.load_backends()
    for endpoint in order["endpoints"]:
        (worker,) = devices.add_worker(DeviceSpec(endpoint, "node", "w0"))
        params = llama.llama_model_default_params()
        params.devices = ctypes.cast((ctypes.c_void_p * 2)(worker.handle, None), ctypes.c_void_p)
        params.n_gpu_layers = -1
        model = llama.llama_model_load_from_file(order["model"].encode(), params)
        if not model:
            raise SystemExit(f"{order['model']} cannot be loaded")
        for name in order["variants"]:
            context = Context(llama, model, BY_NAME[name], order["kind"])
            script(context, order["kind"])
            sys.stdout.write(json.dumps(Heard(endpoint, name, context.outputs)._asdict()) + "\n")
            sys.stdout.flush()
            context.free()
        llama.llama_model_free(model)


if __name__ == "__main__":
    main()
