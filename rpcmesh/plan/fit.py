"""Which layers go on which device, and with how much context. Pure, and the same for the same question.

Layers are whole and stay in their order, as llama.cpp runs them: a device holds a run of them, the last one the output
head too. Shares follow free memory, as llama.cpp's own split does, and give way where a device would be too small.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

import msgspec

from rpcmesh.plan.facts import ModelFacts
from rpcmesh.words import size

# What a device keeps free beside what we can count: rounding of buffers, the graph, a driver's own needs.
MARGIN_BYTES = 32 << 20
# A context is made smaller in steps of so many tokens.
N_CTX_STEP = 64


class Wish(msgspec.Struct, frozen=True):
    """``n_ctx`` tokens for each of ``n_seq_max`` sequences; no fewer than ``n_ctx_min``, where 0 allows no fewer."""

    n_ctx: int
    n_ctx_min: int
    n_seq_max: int
    n_batch: int


class Plan(msgspec.Struct, frozen=True):
    """``counts[i]`` things lie on device ``i``, in order: layers, and behind the last one the output head."""

    counts: tuple[int, ...]
    n_ctx: int


class TooSmall(msgspec.Struct, frozen=True):
    """No assignment fits, even with the least context, ``n_ctx``. What found no place is ``missing_bytes``."""

    needs_bytes: int
    has_bytes: int
    missing_bytes: int
    n_ctx: int

    def said(self, n_workers: int) -> str:
        workers = "1 worker has" if n_workers == 1 else f"{n_workers} workers have"
        return (
            f"the model needs {size(self.needs_bytes)} with a context of {self.n_ctx} tokens, the {workers} "
            f"{size(self.has_bytes)}: {size(self.missing_bytes)} found no place"
        )


def plan(facts: ModelFacts, free_bytes: Sequence[int], wish: Wish) -> Plan | TooSmall:
    """Put the model on devices with ``free_bytes`` of memory each, in their order; at least one device.

    The context is the largest that fits, up to the one wished and the one that the model was trained for.
    """
    most = min(wish.n_ctx, facts.n_ctx_train or wish.n_ctx)
    least = min(wish.n_ctx_min or most, most)
    for n_ctx in (most, _largest_that_fits(facts, free_bytes, wish, least, most)):
        items, room = _items(facts, wish, n_ctx), _room(facts, free_bytes, wish, n_ctx)
        if _fits(items, room):
            return Plan(_spread(items, room, free_bytes), n_ctx)
    return TooSmall(
        needs_bytes=sum(items) + len(room) * _beside(facts, wish, least),
        has_bytes=sum(free_bytes),
        missing_bytes=sum(items[_filled(items, room) :]),
        n_ctx=least,
    )


def _largest_that_fits(facts: ModelFacts, free_bytes: Sequence[int], wish: Wish, least: int, most: int) -> int:
    """``least`` if nothing larger does. What a context needs grows with it, so halving the range finds it."""
    steps = range(-(-least // N_CTX_STEP) * N_CTX_STEP, most, N_CTX_STEP)
    n_fit = bisect_left(
        steps,
        True,
        key=lambda n_ctx: not _fits(_items(facts, wish, n_ctx), _room(facts, free_bytes, wish, n_ctx)),
    )
    return steps[n_fit - 1] if n_fit else least


def _items(facts: ModelFacts, wish: Wish, n_ctx: int) -> tuple[int, ...]:
    return facts.items(n_ctx * wish.n_seq_max)


def _beside(facts: ModelFacts, wish: Wish, n_ctx: int) -> int:
    return facts.compute_bytes(n_ctx * wish.n_seq_max, wish.n_batch) + MARGIN_BYTES


def _room(facts: ModelFacts, free_bytes: Sequence[int], wish: Wish, n_ctx: int) -> list[int]:
    beside = _beside(facts, wish, n_ctx)
    return [max(0, free - beside) for free in free_bytes]


def _reach(items: Sequence[int], start: int, room: int) -> int:
    """The end of the longest run from ``start`` that fits ``room``."""
    end = start
    while end < len(items) and items[end] <= room:
        room -= items[end]
        end += 1
    return end


def _filled(items: Sequence[int], room: Sequence[int]) -> int:
    """How many items find a place when each device in turn takes all that it can."""
    end = 0
    for each in room:
        end = _reach(items, end, each)
    return end


def _fits(items: Sequence[int], room: Sequence[int]) -> bool:
    # No other way of cutting the row gets further: a device that takes less leaves more for those behind it.
    return _filled(items, room) == len(items)


def _spread(items: Sequence[int], room: Sequence[int], free_bytes: Sequence[int]) -> tuple[int, ...]:
    """Counts near to the proportions of ``free_bytes``, for items that fit.

    A device ends where its share says, but no earlier than the devices behind it need, and no later than it can hold.
    """
    needed = _needed_ends(items, room)
    counts, start = [], 0
    for index, wanted in enumerate(_proportional_ends(len(items), free_bytes)):
        end = max(min(wanted, _reach(items, start, room[index])), needed[index], start)
        counts.append(end - start)
        start = end
    return tuple(counts)


def _needed_ends(items: Sequence[int], room: Sequence[int]) -> list[int]:
    """For each device the least end for which the rest still fits behind it."""
    mirrored, end, ends = items[::-1], 0, []
    for each in reversed(room):
        ends.append(len(items) - end)
        end = _reach(mirrored, end, each)
    return ends[::-1]


def _proportional_ends(n_items: int, free_bytes: Sequence[int]) -> list[int]:
    """As llama.cpp cuts: item ``i`` goes to the first device whose cumulative share is above ``i / n_items``."""
    total = sum(free_bytes) or 1
    return [min(n_items, -(-n_items * upto // total)) for upto in accumulate(free_bytes)]
