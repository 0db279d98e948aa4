"""Which slot a prompt gets, what it finds there, and what is forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.engine.slots import SHARED_TOKENS, Slots, common_prefix


def slots(*held: list[int], idle_tokens_max: int = 1000, reuse: bool = True) -> Slots:
    """Free slots that hold these tokens, the first given up longest ago."""
    made = Slots(len(held), idle_tokens_max=idle_tokens_max, reuse=reuse)
    for index, tokens in enumerate(held):
        made.extend(index, tokens)
    for index, tokens in enumerate(held):
        if tokens:
            made.release(index)
    return made


@pytest.mark.parametrize(
    ("held", "prompt", "slot"),
    [
        ([[], []], [1], 0),
        # Where the conversation goes on.
        ([[], [1, 2]], [1, 2, 3], 1),
        ([[1, 2], [1, 2, 3]], [1, 2, 3, 4], 1),
        # Another one that begins alike: its cells are copied, and the first can go on.
        ([[1, 2, 3, 4, 5], []], [1, 2, 9], 1),
        # No slot is empty: the one given up longest ago.
        ([[7, 7], [1, 2, 3, 4, 5]], [1, 2, 9], 0),
        ([[7, 7], [8, 8]], [1], 0),
    ],
)
def test_which_slot_a_prompt_gets(held: list[list[int]], prompt: list[int], slot: int) -> None:
    assert slots(*held).take("a", prompt) == slot


def test_the_longest_beginning_wins_and_its_own_slot_among_equals() -> None:
    kept = slots([1, 2], [1, 2, 3], [1, 2, 3])
    assert kept.longest(2, [1, 2, 3, 4]) == (2, 3)
    assert kept.longest(0, [1, 2, 3, 4]) == (1, 3)


def test_a_copy_takes_no_cells() -> None:
    kept = slots([1, 2, 3], [])
    kept.begin(1, 0, 2)
    kept.extend(1, [4])
    assert kept.n_used == 4
    kept.forget(0)
    assert kept.n_used == 3


def test_cells_that_a_running_sequence_shares_are_not_idle() -> None:
    kept = slots([1, 2, 3], [])
    kept.take("a", [1, 2])
    assert kept.n_idle == 0
    kept = slots([1, 2, 3, 4, 5], [])
    running = kept.take("a", [1, 2, 9])
    kept.begin(running, 0, 2)
    assert kept.n_idle == 3


def test_too_many_idle_cells_are_forgotten_the_oldest_first() -> None:
    kept = slots([1] * 5, [2] * 5, [3] * 5, idle_tokens_max=7)
    assert list(kept.evict()) == [0, 1]
    assert kept.n_idle == 5
    assert list(kept.evict()) == []


def test_without_reuse_nothing_is_kept() -> None:
    kept = slots([1, 2], reuse=False)
    assert kept.longest(0, [1, 2, 3]) == (0, 0)
    assert list(kept.evict()) == [0]


@given(common=st.lists(st.integers(0, 3)), one=st.lists(st.integers(0, 3)), other=st.lists(st.integers(0, 3)))
def test_common_prefix_is_what_comparing_token_by_token_gives(
    common: list[int], one: list[int], other: list[int]
) -> None:
    one, other = common + one, common + other
    expected = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    assert common_prefix(one, other) == expected


def asked(kept: Slots, tokens: list[int]) -> int:
    """How many of ``tokens`` were there when a request for them began. It is over afterwards."""
    slot = kept.take("r", tokens)
    source, n_reused = kept.longest(slot, tokens)
    kept.learn(tokens, n_reused)
    kept.begin(slot, source, n_reused)
    kept.extend(slot, tokens[n_reused:])
    kept.release(slot)
    list(kept.evict())
    return n_reused


def test_where_nobody_comes_back_less_and_less_is_kept() -> None:
    kept = slots([], [], [], [])

    for start in range(0, 40_000, 1000):
        assert asked(kept, list(range(start, start + 100))) == 0

    assert kept.n_idle <= 100


def test_who_comes_back_to_what_was_forgotten_finds_it_the_next_time() -> None:
    kept = slots([], [], [], [])
    for start in range(0, 40_000, 1000):
        asked(kept, list(range(start, start + 100)))
    talk = [*range(900_000, 900_300)]

    assert asked(kept, talk) == 0
    assert asked(kept, [*talk, 1]) == 0
    assert asked(kept, [*talk, 1, 2]) == 301
    assert asked(kept, list(range(100))) == 0
    assert asked(kept, [*talk, 1, 2, 3]) == 302


def test_a_common_template_is_no_sign_that_anybody_comes_back() -> None:
    kept = slots([], [])
    template = [*range(900_000, 900_000 + SHARED_TOKENS - 1)]

    for start in range(0, 40_000, 1000):
        asked(kept, [*template, *range(start, start + 50)])

    assert kept.n_idle <= SHARED_TOKENS + 50
