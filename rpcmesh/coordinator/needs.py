"""What models need, read from their files once each. Says nothing of where they go."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from rpcmesh.errors import RpcmeshError
from rpcmesh.plan import facts
from rpcmesh.plan.facts import ModelFacts

log = structlog.get_logger(__name__)


class Needs:
    """``latest`` are the facts of the model that was asked for last."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int], ModelFacts | None] = {}
        self.latest: ModelFacts | None = None

    async def of(self, path: Path) -> ModelFacts | None:
        """None where they cannot be told. A file that cannot be read is one of those: its load will say why."""
        try:
            key = (path, path.stat().st_mtime_ns)
            if key not in self._known:
                self._known[key] = await asyncio.to_thread(facts.read, path)
            self.latest = self._known[key]
        except (RpcmeshError, OSError) as error:
            log.debug("model_needs_unknown", reason=str(error))
            self.latest = None
        return self.latest
