"""A node that keeps getting lost waits longer each time, and a quiet while makes it a node like any other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.coordinator.hold_down import LOSSES_KEPT, QUIET_S, add, hold_s, left_s, run, said

MAX_S = 300.0


def lost(*times: float) -> tuple[float, ...]:
    losses: tuple[float, ...] = ()
    for at in times:
        losses = add(losses, at)
    return losses


@pytest.mark.parametrize(
    ("n_losses", "held_s"),
    [(0, 0), (1, 0), (2, 5), (3, 10), (4, 20), (5, 40), (6, 80), (7, 160), (8, 300), (16, 300)],
)
def test_the_first_loss_costs_nothing_and_each_further_one_twice_the_last(n_losses: int, held_s: float) -> None:
    assert hold_s(range(n_losses), MAX_S) == held_s


@pytest.mark.parametrize(
    ("losses", "now", "left"),
    [
        ((), 0.0, 0.0),
        (lost(100.0), 100.0, 0.0),
        (lost(100.0, 110.0), 110.0, 5.0),
        (lost(100.0, 110.0), 112.0, 3.0),
        (lost(100.0, 110.0), 115.0, 0.0),
        (lost(100.0, 110.0), 1000.0, 0.0),
        # The second comes after a quiet while, and is a first one again.
        (lost(100.0, 100.0 + QUIET_S), 100.0 + QUIET_S, 0.0),
        (lost(100.0, 100.0 + QUIET_S, 101.0 + QUIET_S), 101.0 + QUIET_S, 5.0),
    ],
)
def test_a_node_is_held_out_from_its_last_loss_on(losses: tuple[float, ...], now: float, left: float) -> None:
    assert left_s(losses, now, MAX_S) == left


def test_where_nothing_is_to_be_held_out_nothing_is() -> None:
    assert left_s(lost(100.0, 101.0, 102.0), 102.0, 0.0) == 0


def test_people_are_told_how_long_and_why() -> None:
    losses = lost(0.0, 60.0, 118.0)
    assert said(losses, 120.0, MAX_S) == "held out 8 s more: lost 3 times in 2 min"
    assert not said(losses, 128.0, MAX_S)
    assert not said((), 0.0, MAX_S)


@given(st.lists(st.floats(0, 1e6), max_size=60).map(sorted), st.floats(0, 1e6))
def test_whenever_it_was_lost_it_is_held_for_a_limited_time_and_little_is_remembered(
    times: list[float], later: float
) -> None:
    losses = lost(*times)
    assert len(losses) <= LOSSES_KEPT
    assert run(losses) == losses
    assert losses[-1:] == tuple(times[-1:])
    if times:
        assert 0 <= left_s(losses, times[-1], MAX_S) <= MAX_S
        assert left_s(losses, times[-1] + later, MAX_S) <= left_s(losses, times[-1], MAX_S)
        assert left_s(losses, times[-1] + MAX_S, MAX_S) == 0
