"""The admin API on the coordinator's own Unix socket, and its client. File permissions are its only lock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web

from rpcmesh.coordinator.report import StatusReport
from rpcmesh.errors import RpcmeshError
from rpcmesh.observe import error_log

SOCKET_NAME = "admin"


class Refused(msgspec.Struct, frozen=True):
    """The body of every answer that is not 200."""

    message: str
    hint: str | None


@dataclass(frozen=True)
class Verbs:
    """What the coordinator does when it is asked. All raise :class:`RpcmeshError`, for a name that is unknown for one.

    ``drain`` and ``load`` take whether to do it although an answer would be lost by it.
    """

    status: Callable[[], Awaitable[StatusReport]]
    revoke: Callable[[str], Awaitable[None]]
    drain: Callable[[str, bool], None]
    resume: Callable[[str], None]
    load: Callable[[str, bool], None]
    errors: Callable[[str, int | None, int], Awaitable[error_log.Page]]


def make_app(verbs: Verbs) -> web.Application:
    async def get_status(_: web.Request) -> web.Response:
        return _json(await verbs.status())

    async def post_revoke(request: web.Request) -> web.Response:
        await verbs.revoke(request.match_info["name"])
        return _json({})

    async def post_drain(request: web.Request) -> web.Response:
        verbs.drain(request.match_info["name"], "force" in request.query)
        return _json({})

    async def post_resume(request: web.Request) -> web.Response:
        verbs.resume(request.match_info["name"])
        return _json({})

    async def post_load(request: web.Request) -> web.Response:
        verbs.load(request.match_info["name"], "force" in request.query)
        return _json({})

    async def get_errors(request: web.Request) -> web.Response:
        return _json(await verbs.errors(request.match_info["name"], *error_log.parse_query(request.query)))

    app = web.Application(middlewares=[_errors])
    app.router.add_get("/status", get_status)
    app.router.add_post("/nodes/{name}/revoke", post_revoke)
    app.router.add_post("/nodes/{name}/drain", post_drain)
    app.router.add_post("/nodes/{name}/resume", post_resume)
    app.router.add_post("/models/{name}/load", post_load)
    app.router.add_get("/nodes/{name}/errors", get_errors)
    return app


def _json(document: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), content_type="application/json")


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except RpcmeshError as error:
        body = msgspec.json.encode(Refused(message=error.message, hint=error.hint))
        return web.Response(status=409, body=body, content_type="application/json")


class AdminClient:
    """What the CLI says to a running coordinator. Every method raises :class:`RpcmeshError` when none is running."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def status(self) -> StatusReport:
        return msgspec.json.decode(await self._call("GET", "/status"), type=StatusReport)

    async def revoke(self, node: str) -> None:
        await self._call("POST", f"/nodes/{node}/revoke")

    async def drain(self, node: str, *, force: bool = False) -> None:
        """Returns at once; its state in the status is ``drained`` when it may be switched off."""
        await self._call("POST", f"/nodes/{node}/drain{_forced(force)}")

    async def resume(self, node: str) -> None:
        await self._call("POST", f"/nodes/{node}/resume")

    async def load(self, model: str, *, force: bool = False) -> None:
        """Returns at once; the status says when the model is ready."""
        await self._call("POST", f"/models/{model}/load{_forced(force)}")

    async def errors(self, node: str, after: int | None, last: int) -> error_log.Page:
        """A page of ``node``'s error log."""
        page = await self._call("GET", f"/nodes/{node}/errors?{error_log.query(after, last)}")
        return msgspec.json.decode(page, type=error_log.Page)

    async def _call(self, method: str, path: str) -> bytes:
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(self._socket))) as session,
                session.request(
                    method, f"http://coordinator{path}", timeout=aiohttp.ClientTimeout(total=10)
                ) as response,
            ):
                body = await response.read()
                if response.status != 200:
                    refused = msgspec.json.decode(body, type=Refused)
                    raise RpcmeshError(refused.message, hint=refused.hint)
                return body
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            raise NotRunningError(self._socket) from error


def _forced(force: bool) -> str:
    return "?force" if force else ""


class NotRunningError(RpcmeshError):
    """No coordinator answers on this home's socket."""

    def __init__(self, socket: Path) -> None:
        super().__init__(f"no coordinator answers on {str(socket)!r}", hint="rpcmesh serve")
