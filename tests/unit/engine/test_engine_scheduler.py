"""Continuous batching: examples that read as a timetable. The laws are in test_scheduler_properties.py."""

from __future__ import annotations

import pytest

from rpcmesh.engine.scheduler import Batch, Cached, Chunk, Limits, Output, Placement, Sampled, Scheduler

EOG = 0
KEEP_ALL = 10_000


def scheduler(n_ctx: int = 100, n_seq_max: int = 2, n_batch: int = 4, *, reuse: bool = True) -> Scheduler:
    limits = Limits(n_ctx=n_ctx, n_seq_max=n_seq_max, n_batch=n_batch, idle_tokens_max=KEEP_ALL, reuse=reuse)
    return Scheduler(limits, frozenset({EOG}))


def next_batch(s: Scheduler) -> Batch:
    s.admit()
    return s.next_batch()


def step(s: Scheduler, token: int = 9) -> list[Sampled]:
    """One cycle in which every sequence samples ``token``."""
    batch = next_batch(s)
    return s.commit(batch, [token] * len(batch.outputs), 1.0)


def answer(s: Scheduler, name: str, prompt: tuple[int, ...], *, token: int = 9, max_new: int = 1) -> Placement:
    """The request's placement; it is over afterwards."""
    s.submit(name, prompt, max_new)
    (placement,) = s.admit()
    while not s.idle:
        step(s, token)
    return placement


def test_a_prompt_is_prefilled_in_chunks_and_then_decoded_token_by_token() -> None:
    s = scheduler()
    s.submit("a", (1, 2, 3, 4, 5, 6), max_new=2)

    first = next_batch(s)
    assert first == Batch((Chunk("a", 0, 0, [1, 2, 3, 4], samples=False),), (), n_decoding=0)
    assert s.commit(first, [], 1.0) == []
    second = next_batch(s)
    assert second == Batch((Chunk("a", 0, 4, [5, 6], samples=True),), (Output("a", 0),), n_decoding=0)
    assert s.commit(second, [7], 1.0) == [Sampled("a", 0, 7, None)]
    third = next_batch(s)
    assert third == Batch((Chunk("a", 0, 6, (7,), samples=True),), (Output("a", 0),), n_decoding=1)
    assert s.commit(third, [8], 1.0) == [Sampled("a", 0, 8, "length")]
    assert s.idle


def test_decoding_goes_on_beside_a_long_prompt() -> None:
    s = scheduler(n_batch=8)
    s.submit("a", (1,), max_new=None)
    step(s, token=2)
    s.submit("b", range(10, 60), max_new=None)

    # What decoding alone takes is seen first.
    assert next_batch(s).chunks == (Chunk("a", 0, 1, (2,), samples=True),)
    step(s, token=3)
    batch = next_batch(s)

    assert batch.chunks == (
        Chunk("b", 1, 0, list(range(10, 17)), samples=False),
        Chunk("a", 0, 2, (3,), samples=True),
    )
    assert batch.outputs == (Output("a", 0),)


def test_a_long_prompt_gets_less_when_it_makes_steps_long() -> None:
    s = scheduler(n_batch=8)
    s.submit("a", (1,), max_new=None)
    step(s)
    step(s)
    s.submit("b", range(10, 60), max_new=None)

    seen = []
    for _ in range(9):
        batch = next_batch(s)
        seen.append(batch.n_prefilled)
        s.commit(batch, [9], took_s=1.0 + 0.3 * batch.n_prefilled)

    assert seen == [7, 7, 7, 4, 4, 4, 3, 3, 3]


def test_a_held_prompt_keeps_its_slot_and_goes_on_behind_what_was_put_there() -> None:
    s = scheduler()
    s.submit("a", (1, 2, 3, 4, 5, 6), max_new=None, held=True)
    s.submit("b", (1,), max_new=None)
    assert s.slot_of("a") is None

    assert s.admit() == [Placement("a", 0, 0, 0), Placement("b", 1, 1, 0)]
    batch = s.next_batch()
    assert [(chunk.id, chunk.slot) for chunk in batch.chunks] == [("b", 1)]
    assert s.slot_of("a") == 0
    s.commit(batch, [2], 1.0)
    assert s.cached() == [Cached("b", 1, n_cached=1, n_prompt=1)]

    s.release("a", 5)
    s.commit(s.next_batch(), [3], 1.0)  # what decoding alone takes is seen first

    assert s.next_batch().chunks == (Chunk("a", 0, 5, [6], samples=True), Chunk("b", 1, 2, (3,), samples=True))


def test_while_all_are_held_there_is_nothing_to_decode() -> None:
    s = scheduler()
    s.submit("a", (1, 2), max_new=None, held=True)

    assert next_batch(s) == Batch((), (), 0)
    assert not s.idle
    with pytest.raises(ValueError, match="2 of 2 tokens leave nothing to decode"):
        s.release("a", 2)
    assert s.drop("a") == 0  # to be emptied
    assert s.idle


def test_what_was_put_into_a_slot_is_there_for_others() -> None:
    s = scheduler()
    s.submit("a", (1, 2, 3, 4, 5, 6), max_new=1, held=True)
    s.admit()
    s.release("a", 5)
    step(s)

    assert answer(s, "b", (1, 2, 3, 4, 9)).n_reused == 4


def test_the_third_request_waits_for_a_slot_and_gets_it() -> None:
    s = scheduler()
    for name in "abc":
        s.submit(name, (1,), max_new=1 if name == "a" else None)
    batch = next_batch(s)
    assert [chunk.id for chunk in batch.chunks] == ["a", "b"]
    assert s.n_waiting == 1
    s.commit(batch, [5, 5], 1.0)
    step(s)
    assert [(chunk.id, chunk.slot) for chunk in next_batch(s).chunks] == [("c", 0), ("b", 1)]


def test_an_end_of_generation_token_is_a_stop() -> None:
    s = scheduler()
    s.submit("a", (1,), max_new=1)
    assert step(s, EOG) == [Sampled("a", 0, EOG, "stop")]


def test_a_full_context_ends_with_length() -> None:
    s = scheduler(n_ctx=4)
    s.submit("a", (1, 2), max_new=50)
    finishes = []
    while not s.idle:
        finishes += [sampled.finish for sampled in step(s)]
    assert finishes == [None, "length"]


def test_a_dropped_request_is_gone_wherever_it_was() -> None:
    s = scheduler(n_seq_max=1)
    s.submit("a", (1,), max_new=None)
    s.submit("b", (1,), max_new=None)
    s.admit()
    for name in ("b", "a", "unknown"):
        s.drop(name)
    assert s.idle


@pytest.mark.parametrize(("prompt", "max_new"), [((), 1), ((1,) * 100, 1), ((1,), 0)])
def test_what_cannot_run_is_refused(prompt: tuple[int, ...], max_new: int) -> None:
    with pytest.raises(ValueError, match=r"prompt of|max_new"):
        scheduler().submit("a", prompt, max_new)


def test_a_batch_must_hold_every_sequence() -> None:
    with pytest.raises(ValueError, match="n_batch 1 is smaller than n_seq_max 2"):
        scheduler(n_batch=1)


def test_a_conversation_that_goes_on_prefills_only_what_is_new() -> None:
    s = scheduler()
    answer(s, "turn 1", (1, 2, 3), token=4, max_new=2)  # the second answer token was sampled and never decoded

    assert answer(s, "turn 2", (1, 2, 3, 4, 4, 5)) == Placement("turn 2", slot=0, source=0, n_reused=4)


def test_the_last_prompt_token_is_always_decoded() -> None:
    s = scheduler()
    answer(s, "first", (1, 2, 3))
    s.submit("again", (1, 2, 3), max_new=1)

    assert next_batch(s).chunks == (Chunk("again", 0, 2, [3], samples=True),)


def test_the_beginning_of_a_running_sequence_is_copied() -> None:
    s = scheduler()
    s.submit("running", (1, 2, 3), max_new=None)
    step(s)

    s.submit("alike", (1, 2, 7), max_new=None)

    assert s.admit() == [Placement("alike", slot=1, source=0, n_reused=2)]


def test_a_request_like_one_in_prefill_waits_for_it_and_copies() -> None:
    s = scheduler(n_batch=50)
    for name, last in (("a", 1), ("b", 2)):
        s.submit(name, (*range(10, 50), last), max_new=1)

    assert [placement.id for placement in s.admit()] == ["a"]
    step(s)

    assert s.admit() == [Placement("b", slot=1, source=0, n_reused=40)]


def test_when_the_one_it_waits_for_is_dropped_it_begins_with_what_is_there() -> None:
    s = scheduler(n_batch=30)
    for name in "ab":
        s.submit(name, range(10, 80), max_new=1)
    step(s)
    assert s.admit() == []

    s.drop("a")

    assert s.admit() == [Placement("b", slot=1, source=0, n_reused=30)]


def test_few_tokens_in_common_are_not_waited_for() -> None:
    s = scheduler(n_batch=50)
    for name in "ab":
        s.submit(name, range(10, 30), max_new=1)
    assert [(placement.id, placement.n_reused) for placement in s.admit()] == [("a", 0), ("b", 0)]


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    s = scheduler(n_ctx=200, n_batch=50)
    s.submit("long", range(10, 110), max_new=1)
    s.submit("short", range(10, 50), max_new=1)
    assert [placement.id for placement in s.admit()] == ["long", "short"]


def test_without_reuse_every_request_begins_from_nothing() -> None:
    s = scheduler(n_batch=50, reuse=False)
    answer(s, "first", (*range(10, 50),))
    assert s.evict() == [0]
    for name in "ab":
        s.submit(name, range(10, 50), max_new=1)
    assert [placement.n_reused for placement in s.admit()] == [0, 0]


def test_a_placement_that_cannot_be_carried_out_is_prefilled_from_the_first_token() -> None:
    s = scheduler()
    answer(s, "first", (1, 2, 3))
    s.submit("again", (1, 2, 3), max_new=1)
    (placement,) = s.admit()

    s.forgo(placement)

    assert s.next_batch().chunks == (Chunk("again", 0, 0, [1, 2, 3], samples=True),)


def test_what_was_forgotten_is_not_reused() -> None:
    s = scheduler()
    answer(s, "first", (1, 2, 3))
    s.forget(0)
    assert answer(s, "again", (1, 2, 3)).n_reused == 0
