"""A gateway on a real HTTPS port of loopback, before a backend that plays a script."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from scripted_gateway import NOW, Gateway, Keys, ScriptedBackend, self_signed

from rpcmesh.gateway.admission import Limits
from rpcmesh.gateway.app import make_app
from rpcmesh.gateway.request_queue import RequestQueue
from rpcmesh.gateway.server import serving
from rpcmesh.gateway.tls import server_tls


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


async def _leaky(_request: web.Request) -> web.Response:
    raise ValueError("password=hunter2")


async def _halfway(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"half an ans")
    raise ValueError("password=hunter2")


async def _joined(_request: web.Request) -> web.Response:
    return web.json_response({"joined": True})


@pytest.fixture
async def gateway(certificate: tuple[Path, Path]) -> AsyncIterator[Gateway]:
    backend, keys = ScriptedBackend(), Keys()
    secret = keys.add()
    extra = (web.get("/leaky", _leaky), web.get("/halfway", _halfway), web.post("/join", _joined))
    queue = RequestQueue(backend, Limits(waiting_max=1))
    app = make_app(backend, keys, queue=queue, extra_routes=extra, now=lambda: NOW)
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    async with (
        serving(app, server_tls(*certificate), "127.0.0.1", 0) as port,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session,
    ):
        yield Gateway(f"https://127.0.0.1:{port}", port, session, trust, backend, queue, keys, secret)
