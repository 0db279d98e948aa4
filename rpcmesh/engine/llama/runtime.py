"""One loaded model and its context: batches in, logits to sample from. What is in a batch is decided elsewhere."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from llama_cpp import llama_cpp as llama

from rpcmesh.engine.ggml_log import Log
from rpcmesh.engine.grammar import Matcher
from rpcmesh.engine.llama.devices import add_worker, load_backends
from rpcmesh.engine.llama.faults import DecodeError, NoMemoryError
from rpcmesh.engine.llama.model import load_model, pools
from rpcmesh.engine.llama.sampler import Sampler
from rpcmesh.engine.llama.snapshot import Cells
from rpcmesh.engine.llama.vocabulary import Vocabulary
from rpcmesh.engine.messages import LoadSpec, Sampling
from rpcmesh.engine.scheduler import Batch, Limits, Placement
from rpcmesh.engine.ubatch import calls, full_piece, small_piece, ubatch_size


class Runtime:
    """llama.cpp, loaded as a spec asks.

    KV cells are unified: all sequences share one buffer of ``n_ctx * n_seq_max`` cells, of which the scheduler gives
    each sequence at most ``n_ctx``. With a buffer per sequence llama.cpp would cut a step into one graph for each run
    of adjacent slots and one for each prompt chunk, and every graph is a round trip through all workers.
    """

    def __init__(self, spec: LoadSpec, log: Log, on_progress: Callable[[float], bool]) -> None:
        """Load. ``on_progress`` returns False to give up. Raises :class:`LoadError`."""
        llama.llama_backend_init()
        load_backends()
        placed_on = [device for worker in spec.devices for device in add_worker(worker)]
        self.devices = tuple(placed.device for placed in placed_on)
        planned = [n_layers for worker in spec.devices for n_layers in worker.layers]
        model = load_model(Path(spec.model_path), placed_on, planned, log, on_progress)
        self.vocabulary = Vocabulary(model)
        self.n_layer: int = llama.llama_model_n_layer(model)
        self.n_params: int = llama.llama_model_n_params(model)
        self.size_bytes: int = llama.llama_model_size(model)
        # Beyond the length it was trained for a model only babbles.
        n_ctx = min(spec.n_ctx, llama.llama_model_n_ctx_train(model))
        n_batch = max(spec.n_batch, spec.n_seq_max)
        self.embeds = pools(model)
        if self.embeds:
            # A text must fit one batch: its vector is made of all its tokens at once.
            n_ctx = min(n_ctx, n_batch)
        self.limits = Limits(
            n_ctx=n_ctx,
            n_seq_max=spec.n_seq_max,
            n_batch=n_batch,
            idle_tokens_max=spec.idle_tokens_max,
            # Their state is that of the last token and of none before it.
            reuse=not (llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model)),
            n_piece=full_piece(spec),
        )
        self._n_embd: int = llama.llama_model_n_embd_out(model)
        params = _context_params(self.limits, spec)
        if self.embeds:
            params.embeddings = True
            params.n_ctx = params.n_outputs_max = n_batch
        self._context = llama.llama_init_from_model(model, params)
        if not self._context:
            llama.llama_model_free(model)
            raise NoMemoryError(f"no context of {params.n_ctx} tokens fits beside the weights: {log.first_error()}")
        self._memory = llama.llama_get_memory(self._context)
        self.cells = Cells(self._context, model, spare=self.limits.n_seq_max)
        self._n_small = small_piece(spec)
        self._allocate_batch(self.limits.n_batch)

    def decode(self, batch: Batch) -> list[int]:
        """Run the model on one batch. Raises :class:`DecodeError`; a lost worker aborts the process.

        For each of its outputs: where llama.cpp has the logits, until the next decode.
        """
        places: list[int] = []
        for call in calls(batch.chunks, self._n_small):
            end = 0
            for chunk in call:
                start, end = end, end + len(chunk.tokens)
                self._fill(start, chunk.tokens, chunk.slot, chunk.position)
                self._wants_logits[end - 1] = chunk.samples
                places += [end - 1] if chunk.samples else []
            self._decode(end)
        return places

    def margins(self, tokens: Sequence[int], n_given: int) -> list[float]:
        """For each token behind the first ``n_given``: by how much the best logit at its place beats its own.

        Uses the first slot, whose cells must be free, and leaves them free.
        """
        margins: list[float] = []
        start, end = 0, n_given - 1
        try:
            while start < end:
                n_tokens = min(self.limits.n_batch, end - start)
                self._fill(0, tokens[start : start + n_tokens], 0, start)
                self._decode(n_tokens)
                start += n_tokens
            # The context has room for the logits of as many tokens as it has sequences.
            while start < len(tokens) - 1:
                asked = tokens[start : min(start + self.limits.n_seq_max, len(tokens) - 1)]
                self._fill(0, asked, 0, start)
                self._wants_logits[: len(asked)] = [1] * len(asked)
                self._decode(len(asked))
                margins += [self._margin(place, tokens[start + place + 1]) for place in range(len(asked))]
                start += len(asked)
        finally:
            self.forget(0)
        return margins

    def embed(self, texts: Sequence[Sequence[int]]) -> list[bytes]:
        """A vector for each text, float32, little-endian, of length 1. Raises :class:`DecodeError`.

        Texts are as many as there are slots, and fit one batch together. Slots must be free, and are left free.
        """
        end = 0
        for slot, tokens in enumerate(texts):
            start, end = end, end + len(tokens)
            self._fill(start, tokens, slot, 0)
        self._wants_logits[:end] = [1] * end
        try:
            self._decode(end)
            return [self._vector(slot) for slot in range(len(texts))]
        finally:
            for slot in range(len(texts)):
                self.forget(slot)

    def _vector(self, slot: int) -> bytes:
        pointer = llama.llama_get_embeddings_seq(self._context, slot)
        if not pointer:
            raise DecodeError(f"llama.cpp gave no embedding for sequence {slot}")
        vector = np.ctypeslib.as_array(pointer, shape=(self._n_embd,))
        length = float(np.linalg.norm(vector))
        return (vector / length if length else vector).astype("<f4").tobytes()

    def _margin(self, place: int, token: int) -> float:
        pointer = llama.llama_get_logits_ith(self._context, place)
        logits = np.ctypeslib.as_array(pointer, shape=(self.vocabulary.n_tokens,))
        return float(logits.max() - logits[token])

    def _fill(self, start: int, tokens: Sequence[int], slot: int, position: int) -> None:
        """Put consecutive tokens of one sequence into the batch, without a wish for logits."""
        n_tokens = len(tokens)
        end = start + n_tokens
        self._token[start:end] = tokens
        self._position[start:end] = range(position, position + n_tokens)
        self._sequence[start:end] = [slot] * n_tokens
        self._wants_logits[start:end] = [0] * n_tokens

    def _decode(self, n_tokens: int) -> None:
        self._batch.n_tokens = n_tokens
        # A model without a memory, as BERT is, has nothing to decode.
        run = llama.llama_decode if self._memory else llama.llama_encode
        status = run(self._context, self._batch)
        if status != 0:
            raise DecodeError(f"{run.__name__} of {n_tokens} tokens returned {status}")

    def place(self, placement: Placement) -> bool:
        """Give a slot the cells that its sequence begins with. False when they are not to be had: then it is empty.

        llama.cpp is asked before and after. A window of attention may have let go of old cells, and not every kind of
        memory can be cut where we want.
        """
        slot, source, n_reused = placement.slot, placement.source, placement.n_reused
        if n_reused > 0 and self._first_cells(source) >= n_reused:
            if source != slot:
                self.forget(slot)
                llama.llama_memory_seq_cp(self._memory, source, slot, 0, n_reused)
            elif not llama.llama_memory_seq_rm(self._memory, slot, n_reused, -1):
                self.forget(slot)
            if self._first_cells(slot) == n_reused:
                return True
        self.forget(slot)
        return n_reused == 0

    def _first_cells(self, slot: int) -> int:
        """How many cells the slot has from position 0 on without a gap."""
        if llama.llama_memory_seq_pos_min(self._memory, slot) != 0:
            return 0
        n_cells: int = llama.llama_memory_seq_pos_max(self._memory, slot) + 1
        return n_cells

    def forget(self, slot: int) -> None:
        """Drop a slot's KV cells."""
        llama.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def sampler(
        self,
        sampling: Sampling,
        *,
        seed: int,
        ignore_eos: bool,
        seen: Sequence[int],
        n_sampled: int,
        matcher: Matcher | None = None,
        top_logprobs: int | None = None,
    ) -> Sampler:
        """A sampler for one sequence, see :class:`Sampler`."""
        return Sampler(
            self._context,
            self.vocabulary,
            sampling,
            seed=seed,
            ignore_eos=ignore_eos,
            seen=seen,
            n_sampled=n_sampled,
            matcher=matcher,
            top_logprobs=top_logprobs,
        )

    def _allocate_batch(self, n_batch: int) -> None:
        # One set of arrays for the life of the context. Each token's sequence list is one id, at a fixed address.
        self._token = (llama.llama_token * n_batch)()
        self._position = (llama.llama_pos * n_batch)()
        self._n_sequences = (ctypes.c_int32 * n_batch)(*([1] * n_batch))
        self._sequence = (llama.llama_seq_id * n_batch)()
        pointer, width = ctypes.POINTER(llama.llama_seq_id), ctypes.sizeof(llama.llama_seq_id)
        self._sequence_lists = (pointer * n_batch)(
            *(ctypes.cast(ctypes.byref(self._sequence, index * width), pointer) for index in range(n_batch))
        )
        self._wants_logits = (ctypes.c_int8 * n_batch)()
        self._batch = llama.llama_batch(
            n_tokens=0,
            token=self._token,
            embd=None,
            pos=self._position,
            n_seq_id=self._n_sequences,
            seq_id=self._sequence_lists,
            logits=self._wants_logits,
        )


def _context_params(limits: Limits, spec: LoadSpec) -> Any:
    params = llama.llama_context_default_params()
    params.n_ctx = limits.n_ctx * limits.n_seq_max
    params.n_batch = limits.n_batch
    params.n_ubatch = ubatch_size(spec)
    # One more is lent to whoever saves or restores cells. It never decodes.
    params.n_seq_max = limits.n_seq_max + (spec.snapshot_min_tokens > 0)
    # Only a sequence's last token has logits; the default reserves a vocabulary's worth for every token of a batch.
    params.n_outputs_max = params.n_seq_max
    params.n_threads = params.n_threads_batch = spec.n_threads or _auto_threads(spec)
    params.kv_unified = True
    params.no_perf = True
    return params


def _auto_threads(spec: LoadSpec) -> int:
    # With workers the CPU only looks up embeddings, and more threads would spin against a worker on this machine.
    return 1 if spec.devices else psutil.cpu_count(logical=False) or 1
