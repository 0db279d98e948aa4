"""Which slot a prompt gets, what it finds there, and what is forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.engine.slots import Slots, common_prefix


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
