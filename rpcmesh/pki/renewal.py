"""When a leaf is to be renewed. No clock and no dice: time is passed in, jitter comes from the leaf."""

from __future__ import annotations

# Around half life: early enough for days of retries, late enough not to sign needlessly.
JITTER = 0.1


def due_at(not_before: float, not_after: float, jitter01: float) -> float:
    """When to renew, in Unix seconds: at half life, ±10 % of that half as ``jitter01`` goes from 0 to 1.

    The jitter keeps nodes that joined together from all renewing in the same second for ever.
    """
    half_life_s = (not_after - not_before) / 2
    return not_before + half_life_s * (1 - JITTER + 2 * JITTER * jitter01)


def is_due(not_before: float, not_after: float, jitter01: float, now: float) -> bool:
    return now >= due_at(not_before, not_after, jitter01)


def jitter_of(serial: str) -> float:
    """A number in [0, 1) that belongs to one leaf, from its random serial (hex).

    Fresh dice at every check would not do: whoever asks every minute would soon draw the earliest moment.
    """
    return (int(serial, 16) % 2**32) / 2**32
