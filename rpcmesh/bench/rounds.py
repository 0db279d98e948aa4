"""Turn about: A B A B, and what the pairs say. Times and processes are the caller's."""

from __future__ import annotations

import math
import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

T = TypeVar("T")


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
    ours: Callable[[], Awaitable[T]], rival: Callable[[], Awaitable[T]], rounds: int
) -> list[tuple[T, T]]:
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


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank; 0 where there is nothing."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0
