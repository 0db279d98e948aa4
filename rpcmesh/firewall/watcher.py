"""A service's eye on its home's rules: what `rpcmesh firewall keep` saw last becomes a status, an event, a count."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import structlog

from rpcmesh.firewall import watch
from rpcmesh.firewall.watch import FirewallStatus, State

log = structlog.get_logger(__name__)

LOOK_AGAIN_S = 1.0


class Watcher:
    """:meth:`run` until cancelled. ``clock`` gives Unix seconds."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.time) -> None:
        self._home = home
        self._clock = clock
        self._booted_at = psutil.boot_time()
        self._changed = asyncio.Condition()
        self._status = FirewallStatus()

    @property
    def status(self) -> FirewallStatus:
        return self._status

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_AGAIN_S)

    async def look(self) -> FirewallStatus:
        """Read what was seen last, say what is new about it, and wake those who wait."""
        before, self._status = self._status, watch.judge(watch.read(self._home), self._clock(), self._booted_at)
        if before.state is self._status.state is State.VERIFIED and self._status.drifts > before.drifts:
            log.error("firewall_repaired", drifts=self._status.drifts)
        if (before.state, before.reason) != (self._status.state, self._status.reason):
            say = log.error if self._status.state is State.DRIFT else log.info
            say("firewall_" + self._status.state.value, reason=self._status.reason)
            async with self._changed:
                self._changed.notify_all()
        return self._status

    async def until(self, true: Callable[[State], bool]) -> None:
        """Wait until ``true`` of the state."""
        async with self._changed:
            await self._changed.wait_for(lambda: true(self._status.state))
