"""The guest worker: a second RPC server, for a stock client that came through ``rpcmesh connect``.

A worker serves one client at a time, and the engine holds its own as long as a model is loaded. So a guest gets a
worker of its own, which lives while somebody keeps asking for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from rpcmesh.supervise.supervisor import Service, Supervisor

# How long one request for it lasts; `rpcmesh connect` repeats it well within this time.
WANTED_S = 15.0


class Guest:
    """:meth:`run` starts and stops the worker as :meth:`want` was called or not.

    ``wanted_s`` is longer than a worker takes to end, so that who asks meanwhile still waits for the next one.
    """

    def __init__(
        self,
        service: Service,
        wanted_s: float = WANTED_S,
        supervise: Callable[[Service], Supervisor] = Supervisor,
    ) -> None:
        self._service = service
        self._supervise = supervise
        self._wanted_s = wanted_s
        self._until = 0.0
        self._changed = asyncio.Condition()
        self.supervisor: Supervisor | None = None

    async def want(self) -> None:
        """Keep the worker for ``wanted_s`` more; returns once it is ready."""
        self._until = time.monotonic() + self._wanted_s
        async with self._changed:
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self.supervisor is not None)
        assert self.supervisor is not None  # noqa: S101 (just waited for)
        await self.supervisor.until_ready()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: time.monotonic() < self._until)
                self.supervisor = self._supervise(self._service)
                self._changed.notify_all()
            async with asyncio.TaskGroup() as group:
                running = group.create_task(self.supervisor.run())
                while (left_s := self._until - time.monotonic()) > 0 and not running.done():
                    await asyncio.wait({running}, timeout=left_s)
                # Whoever asks while this one ends waits for the next.
                self.supervisor = None
                running.cancel()
