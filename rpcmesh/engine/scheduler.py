"""Continuous batching: who is admitted, what the next batch holds, who has finished. No I/O, no clock, no llama.cpp.

One cycle is ``admit`` → the slots get the cells that are there already, ``evict`` drops some → ``next_batch`` → the
model decodes it and samples one token for each of ``batch.outputs`` → ``commit``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from rpcmesh.engine.messages import FinishReason
from rpcmesh.engine.pace import Pace, share_out
from rpcmesh.engine.slots import Slots, common_prefix

# Waiting for another prompt's prefill costs a step or more; fewer tokens than these are prefilled sooner than that.
WAIT_FOR_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """What the loaded context can hold. ``n_ctx`` is per sequence: KV cells are reserved by construction.

    ``reuse``: whether the model's memory can be cut at any token, which a state that is not made of cells cannot.
    ``n_piece``: batches of a multiple of so many tokens use the workers best.
    """

    n_ctx: int
    n_seq_max: int
    n_batch: int
    idle_tokens_max: int = 0
    reuse: bool = True
    n_piece: int = 64

    def __post_init__(self) -> None:
        # Every running sequence decodes in every step, so all of them must fit one batch.
        if self.n_batch < self.n_seq_max:
            raise ValueError(f"n_batch {self.n_batch} is smaller than n_seq_max {self.n_seq_max}")


@dataclass(frozen=True, slots=True)
class Placement:
    """A request begins: ``slot`` must hold the first ``n_reused`` cells of ``source``, itself perhaps, and no more."""

    id: str
    slot: int
    source: int
    n_reused: int


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
    """A token to sample."""

    id: str
    slot: int


@dataclass(frozen=True, slots=True)
class Batch:
    """One decode of the model, at most ``n_batch`` tokens: chunks of prompts, then ``n_decoding`` of one token.

    llama.cpp may return while the last piece of a batch is under way, unless somebody asked for its logits. Streams do.
    """

    chunks: tuple[Chunk, ...]
    outputs: tuple[Output, ...]
    n_decoding: int

    @property
    def n_prefilled(self) -> int:
        return sum(len(chunk.tokens) for chunk in self.chunks) - self.n_decoding


@dataclass(frozen=True, slots=True)
class Sampled:
    """A new token of one request. With a ``finish`` its slot is free again; the cells stay there."""

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
    prompt: list[int]
    # How many tokens may follow the prompt; the context's end is already counted in.
    n_new_max: int
    # Its slot is being filled by others: not to be decoded before `release`.
    held: bool = False
    slot: int = -1
    # Its slot holds its first cells, and nobody else's.
    begun: bool = False
    n_cached: int = 0
    n_new: int = 0
    # Whether others feel its prefill.
    long: bool = False
    # Until this sequence has prefilled so many tokens.
    waits_for: tuple[_Sequence, int] | None = None
    # The token sampled last: decoded, and so cached, by the next batch.
    last: int | None = None


class Scheduler:
    """Sequences wait in order of arrival, run in a slot each, and leave. ``eog`` are the end-of-generation tokens."""

    def __init__(self, limits: Limits, eog: frozenset[int]) -> None:
        self.limits = limits
        self._eog = eog
        self._waiting: deque[_Sequence] = deque()
        # In order of admission.
        self._running: dict[str, _Sequence] = {}
        self._slots = Slots(limits.n_seq_max, idle_tokens_max=limits.idle_tokens_max, reuse=limits.reuse)
        self._pace = Pace(limits.n_batch, limits.n_piece)

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
        n_new_max = room if max_new is None else min(max_new, room)
        self._waiting.append(_Sequence(request_id, list(prompt), n_new_max, held))

    def slot_of(self, request_id: str) -> int | None:
        """None while the request waits for its slot, or for what that is to hold at first."""
        running = self._running.get(request_id)
        return running.slot if running is not None and running.begun else None

    def release(self, request_id: str, n_cached: int) -> None:
        """Go on with a held sequence: ``n_cached`` tokens of its prompt, and not all, are in the cells of its slot."""
        sequence = self._running[request_id]
        if not 0 <= n_cached < len(sequence.prompt):
            raise ValueError(f"{n_cached} of {len(sequence.prompt)} tokens leave nothing to decode")
        sequence.held = False
        sequence.n_cached = n_cached
        sequence.long = self._pace.is_long(len(sequence.prompt) - n_cached)
        self._slots.extend(sequence.slot, sequence.prompt[:n_cached])

    def cached(self) -> list[Cached]:
        """What is in the cells, in order of admission; not between ``next_batch`` and ``commit``."""
        return [
            Cached(sequence.id, sequence.slot, sequence.n_cached, len(sequence.prompt))
            for sequence in self._running.values()
            if sequence.begun and not sequence.held
        ]

    def admit(self) -> list[Placement]:
        """Give out the free slots, in order of arrival. The placements are to be carried out in their order.

        A sequence whose prompt begins like one that is just being prefilled begins when that one has got so far, or is
        no more; the earliest never waits. So a prompt that many ask at once is prefilled once.
        """
        while self._waiting and self._slots.any_free:
            sequence = self._waiting.popleft()
            sequence.slot = self._slots.take(sequence.id, sequence.prompt)
            self._running[sequence.id] = sequence
        return [
            self._begin(sequence)
            for sequence in self._running.values()
            if not sequence.begun and not self._must_wait(sequence)
        ]

    def evict(self) -> list[int]:
        """Slots whose cells must be dropped: too many are kept for nobody."""
        return list(self._slots.evict())

    def forgo(self, placement: Placement) -> None:
        """The placement could not be carried out and its slot is empty: the request prefills its whole prompt."""
        self._slots.forget(placement.slot)
        sequence = self._running[placement.id]
        sequence.n_cached = 0
        sequence.long = self._pace.is_long(len(sequence.prompt))

    def forget(self, slot: int) -> None:
        """What a free slot holds is lost, or about to be."""
        self._slots.forget(slot)

    def next_batch(self) -> Batch:
        """One token of each decoding sequence, and prompt chunks before them, as many as the others can bear.

        The batch is empty when all that run are held.
        """
        decoding = [
            Chunk(sequence.id, sequence.slot, sequence.n_cached, (sequence.last,), samples=True)
            for sequence in self._running.values()
            if sequence.last is not None
        ]
        reading = [
            sequence
            for sequence in self._running.values()
            if sequence.begun and not sequence.held and sequence.last is None
        ]
        shares = share_out(
            [len(sequence.prompt) - sequence.n_cached for sequence in reading],
            [sequence.long for sequence in reading],
            self._pace.allowance(len(decoding)),
        )
        prefilled = [
            self._prefill(sequence, n_tokens) for sequence, n_tokens in zip(reading, shares, strict=True) if n_tokens
        ]
        chunks = (*prefilled, *decoding)
        return Batch(chunks, tuple(Output(chunk.id, chunk.slot) for chunk in chunks if chunk.samples), len(decoding))

    def commit(self, batch: Batch, tokens: Sequence[int], took_s: float) -> list[Sampled]:
        """Take in the decoded ``batch``, the tokens sampled for its outputs, in their order, and how long it took."""
        self._pace.observe(batch.n_decoding, batch.n_prefilled, took_s)
        for chunk in batch.chunks:
            self._running[chunk.id].n_cached += len(chunk.tokens)
            self._slots.extend(chunk.slot, chunk.tokens)
        return [self._accept(output, token) for output, token in zip(batch.outputs, tokens, strict=True)]

    def prefilled(self, n_tokens: int, took_s: float) -> None:
        """How long prefill took while nothing decoded, where single steps do not tell."""
        self._pace.prefilled(n_tokens, took_s)

    def drop(self, request_id: str) -> int | None:
        """Forget a request, if it is known. Its slot is free again; the cells stay there.

        Returns the slot of a held one, which others may have half filled: its cells must be dropped.

        Between ``next_batch`` and ``commit`` the batch still names it: drop before or after, not between.
        """
        sequence = self._running.pop(request_id, None)
        if sequence is not None:
            self._slots.release(sequence.slot)
            return sequence.slot if sequence.held else None
        self._waiting = deque(waiting for waiting in self._waiting if waiting.id != request_id)
        return None

    def _must_wait(self, sequence: _Sequence) -> bool:
        """Whether an earlier sequence is about to prefill more of this one's prompt than is there yet."""
        if sequence.waits_for is not None:
            other, n_tokens = sequence.waits_for
            if self._running.get(other.id) is other and other.n_cached < n_tokens:
                return True
        sequence.waits_for = None
        if sequence.held or not self.limits.reuse:
            return False
        _, n_there = self._slots.longest(sequence.slot, sequence.prompt)
        sequence.long = self._pace.is_long(len(sequence.prompt) - n_there)
        n_most = n_there + WAIT_FOR_TOKENS - 1
        for other in self._running.values():
            if other is sequence:
                break
            if other.long and not sequence.long:
                continue  # it would be slowed down to the pace of a long one
            n_common = min(common_prefix(other.prompt, sequence.prompt), len(sequence.prompt) - 1)
            if other.n_cached < n_common and n_common > n_most:
                n_most, sequence.waits_for = n_common, (other, n_common)
        return sequence.waits_for is not None

    def _begin(self, sequence: _Sequence) -> Placement:
        source, n_reused = sequence.slot, 0
        if not sequence.held:
            source, n_reused = self._slots.longest(sequence.slot, sequence.prompt)
            self._slots.learn(sequence.prompt, n_reused)
        self._slots.begin(sequence.slot, source, n_reused)
        sequence.begun = True
        sequence.n_cached = n_reused
        sequence.long = self._pace.is_long(len(sequence.prompt) - n_reused)
        return Placement(sequence.id, sequence.slot, source, n_reused)

    def _prefill(self, sequence: _Sequence, n_tokens: int) -> Chunk:
        start, end = sequence.n_cached, sequence.n_cached + n_tokens
        return Chunk(sequence.id, sequence.slot, start, sequence.prompt[start:end], samples=end == len(sequence.prompt))

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
