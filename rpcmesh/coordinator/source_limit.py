"""How many requests one source address may make. No clock here: the time is passed in."""

from __future__ import annotations

import ipaddress


class SourceLimit:
    """At most ``limit`` requests in ``window_s`` seconds from one source, and at most ``sources`` sources at a time.

    Secrets of 256 bits need no protection from guessing; the disk does, from the audit entries of refused requests.
    """

    def __init__(self, limit: int = 30, window_s: float = 60.0, sources: int = 1024) -> None:
        self._limit = limit
        self._window_s = window_s
        self._sources = sources
        self._windows: dict[str, tuple[float, int]] = {}  # source → when its window began, requests in it

    def retry_after_s(self, address: str, now: float) -> float | None:
        """Count one request from ``address``: None if it may go on, else the seconds until one may."""
        source = _source(address)
        began, count = self._windows.get(source, (now, 0))
        if not 0 <= now - began < self._window_s:
            began, count = now, 0
        if count >= self._limit:
            return began + self._window_s - now
        if source not in self._windows and not self._has_room(now):
            return self._window_s
        self._windows[source] = (began, count + 1)
        return None

    def _has_room(self, now: float) -> bool:
        if len(self._windows) >= self._sources:
            self._windows = {
                source: (began, count)
                for source, (began, count) in self._windows.items()
                if 0 <= now - began < self._window_s
            }
        return len(self._windows) < self._sources


def _source(address: str) -> str:
    """An IPv6 customer holds a whole /64, so that is one source."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.IPv6Network((int(parsed), 64), strict=False))
