"""Liveness and readiness, for anybody: so nothing here names a node, a model, a version or an error."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aiohttp import hdrs, web

from rpcmesh.gateway.errors import RETRY_AFTER_S
from rpcmesh.gateway.request_queue import RequestQueue

_WORD = re.compile(r"[a-z][a-z_]{0,39}", re.ASCII)


def coarse(reason: str) -> str:
    """``reason`` if it is the one snake_case word that :class:`Backend` promises, else ``unavailable``."""
    return reason if _WORD.fullmatch(reason) else "unavailable"


async def health(_request: web.Request) -> web.Response:
    """The process is up. Says nothing about any model."""
    return web.json_response({"status": "ok"})


@dataclass(frozen=True)
class Readiness:
    """Whether a completion would be answered now."""

    queue: RequestQueue

    async def readyz(self, _request: web.Request) -> web.Response:
        reason = self.queue.not_ready_reason()
        if reason is None:
            return web.json_response({"status": "ready"})
        body = {"status": "not_ready", "reason": coarse(reason)}
        return web.json_response(body, status=503, headers={hdrs.RETRY_AFTER: str(RETRY_AFTER_S)})
