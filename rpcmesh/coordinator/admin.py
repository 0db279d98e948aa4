"""The admin API on the coordinator's own Unix socket, and its client. File permissions are its only lock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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


def make_app(
    status: Callable[[], Awaitable[StatusReport]],
    revoke: Callable[[str], Awaitable[None]],
    errors: Callable[[str, int | None, int], Awaitable[error_log.Page]],
) -> web.Application:
    """``revoke`` cuts a node off, ``errors`` asks it for a page of its error log.

    Both raise :class:`RpcmeshError` for one that is not a member.
    """

    async def get_status(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(await status()), content_type="application/json")

    async def post_revoke(request: web.Request) -> web.Response:
        await revoke(request.match_info["name"])
        return web.Response(body=b"{}", content_type="application/json")

    async def get_errors(request: web.Request) -> web.Response:
        page = await errors(request.match_info["name"], *error_log.parse_query(request.query))
        return web.Response(body=msgspec.json.encode(page), content_type="application/json")

    app = web.Application(middlewares=[_errors])
    app.router.add_get("/status", get_status)
    app.router.add_post("/nodes/{name}/revoke", post_revoke)
    app.router.add_get("/nodes/{name}/errors", get_errors)
    return app


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


class NotRunningError(RpcmeshError):
    """No coordinator answers on this home's socket."""

    def __init__(self, socket: Path) -> None:
        super().__init__(f"no coordinator answers on {str(socket)!r}", hint="rpcmesh serve")
