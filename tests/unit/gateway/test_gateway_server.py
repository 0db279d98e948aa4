"""The listening side: clients that dawdle, addresses that are taken, and the end of it all."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from scripted_gateway import Keys, ScriptedBackend

from rpcmesh.engine.messages import Delta
from rpcmesh.errors import RpcmeshError
from rpcmesh.gateway.answers import read_body
from rpcmesh.gateway.app import make_app
from rpcmesh.gateway.errors import ApiError
from rpcmesh.gateway.server import serving
from rpcmesh.gateway.tls import server_tls


@asynccontextmanager
async def connected(
    port: int, certificate: tuple[Path, Path]
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "])
async def test_headers_that_never_end_end_the_connection(certificate: tuple[Path, Path], sent: bytes) -> None:
    async with (
        serving(web.Application(), server_tls(*certificate), "127.0.0.1", 0, idle_timeout_s=0.1) as port,
        connected(port, certificate) as (reader, writer),
    ):
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), timeout=5) == b""


async def test_a_body_that_never_ends_is_408(certificate: tuple[Path, Path]) -> None:
    statuses: asyncio.Queue[int] = asyncio.Queue()

    async def handle(request: web.Request) -> web.Response:
        with pytest.raises(ApiError) as caught:
            await read_body(request, timeout_s=0.1)
        statuses.put_nowait(caught.value.status)
        return web.Response(status=caught.value.status)

    app = web.Application()
    app.router.add_post("/", handle)
    async with (
        serving(app, server_tls(*certificate), "127.0.0.1", 0) as port,
        connected(port, certificate) as (reader, writer),
    ):
        writer.write(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n{")
        assert await asyncio.wait_for(statuses.get(), timeout=5) == 408
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")


async def test_an_address_in_use_is_one_clear_line(certificate: tuple[Path, Path]) -> None:
    tls = server_tls(*certificate)
    async with serving(web.Application(), tls, "127.0.0.1", 0) as port:
        with pytest.raises(RpcmeshError, match=f"port {port}: it is in use"):
            async with serving(web.Application(), tls, "127.0.0.1", port):
                pass


async def test_stopping_ends_open_answers_without_claiming_that_they_are_done(certificate: tuple[Path, Path]) -> None:
    backend, keys = ScriptedBackend(), Keys()
    backend.script = (Delta(id="", text="Par", token_ids=(1,)), asyncio.Event())
    body = {"model": "tiny", "prompt": "hi", "stream": True}
    headers = {"x-api-key": keys.add()}
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session:
        async with serving(
            make_app(backend, keys), server_tls(*certificate), "127.0.0.1", 0, shutdown_timeout_s=0.1
        ) as port:
            response = await session.post(f"https://127.0.0.1:{port}/v1/completions", json=body, headers=headers)
            first = await response.content.readline()
        assert b"Par" in first
        assert backend.closed.is_set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
