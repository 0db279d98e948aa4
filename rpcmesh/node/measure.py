"""What the coordinator may measure of this node: its clock, and the link to it by streams of zeros, one at a time.

A stream is bounded in length and in time, and passes in pieces: neither side holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Annotated

import msgspec
from aiohttp import web

from rpcmesh.errors import PeerError

MAX_BYTES = 64 << 20
LIMIT_S = 5.0
_PIECE = bytes(1 << 18)


class ClockReading(msgspec.Struct, frozen=True):
    """The answer of ``GET /clock``, in Unix seconds."""

    now: Annotated[float, msgspec.Meta(ge=0, le=1e11)]


class Received(msgspec.Struct, frozen=True):
    """The answer of ``PUT /measure``."""

    bytes: int


class Measurements:
    """The routes ``GET /clock``, ``GET /measure?bytes=N`` and ``PUT /measure``."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._busy = False

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/clock", self._clock),
            web.get("/measure", self._send),
            web.put("/measure", self._receive),
        ]

    async def _clock(self, _: web.Request) -> web.Response:
        return _json(ClockReading(now=time.time()))

    async def _send(self, request: web.Request) -> web.StreamResponse:
        wanted = _count(request.query.get("bytes", ""))
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.content_length = wanted
        with self._alone():
            try:
                async with asyncio.timeout(self._limit_s):
                    await response.prepare(request)
                    for start in range(0, wanted, len(_PIECE)):
                        await response.write(_PIECE[: wanted - start])
            except TimeoutError:
                # The status line is long gone: what is left to say is the end of the connection.
                response.force_close()
                if request.transport is not None:
                    request.transport.abort()
        return response

    async def _receive(self, request: web.Request) -> web.Response:
        received = 0
        with self._alone():
            try:
                async with asyncio.timeout(self._limit_s):
                    async for piece in request.content.iter_any():
                        received += len(piece)
                        if received > MAX_BYTES:
                            raise web.HTTPRequestEntityTooLarge(MAX_BYTES, received)
            except TimeoutError:
                raise web.HTTPRequestTimeout(text=f"only {received} bytes came within {self._limit_s:g} s") from None
        return _json(Received(bytes=received))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if self._busy:
            raise PeerError("another measurement is under way")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12 and 1 <= int(text) <= MAX_BYTES):
        raise web.HTTPBadRequest(text=f"{text[:20]!r} is not a number of bytes from 1 to {MAX_BYTES}")
    return int(text)


def _json(answer: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json")
