"""Whoever lost an engine gets the next one, or hears soon that there is none."""

from __future__ import annotations

import asyncio

import pytest

from rpcmesh.coordinator.seat import Seat
from rpcmesh.engine.client import Engine
from rpcmesh.gateway.backend import ClusterCapacityError

LIMIT_S = 30.0


def engine() -> Engine:
    """One whose process was never started: who sits here is all that matters."""
    return Engine(on_log=lambda _: None)


async def test_the_next_engine_goes_to_all_who_wait() -> None:
    seat, lost, fresh = Seat(), engine(), engine()
    seat.take(lost)
    waiting = [asyncio.ensure_future(seat.after(lost, LIMIT_S)) for _ in range(3)]
    await asyncio.sleep(0)
    seat.leave()
    assert not any(each.done() for each in waiting)

    seat.take(fresh)

    assert await asyncio.gather(*waiting) == [fresh] * 3


async def test_an_engine_that_came_meanwhile_is_there_at_once() -> None:
    seat, lost, fresh = Seat(), engine(), engine()
    seat.take(fresh)

    assert await seat.after(lost, LIMIT_S) is fresh


async def test_a_refusal_ends_the_wait_with_its_reason() -> None:
    seat, lost = Seat(), engine()
    waiting = asyncio.ensure_future(seat.after(lost, LIMIT_S))
    await asyncio.sleep(0)

    seat.refuse("no context of 4096 tokens fits")

    with pytest.raises(ClusterCapacityError, match="no context of 4096 tokens fits"):
        await waiting


async def test_an_engine_that_comes_takes_a_refusal_back() -> None:
    seat, lost, fresh = Seat(), engine(), engine()
    seat.refuse("nothing is left")
    seat.take(fresh)
    seat.leave()
    waiting = asyncio.ensure_future(seat.after(fresh, LIMIT_S))
    await asyncio.sleep(0)
    assert not waiting.done()

    seat.take(lost)

    assert await waiting is lost


async def test_too_long_without_an_engine_is_none() -> None:
    with pytest.raises(ClusterCapacityError, match="no engine could be started within 0 s"):
        await Seat().after(engine(), 0.0)


async def test_an_engine_that_gave_way_is_told_from_one_that_was_lost_even_after_the_next_has_left() -> None:
    seat, moved, lost = Seat(), engine(), engine()
    seat.take(moved)
    seat.leave(gives_way=True)
    seat.take(lost)
    seat.leave()

    assert seat.gave_way(moved)
    assert not seat.gave_way(lost)
