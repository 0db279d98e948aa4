"""The engine that serves now, and whoever waits for the next one. Starts no engine and ends none."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable

from rpcmesh.engine.client import Engine
from rpcmesh.gateway.backend import ClusterCapacityError


class Seat:
    """At most one engine. Waiting costs no task: every change wakes all who wait, and calls ``on_change``."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._on_change = on_change
        self.engine: Engine | None = None
        self._refusal: str | None = None
        self._changed = asyncio.Event()
        # Who reads an answer slowly learns of its engine's end late: when the one after it may be leaving too.
        self._gave_way: weakref.WeakSet[Engine] = weakref.WeakSet()

    def take(self, engine: Engine) -> None:
        self.engine = engine
        self._refusal = None
        self._wake()

    def leave(self, *, gives_way: bool = False) -> None:
        """``gives_way``: it was well, and ends because it was decided so."""
        if gives_way and self.engine is not None:
            self._gave_way.add(self.engine)
        self.engine = None
        self._on_change()

    def gave_way(self, engine: Engine) -> bool:
        """Whether ``engine`` left by our decision, and not because it was lost."""
        return engine in self._gave_way

    def refuse(self, reason: str) -> None:
        """There will be no engine before the cluster changes: who waits is told so."""
        self._refusal = reason
        self._wake()

    async def after(self, lost: Engine | None, limit_s: float) -> Engine:
        """The engine that comes after ``lost``, or after none.

        Raises :class:`ClusterCapacityError` when there will be none; ``limit_s`` seconds without one count as that.
        """
        try:
            async with asyncio.timeout(limit_s):
                while (engine := self.engine) is None or engine is lost:
                    if self._refusal is not None:
                        raise ClusterCapacityError(self._refusal)
                    await self._changed.wait()
        except TimeoutError:
            raise ClusterCapacityError(f"no engine could be started within {limit_s:.0f} s") from None
        return engine

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_change()
