"""Sizes and spans of time, as people read them."""

from __future__ import annotations


def span(seconds: float) -> str:
    """``90`` → ``1 min``: one unit, rounded down."""
    for size_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if abs(seconds) >= size_s:
            return f"{int(seconds / size_s)} {unit}"
    return f"{int(seconds)} s"


def size(size_bytes: int) -> str:
    """``98362432`` → ``94 MiB``; from 10 GiB on in GiB, below 1 MiB in KiB."""
    if size_bytes >= 10 * 2**30:
        return f"{size_bytes / 2**30:.1f} GiB"
    return f"{size_bytes / 2**20:.0f} MiB" if size_bytes >= 2**20 else f"{size_bytes / 2**10:.0f} KiB"
