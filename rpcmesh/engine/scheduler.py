"""Continuous batching: who is admitted, what the next batch holds, who has finished. No I/O, no clock, no llama.cpp.

One cycle is ``next_batch`` → the model decodes it and samples one token for each of ``batch.outputs`` → ``commit``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rpcmesh.engine.messages import FinishReason


@dataclass(frozen=True, slots=True)
class Limits:
    """What the loaded context can hold. ``n_ctx`` is per sequence: KV cells are reserved by construction."""

    n_ctx: int
    n_seq_max: int
    n_batch: int

    def __post_init__(self) -> None:
        # Every running sequence decodes in every step, so all of them must fit one batch.
        if self.n_batch < self.n_seq_max:
            raise ValueError(f"n_batch {self.n_batch} is smaller than n_seq_max {self.n_seq_max}")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence. When ``samples``, its last token asks for logits."""

    id: str
    slot: int
    position: int
    tokens: Sequence[int]
    samples: bool


@dataclass(frozen=True, slots=True)
class Output:
    """A token to sample: ``index`` is the place of its logits' token in the batch."""

    id: str
    slot: int
    index: int


@dataclass(frozen=True, slots=True)
class Batch:
    """One decode of the model, at most ``n_batch`` tokens."""

    chunks: tuple[Chunk, ...]
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class Sampled:
    """A new token of one request. With a ``finish`` its slot is free again and its KV cells must be dropped."""

    id: str
    slot: int
    token: int
    finish: FinishReason | None


@dataclass(frozen=True, slots=True)
class Cached:
    """A running sequence whose first ``n_cached`` tokens are in the cells of its slot."""

    id: str
    slot: int
    n_cached: int
    n_prompt: int


@dataclass(slots=True)
class _Sequence:
    id: str
    prompt: Sequence[int]
    # How many tokens may follow the prompt; the context's end is already counted in.
    n_new_max: int
    # Its slot is being filled by others: not to be decoded before `release`.
    held: bool = False
    slot: int = -1
    n_cached: int = 0
    n_new: int = 0
    # The token sampled last: decoded, and so cached, by the next batch.
    last: int | None = None


class Scheduler:
    """Sequences wait in order of arrival, run in a slot each, and leave. ``eog`` are the end-of-generation tokens."""

    def __init__(self, limits: Limits, eog: frozenset[int]) -> None:
        self.limits = limits
        self._eog = eog
        self._waiting: deque[_Sequence] = deque()
        # In order of admission, which is the order of prefill.
        self._running: dict[str, _Sequence] = {}
        self._free = list(range(limits.n_seq_max - 1, -1, -1))

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        return len(self._running)

    @property
    def idle(self) -> bool:
        return not self._running and not self._waiting

    def submit(self, request_id: str, prompt: Sequence[int], max_new: int | None, *, held: bool = False) -> None:
        """Queue a prompt of 1 to ``n_ctx - 1`` tokens; ``max_new`` at least 1, or None for the whole context.

        One that is ``held`` gets a slot in its turn and stands still there until :meth:`release`.
        """
        if not 0 < len(prompt) < self.limits.n_ctx:
            raise ValueError(f"prompt of {len(prompt)} tokens does not fit a context of {self.limits.n_ctx}")
        if max_new is not None and max_new < 1:
            raise ValueError(f"max_new {max_new} is less than 1")
        room = self.limits.n_ctx - len(prompt)
        self._waiting.append(_Sequence(request_id, prompt, room if max_new is None else min(max_new, room), held))

    def slot_of(self, request_id: str) -> int | None:
        """None while it waits for one."""
        running = self._running.get(request_id)
        return None if running is None else running.slot

    def release(self, request_id: str, n_cached: int) -> None:
        """Go on with a held sequence: ``n_cached`` tokens of its prompt, and not all, are in the cells of its slot."""
        sequence = self._running[request_id]
        if not 0 <= n_cached < len(sequence.prompt):
            raise ValueError(f"{n_cached} of {len(sequence.prompt)} tokens leave nothing to decode")
        sequence.held = False
        sequence.n_cached = n_cached

    def cached(self) -> list[Cached]:
        """What is in the cells, in order of admission; not between ``next_batch`` and ``commit``."""
        return [
            Cached(sequence.id, sequence.slot, sequence.n_cached, len(sequence.prompt))
            for sequence in self._running.values()
            if not sequence.held
        ]

    def next_batch(self) -> Batch:
        """Admit what fits, then fill a batch: one token of each decoding sequence first, prompt chunks after them.

        So a long prompt never stops the others from getting a token a step, and prompts are finished one after the
        other: the first token of the earliest comes as soon as it can. The batch is empty when all that run are held.
        """
        self._admit()
        chunks = [
            Chunk(sequence.id, sequence.slot, sequence.n_cached, (sequence.last,), samples=True)
            for sequence in self._running.values()
            if sequence.last is not None
        ]
        budget = self.limits.n_batch - len(chunks)
        for sequence in self._running.values():
            if sequence.last is None and not sequence.held and budget > 0:
                chunk = self._prefill(sequence, budget)
                budget -= len(chunk.tokens)
                chunks.append(chunk)
        return Batch(tuple(chunks), tuple(_outputs(chunks)))

    def commit(self, batch: Batch, tokens: Sequence[int]) -> list[Sampled]:
        """Take in the decoded ``batch`` and the tokens sampled for its outputs, in their order."""
        for chunk in batch.chunks:
            self._running[chunk.id].n_cached += len(chunk.tokens)
        return [self._accept(output, token) for output, token in zip(batch.outputs, tokens, strict=True)]

    def drop(self, request_id: str) -> int | None:
        """Forget a request, if it is known. Returns the slot whose KV cells must be dropped, if it had one.

        Between ``next_batch`` and ``commit`` the batch still names it: drop before or after, not between.
        """
        sequence = self._running.pop(request_id, None)
        if sequence is not None:
            self._free.append(sequence.slot)
            return sequence.slot
        self._waiting = deque(waiting for waiting in self._waiting if waiting.id != request_id)
        return None

    def _admit(self) -> None:
        while self._waiting and self._free:
            sequence = self._waiting.popleft()
            sequence.slot = self._free.pop()
            self._running[sequence.id] = sequence

    def _prefill(self, sequence: _Sequence, budget: int) -> Chunk:
        start = sequence.n_cached
        tokens = sequence.prompt[start : start + budget]
        return Chunk(sequence.id, sequence.slot, start, tokens, samples=start + len(tokens) == len(sequence.prompt))

    def _accept(self, output: Output, token: int) -> Sampled:
        sequence = self._running[output.id]
        sequence.last = token
        sequence.n_new += 1
        finish: FinishReason | None = None
        if token in self._eog:
            finish = "stop"
        elif sequence.n_new == sequence.n_new_max:
            finish = "length"
        if finish is not None:
            self.drop(sequence.id)
        return Sampled(output.id, output.slot, token, finish)


def _outputs(chunks: Iterable[Chunk]) -> Iterable[Output]:
    end = 0
    for chunk in chunks:
        end += len(chunk.tokens)
        if chunk.samples:
            yield Output(chunk.id, chunk.slot, end - 1)
