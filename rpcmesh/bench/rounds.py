"""Turn about: A B A B, and what the pairs say. Times and processes are the caller's."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence

import msgspec


class Comparison(msgspec.Struct, frozen=True):
    """``ours`` and ``rival`` are medians over ``pairs`` of (ours, rival), all in ``unit``; more is better."""

    what: str
    unit: str
    rival_name: str
    ours: float
    rival: float
    ratio: float
    pairs: tuple[tuple[float, float], ...]


async def alternate(
    ours: Callable[[], Awaitable[float]], rival: Callable[[], Awaitable[float]], rounds: int
) -> list[tuple[float, float]]:
    """One unrecorded turn each, then ``rounds`` pairs. Who begins changes with every pair."""
    await rival()
    await ours()
    pairs = []
    for number in range(rounds):
        if number % 2:
            mine = await ours()
            theirs = await rival()
        else:
            theirs = await rival()
            mine = await ours()
        pairs.append((mine, theirs))
    return pairs


def compare(what: str, unit: str, rival_name: str, pairs: Sequence[tuple[float, float]]) -> Comparison:
    """Medians, and the median of the pairs' ratios: what slows the machine down slows both turns of a pair."""
    return Comparison(
        what=what,
        unit=unit,
        rival_name=rival_name,
        ours=statistics.median(mine for mine, _ in pairs),
        rival=statistics.median(theirs for _, theirs in pairs),
        ratio=statistics.median(mine / theirs for mine, theirs in pairs),
        pairs=tuple(pairs),
    )
