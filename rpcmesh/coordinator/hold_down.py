"""How long a node that is lost again and again is held out. Pure: it is told when that was, in seconds, oldest first.

The first loss costs a node nothing: most are a crash or a restart, and it is back within a second. From the second on
each costs twice the one before, until it has not been lost for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rpcmesh.words import span

FIRST_HOLD_S = 5.0
# Without a loss for so long, those before count no more. No hold may be longer, or it would end the memory of itself.
QUIET_S = 600.0
# More than enough to reach the longest hold.
LOSSES_KEPT = 16


def add(losses: tuple[float, ...], at: float) -> tuple[float, ...]:
    """With one more, at ``at``; what counts no more is left out."""
    return run((*losses, at))[-LOSSES_KEPT:]


def run(losses: tuple[float, ...]) -> tuple[float, ...]:
    """The last of them that followed each other without a quiet time in between."""
    start = 0
    for index, (earlier, later) in enumerate(pairwise(losses), 1):
        if later - earlier >= QUIET_S:
            start = index
    return losses[start:]


def hold_s(losses: Sequence[float], max_s: float) -> float:
    """How long the last of them keeps the node out, ``max_s`` at most."""
    doublings = len(losses) - 2
    return 0.0 if doublings < 0 else min(max_s, FIRST_HOLD_S * 2.0**doublings)


def left_s(losses: Sequence[float], now: float, max_s: float) -> float:
    """For how much longer than ``now`` the node is held out; 0 when it is not."""
    return max(0.0, losses[-1] + hold_s(losses, max_s) - now) if losses else 0.0


def said(losses: Sequence[float], now: float, max_s: float) -> str:
    """``held out 12 s more: lost 3 times in 2 min``; empty for a node that is not held out."""
    left = left_s(losses, now, max_s)
    return f"held out {left:.0f} s more: lost {len(losses)} times in {span(now - losses[0])}" if left else ""
