"""Laws of the scheduler under random arrivals, cancellations and losses, with a model of llama.cpp's memory beside it.

A cell of that model is a token and the cells before it, as attention saw them when it was decoded. So a token that was
lost, doubled, decoded at another place, or copied from a slot that held something else makes a wrong cell.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rpcmesh.engine.pace import BURST_WITHIN_STEPS
from rpcmesh.engine.scheduler import Batch, Chunk, Limits, Placement, Sampled, Scheduler

EOG = 0
N_CTX = 96
# Prompts are made of these, so that many begin alike. Longer than what is worth waiting for.
BLOCKS = tuple(tuple(range(start, start + 40)) for start in (100, 200))


@dataclass(frozen=True, eq=False)
class Cell:
    """Two with equal tokens are different cells; a copy is the same one."""

    token: int
    before: Cell | None


@dataclass
class Asked:
    """A request as its client knows it: what an engine that was lost has sent is kept."""

    prompt: list[int]
    max_new: int | None
    sent: list[int]

    @property
    def history(self) -> list[int]:
        return self.prompt + self.sent

    @property
    def left(self) -> int | None:
        return None if self.max_new is None else self.max_new - len(self.sent)


prompts = st.builds(
    lambda block, n_tokens, tail: [*block[:n_tokens], *tail],
    st.sampled_from(BLOCKS),
    st.sampled_from((40, 36, 5, 0)),
    st.lists(st.integers(1, 9), min_size=1, max_size=8) | st.lists(st.integers(1, 9), min_size=9, max_size=50),
)
times_s = st.floats(1e-4, 1.0)


class Engine(RuleBasedStateMachine):
    """Stands in for serving and llama.cpp. A sampled token is a function of the sequence's history."""

    def __init__(self) -> None:
        super().__init__()
        self.n_submitted = 0
        self.open: dict[str, Asked] = {}

    @initialize(n_batch=st.integers(3, 48), n_seq_max=st.integers(1, 3), idle=st.integers(0, 300), reuse=st.booleans())
    def load(self, n_batch: int, n_seq_max: int, idle: int, reuse: bool) -> None:
        self.limits = Limits(n_ctx=N_CTX, n_seq_max=n_seq_max, n_batch=n_batch, idle_tokens_max=idle, reuse=reuse)
        self._start()

    def _start(self) -> None:
        self.scheduler = Scheduler(self.limits, frozenset({EOG}))
        self.memory: list[list[Cell]] = [[] for _ in range(self.limits.n_seq_max)]
        self.slot: dict[str, int] = {}
        # How many tokens of these were saved and are to be put back, and for which the first half is there.
        self.held: dict[str, int] = {}
        self.half_filled: set[str] = set()
        self.decoding: set[str] = set()
        self.passed_by: tuple[str, int] | None = None

    @rule(several=st.lists(prompts, min_size=1, max_size=4), max_new=st.none() | st.integers(1, 8))
    def submit(self, several: list[list[int]], max_new: int | None) -> None:
        for prompt in several:
            name = f"r{self.n_submitted}"
            self.n_submitted += 1
            self.open[name] = Asked(prompt, max_new, [])
            self.scheduler.submit(name, prompt, max_new)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([*self.open]))
        half_filled = self.scheduler.drop(name)
        assert (half_filled is not None) == (name in self.held and name in self.slot)
        if half_filled is not None:
            assert half_filled == self.slot[name]
            self.memory[half_filled] = []
        self._leave(name)

    @precondition(lambda self: self.open)
    @rule(shares_saved=st.lists(st.floats(0, 1), min_size=1, max_size=4))
    def lose_the_engine(self, shares_saved: list[float]) -> None:
        """Another one is asked for the rest of every answer. Of some the first tokens were saved."""
        self._start()
        for share, (name, asked) in zip(itertools.cycle(shares_saved), self.open.items(), strict=False):
            if n_saved := int(share * (len(asked.history) - 1)):
                self.held[name] = n_saved
            self.scheduler.submit(name, asked.history, asked.left, held=n_saved > 0)

    @precondition(lambda self: self.open)
    @rule(took_s=st.lists(times_s, min_size=1, max_size=6), refused=st.booleans())
    def steps(self, took_s: list[float], refused: bool) -> None:
        for each_s in took_s:
            if self.open:
                self._step(each_s, refused)
                refused = False

    def _step(self, took_s: float, refused: bool = False) -> None:
        for placement in self.scheduler.admit():
            self._place(placement, refused)
        self._evict()
        self._put_back()
        batch = self.scheduler.next_batch()
        if not batch.chunks:
            assert self.slot.keys() <= self.held.keys(), "somebody could get on"
            return
        assert sum(len(chunk.tokens) for chunk in batch.chunks) <= self.limits.n_batch
        for chunk in batch.chunks:
            self._decode(chunk)
        assert [output.id for output in batch.outputs] == [chunk.id for chunk in batch.chunks if chunk.samples]
        self._check_progress(batch)
        tokens = [sum(cell.token for cell in self.memory[output.slot]) % 7 for output in batch.outputs]
        for sampled, token in zip(self.scheduler.commit(batch, tokens, took_s), tokens, strict=True):
            assert sampled.token == token
            self._take(sampled)

    def _put_back(self) -> None:
        """What was saved comes in two pieces, a step apart."""
        for name in [name for name in self.held if self.scheduler.slot_of(name) is not None]:
            cells = self.memory[self.slot[name]]
            n_saved = self.held[name]
            end = n_saved if name in self.half_filled else n_saved // 2
            for token in self.open[name].history[len(cells) : end]:
                cells.append(Cell(token, cells[-1] if cells else None))
            if name in self.half_filled:
                self.scheduler.release(name, self.held.pop(name))
            self.half_filled.add(name)

    def _evict(self) -> None:
        for slot in self.scheduler.evict():
            assert slot not in self.slot.values()
            self.memory[slot] = []

    def _place(self, placement: Placement, refused: bool) -> None:
        assert placement.id not in self.slot
        assert placement.slot not in self.slot.values(), "two requests share a slot"
        self.slot[placement.id] = placement.slot
        history = self.open[placement.id].history
        assert placement.n_reused < len(history), "nothing is left whose logits could be sampled from"
        assert self.limits.reuse or placement.n_reused == 0
        assert placement.id not in self.held or placement.n_reused == 0
        self.memory[placement.slot] = self.memory[placement.source][: placement.n_reused]
        there = len(self.memory[placement.slot]) == placement.n_reused
        # One that was refused before may have been to pass its cells on.
        assert there or refused, "cells that are not there"
        if refused or not there:
            self.memory[placement.slot] = []
            self.scheduler.forgo(placement)

    def _decode(self, chunk: Chunk) -> None:
        assert self.slot[chunk.id] == chunk.slot
        cells = self.memory[chunk.slot]
        assert chunk.position == len(cells), "a token was lost or doubled"
        for token in chunk.tokens:
            cells.append(Cell(token, cells[-1] if cells else None))
        history = self.open[chunk.id].history
        assert [cell.token for cell in cells] == history[: len(cells)]
        # Each of them was decoded, here or where it was copied from, behind exactly this beginning.
        assert all(cell.before is before for cell, before in zip(cells, [None, *cells], strict=False))
        assert chunk.samples == (len(cells) == len(history))

    def _check_progress(self, batch: Batch) -> None:
        decoded = {chunk.id for chunk in batch.chunks}
        assert {chunk.id for chunk in batch.chunks[len(batch.chunks) - batch.n_decoding :]} == self.decoding, (
            "a stream missed a step"
        )
        reading = [name for name in self.open if name in self.slot and name not in self.decoding | self.held.keys()]
        # Whoever was asked for first among those with a prompt to read gets on before long: see test_engine_pace.py.
        if not reading or reading[0] in decoded:
            self.passed_by = None
            return
        times = 1 + (self.passed_by[1] if self.passed_by and self.passed_by[0] == reading[0] else 0)
        assert times <= BURST_WITHIN_STEPS + 1, "a prompt was passed by too often"
        self.passed_by = reading[0], times

    def _take(self, sampled: Sampled) -> None:
        asked = self.open[sampled.id]
        asked.sent.append(sampled.token)
        self.decoding.add(sampled.id)
        full = len(asked.history) == N_CTX or len(asked.sent) == asked.max_new
        expected = "stop" if sampled.token == EOG else "length" if full else None
        assert sampled.finish == expected
        if expected is not None:
            self._leave(sampled.id)

    def _leave(self, name: str) -> None:
        del self.open[name]
        self.slot.pop(name, None)
        self.held.pop(name, None)
        self.decoding.discard(name)

    @invariant()
    def memory_is_never_oversubscribed(self) -> None:
        if hasattr(self, "memory"):
            assert all(len(cells) <= N_CTX for cells in self.memory)
            assert len(self._cells()) <= self.limits.n_ctx * self.limits.n_seq_max

    def teardown(self) -> None:
        """Nobody starves: every step decodes or puts back something, so all that is open ends. Then little is kept."""
        for _ in range(len(self.open) * (N_CTX + 2)):
            if self.open:
                self._step(took_s=0.01)
        assert not self.open
        if hasattr(self, "scheduler"):
            assert self.scheduler.idle
            self._evict()
            assert len(self._cells()) <= (self.limits.idle_tokens_max if self.limits.reuse else 0)

    def _cells(self) -> set[int]:
        return {id(cell) for cells in self.memory for cell in cells}


Engine.TestCase.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)
TestLaws = Engine.TestCase
