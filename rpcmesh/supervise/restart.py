"""Every restart decision is made here. Nothing here starts a process, reads a clock or throws dice."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

# The first restart comes at once, so that a single crash costs less than a second.
FIRST_DELAY_S = 0.05
BASE_DELAY_S = 0.2
MAX_DELAY_S = 30.0
# More than enough to reach it, and no more than a float can hold.
MAX_DOUBLINGS = 20
# A process that ran this long was healthy: what came before it counts no longer.
HEALTHY_S = 60.0
# So many ends within such a time are a crash loop.
LOOP_EXITS = 8
LOOP_WINDOW_S = 120.0


class Restart(msgspec.Struct, frozen=True):
    """Start again after ``delay_s``."""

    delay_s: float


class End(msgspec.Struct, frozen=True):
    """When a process ended (seconds), and whether we brought that about because of what somebody had it do."""

    at_s: float
    ours: bool = False


class GiveUp(msgspec.Struct, frozen=True):
    """Start no more; ``reason`` is for people."""

    reason: str


def after(ends: Sequence[End], now: float, chance: float) -> Restart | GiveUp:
    """What follows the last of ``ends``, oldest first.

    An end of ours says nothing about the process: it is started again at once, however often that happens, or a client
    could have a node give up its worker. Nor does it stand between two failures or count as one. Each costs its client
    a session and at least the time after which a worker is called stuck, so they cannot come in a hot loop.
    """
    if ends and ends[-1].ours:
        return Restart(FIRST_DELAY_S)
    return decide([end.at_s for end in ends if not end.ours], now, chance)


def decide(exits: Sequence[float], now: float, chance: float) -> Restart | GiveUp:
    """What follows the last of ``exits``, the times (seconds, oldest first) at which the process ended.

    ``chance`` in [0, 1) spreads the delay over its upper half, so that many supervisors do not start in step.
    """
    recent = [at for at in exits if now - at < LOOP_WINDOW_S]
    if len(recent) >= LOOP_EXITS:
        return GiveUp(f"it ended {len(recent)} times within {LOOP_WINDOW_S:.0f} s")
    failures = _run_of_failures(exits)
    if failures <= 1:
        return Restart(FIRST_DELAY_S)
    ceiling = min(MAX_DELAY_S, BASE_DELAY_S * 2 ** min(failures - 2, MAX_DOUBLINGS))
    return Restart(ceiling * (0.5 + chance / 2))


def _run_of_failures(exits: Sequence[float]) -> int:
    """How many of the last exits followed each other without a healthy run in between."""
    count = min(1, len(exits))
    for earlier, later in zip(reversed(exits[:-1]), reversed(exits), strict=False):
        if later - earlier >= HEALTHY_S:
            break
        count += 1
    return count
