"""An engine that is up and has no model: the next load need not wait for a process to start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from rpcmesh.engine.client import Engine, EngineLost

log = structlog.get_logger(__name__)


class Standby:
    """Keeps at most one engine ready. ``start`` starts one. Every engine that is taken is its taker's to close."""

    def __init__(self, start: Callable[[], Awaitable[Engine]]) -> None:
        self._start = start
        self._ready: Engine | None = None

    async def prepare(self, after_s: float) -> None:
        """Have one ready, ``after_s`` seconds from now: just after a load, open answers need this machine more.

        That it cannot be had now is no failure: the load that needs it will try for itself.
        """
        await asyncio.sleep(after_s)
        if self._ready is not None and self._ready.alive:
            return
        await self.close()
        try:
            self._ready = await self._start()
        except EngineLost as lost:
            log.warning("standby_engine_lost", reason=lost.message)

    async def take(self) -> Engine:
        """The one that is ready, else a new one. Raises :class:`EngineLost` when none can be started."""
        ready, self._ready = self._ready, None
        if ready is None:
            return await self._start()
        if ready.alive:
            return ready
        await ready.close()
        return await self._start()

    async def close(self) -> None:
        if self._ready is not None:
            ready, self._ready = self._ready, None
            await ready.close()
