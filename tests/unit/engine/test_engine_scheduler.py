"""Continuous batching: examples that read as a timetable, then laws under random arrivals and cancellations."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rpcmesh.engine.scheduler import Batch, Cached, Chunk, Limits, Output, Sampled, Scheduler

EOG = 0


def scheduler(n_ctx: int = 100, n_seq_max: int = 2, n_batch: int = 4) -> Scheduler:
    return Scheduler(Limits(n_ctx=n_ctx, n_seq_max=n_seq_max, n_batch=n_batch), frozenset({EOG}))


def test_a_prompt_is_prefilled_in_chunks_and_then_decoded_token_by_token() -> None:
    s = scheduler()
    s.submit("a", (1, 2, 3, 4, 5, 6), max_new=2)

    first = s.next_batch()
    assert first == Batch((Chunk("a", 0, 0, (1, 2, 3, 4), samples=False),), ())
    assert s.commit(first, []) == []
    second = s.next_batch()
    assert second == Batch((Chunk("a", 0, 4, (5, 6), samples=True),), (Output("a", 0, 1),))
    assert s.commit(second, [7]) == [Sampled("a", 0, 7, None)]
    third = s.next_batch()
    assert third == Batch((Chunk("a", 0, 6, (7,), samples=True),), (Output("a", 0, 0),))
    assert s.commit(third, [8]) == [Sampled("a", 0, 8, "length")]
    assert s.idle


def test_decoding_goes_on_beside_a_long_prompt() -> None:
    s = scheduler()
    s.submit("a", (1,), max_new=None)
    batch = s.next_batch()
    s.commit(batch, [2])
    s.submit("b", (10, 11, 12, 13, 14), max_new=None)

    batch = s.next_batch()

    assert batch.chunks == (Chunk("a", 0, 1, (2,), samples=True), Chunk("b", 1, 0, (10, 11, 12), samples=False))
    assert batch.outputs == (Output("a", 0, 0),)
    s.commit(batch, [3])
    assert s.next_batch().outputs == (Output("a", 0, 0), Output("b", 1, 2))


def test_a_held_prompt_keeps_its_slot_and_goes_on_behind_what_was_put_there() -> None:
    s = scheduler()
    s.submit("a", (1, 2, 3, 4, 5, 6), max_new=None, held=True)
    s.submit("b", (1,), max_new=None)
    assert s.slot_of("a") is None

    batch = s.next_batch()
    assert [(chunk.id, chunk.slot) for chunk in batch.chunks] == [("b", 1)]
    assert s.slot_of("a") == 0
    s.commit(batch, [2])
    assert s.cached() == [Cached("b", 1, n_cached=1, n_prompt=1)]

    s.release("a", 5)

    assert s.next_batch().chunks == (Chunk("b", 1, 1, (2,), samples=True), Chunk("a", 0, 5, (6,), samples=True))


def test_while_all_are_held_there_is_nothing_to_decode() -> None:
    s = scheduler()
    s.submit("a", (1, 2), max_new=None, held=True)

    assert s.next_batch() == Batch((), ())
    assert not s.idle
    with pytest.raises(ValueError, match="2 of 2 tokens leave nothing to decode"):
        s.release("a", 2)
    assert s.drop("a") == 0
    assert s.idle


def test_the_third_request_waits_for_a_slot_and_gets_it() -> None:
    s = scheduler()
    for name in "abc":
        s.submit(name, (1,), max_new=1 if name == "a" else None)
    batch = s.next_batch()
    assert [chunk.id for chunk in batch.chunks] == ["a", "b"]
    assert s.n_waiting == 1
    s.commit(batch, [5, 5])
    assert [(chunk.id, chunk.slot) for chunk in s.next_batch().chunks] == [("b", 1), ("c", 0)]


def test_an_end_of_generation_token_is_a_stop() -> None:
    s = scheduler()
    s.submit("a", (1,), max_new=1)
    assert s.commit(s.next_batch(), [EOG]) == [Sampled("a", 0, EOG, "stop")]


def test_a_full_context_ends_with_length() -> None:
    s = scheduler(n_ctx=4)
    s.submit("a", (1, 2), max_new=50)
    finishes = []
    while not s.idle:
        batch = s.next_batch()
        finishes += [sampled.finish for sampled in s.commit(batch, [9] * len(batch.outputs))]
    assert finishes == [None, "length"]


def test_dropping_a_running_request_names_its_slot_and_a_waiting_one_has_none() -> None:
    s = scheduler(n_seq_max=1)
    s.submit("a", (1,), max_new=None)
    s.submit("b", (1,), max_new=None)
    s.next_batch()
    assert s.drop("b") is None
    assert s.drop("a") == 0
    assert s.drop("unknown") is None
    assert s.idle


@pytest.mark.parametrize(("prompt", "max_new"), [((), 1), ((1,) * 100, 1), ((1,), 0)])
def test_what_cannot_run_is_refused(prompt: tuple[int, ...], max_new: int) -> None:
    with pytest.raises(ValueError, match=r"prompt of|max_new"):
        scheduler().submit("a", prompt, max_new)


def test_a_batch_must_hold_every_sequence() -> None:
    with pytest.raises(ValueError, match="n_batch 1 is smaller than n_seq_max 2"):
        scheduler(n_batch=1)


class Engine(RuleBasedStateMachine):
    """A stand-in for llama.cpp's KV cache watches every batch, and the laws are checked after each step.

    A sampled token is a function of the sequence's history, so a token that is lost, doubled or given to another
    sequence makes a cached sequence differ from the expected one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.n_submitted = 0
        self.open: list[str] = []
        self.admitted: list[str] = []
        self.order: list[str] = []
        self.prompt: dict[str, tuple[int, ...]] = {}
        self.max_new: dict[str, int | None] = {}
        self.sampled: dict[str, list[int]] = {}
        self.cache: dict[int, list[int]] = {}
        self.owner: dict[int, str] = {}

    @initialize(n_batch=st.integers(3, 6))
    def load(self, n_batch: int) -> None:
        self.limits = Limits(n_ctx=12, n_seq_max=3, n_batch=n_batch)
        self.scheduler = Scheduler(self.limits, frozenset({EOG}))

    @rule(prompt=st.lists(st.integers(1, 9), min_size=1, max_size=11), max_new=st.none() | st.integers(1, 8))
    def submit(self, prompt: list[int], max_new: int | None) -> None:
        name = f"r{self.n_submitted}"
        self.n_submitted += 1
        self.scheduler.submit(name, tuple(prompt), max_new)
        self.prompt[name], self.max_new[name], self.sampled[name] = tuple(prompt), max_new, []
        self.open.append(name)
        self.order.append(name)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.open))
        slot = self.scheduler.drop(name)
        # One that was admitted behind a long prompt has a slot before it has anything in it.
        assert slot is not None or name not in self.owner.values()
        self._leave(name, slot)

    @precondition(lambda self: self.open)
    @rule()
    def step(self) -> None:
        batch = self.scheduler.next_batch()
        assert 0 < sum(len(chunk.tokens) for chunk in batch.chunks) <= self.limits.n_batch
        flat: list[tuple[str, int]] = []
        for chunk in batch.chunks:
            self._decode(chunk)
            flat += [(chunk.id, token) for token in chunk.tokens]
        assert [flat[output.index][0] for output in batch.outputs] == [output.id for output in batch.outputs]
        tokens = [sum(self.cache[output.slot]) % 7 for output in batch.outputs]
        self._check_progress(batch)
        for sampled, token in zip(self.scheduler.commit(batch, tokens), tokens, strict=True):
            assert sampled.token == token
            self._take(sampled)

    def _decode(self, chunk: Chunk) -> None:
        owner = self.owner.setdefault(chunk.slot, chunk.id)
        assert owner == chunk.id, "two requests share a slot"
        cached = self.cache.setdefault(chunk.slot, [])
        assert chunk.position == len(cached), "a token was lost or doubled"
        cached += chunk.tokens
        history = [*self.prompt[chunk.id], *self.sampled[chunk.id]]
        assert cached == history[: len(cached)]
        assert chunk.samples == (len(cached) == len(history))
        if chunk.position == 0:
            self.admitted.append(chunk.id)

    def _check_progress(self, batch: Batch) -> None:
        decoded = {chunk.id for chunk in batch.chunks}
        for name in self.open:
            decoding = bool(self.sampled[name])
            assert not decoding or name in decoded, "a running sequence missed a step"
        # Whoever came first among those that still have prompt to read gets some of it read.
        reading = [name for name in self.open[: self.limits.n_seq_max] if not self.sampled[name]]
        assert not reading or reading[0] in decoded

    def _take(self, sampled: Sampled) -> None:
        self.sampled[sampled.id].append(sampled.token)
        n_new, n_prompt = len(self.sampled[sampled.id]), len(self.prompt[sampled.id])
        full = n_prompt + n_new == self.limits.n_ctx or n_new == self.max_new[sampled.id]
        expected = "stop" if sampled.token == EOG else "length" if full else None
        assert sampled.finish == expected
        if expected is not None:
            self._leave(sampled.id, sampled.slot)

    def _leave(self, name: str, slot: int | None) -> None:
        self.open.remove(name)
        if slot is not None and self.owner.pop(slot, name) == name:
            self.cache.pop(slot, None)
        assert name not in self.owner.values()

    @invariant()
    def no_sequence_outgrows_its_context(self) -> None:
        assert len(self.owner) <= self.limits.n_seq_max
        assert all(slot < self.limits.n_seq_max for slot in self.owner)
        assert all(len(cached) <= self.limits.n_ctx for cached in self.cache.values())

    @invariant()
    def admission_is_first_come_first_served(self) -> None:
        assert self.admitted == [name for name in self.order if name in set(self.admitted)]

    def teardown(self) -> None:
        """Nobody starves: without new arrivals everything that is open finishes in bounded time."""
        for _ in range(len(self.open) * 2 * self.limits.n_ctx):
            if not self.open:
                break
            self.step()
        assert not self.open
        assert self.scheduler.idle


Engine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLaws = Engine.TestCase


@given(n_prompts=st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_every_prompt_token_is_read_once_whatever_the_batch_size(n_prompts: list[int]) -> None:
    s = scheduler(n_ctx=40, n_seq_max=3, n_batch=3)
    for number, n_tokens in enumerate(n_prompts):
        s.submit(f"r{number}", tuple(range(1, n_tokens + 1)), max_new=1)
    read: dict[str, list[int]] = {}
    while not s.idle:
        batch = s.next_batch()
        for chunk in batch.chunks:
            read.setdefault(chunk.id, []).extend(chunk.tokens)
        s.commit(batch, [1] * len(batch.outputs))
    assert read == {f"r{number}": list(range(1, n + 1)) for number, n in enumerate(n_prompts)}
