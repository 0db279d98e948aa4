"""A node that is answered by nobody, by the wrong one, or by a liar: it sends no secret and writes nothing."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from join_harness import Coordinator, coordinating, join_with, post, refused

from rpcmesh.errors import PeerError
from rpcmesh.gateway.server import serving
from rpcmesh.gateway.tls import server_tls
from rpcmesh.paths import Home
from rpcmesh.pki import certificate, gateway_certificate, signing_request
from rpcmesh.pki.authority import Authority
from rpcmesh.pki.messages import JoinRequest


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[Coordinator]:
    async with coordinating(tmp_path / "coordinator") as running:
        yield running


@pytest.fixture
def node(tmp_path: Path) -> Home:
    return Home(tmp_path / "node")


async def test_nobody_there(coordinator: Coordinator, node: Home, free_port: int) -> None:
    invitation = msgspec.structs.replace(coordinator.invite(), address=f"127.0.0.1:{free_port}")
    error = await refused(join_with(node, invitation))
    assert error.message.startswith(f"cannot reach the coordinator at '127.0.0.1:{free_port}': ")
    assert "rpcmesh serve" in (error.hint or "")


async def test_a_host_name_that_the_certificate_lacks(coordinator: Coordinator, node: Home) -> None:
    error = await refused(join_with(node, coordinator.invite(host="localhost")))
    assert isinstance(error, PeerError)
    assert error.message == f"the coordinator's certificate is not for 'localhost:{coordinator.port}'"
    assert "[coordinator] names" in (error.hint or "")
    assert coordinator.refusals() == []


async def test_a_host_name_that_it_has(tmp_path: Path, node: Home) -> None:
    async with coordinating(tmp_path / "named", hosts=("localhost",)) as named:
        assert (await join_with(node, named.invite(host="localhost"))).mesh == "m"


async def test_a_relay_that_passes_the_ca_on_but_holds_another_key(
    coordinator: Coordinator, node: Home, tmp_path: Path
) -> None:
    """The CA is public: a liar can serve it, and the pin then fits. The second connection must find him out."""
    got: list[bytes] = []

    async def ca(_: web.Request) -> web.Response:
        return web.Response(body=coordinator.authority.ca_pem)

    async def steal(request: web.Request) -> web.Response:
        got.append(await request.read())
        return web.Response(status=403)

    liar = Authority.create(tmp_path / "liar", "m", time.time())
    gateway_certificate.ensure(tmp_path / "liars-gateway", liar, ("127.0.0.1",), time.time())
    tls = server_tls(tmp_path / "liars-gateway" / "cert.pem", tmp_path / "liars-gateway" / "key.pem")
    app = web.Application()
    app.add_routes([web.get("/join/ca", ca), web.post("/join", steal)])
    async with serving(app, tls, "127.0.0.1", 0) as port:
        invitation = msgspec.structs.replace(coordinator.invite(), address=f"127.0.0.1:{port}")
        error = await refused(join_with(node, invitation))
    assert isinstance(error, PeerError)
    assert "is not this mesh's" in error.message
    assert got == []


async def test_a_member_cannot_pass_for_the_coordinator(coordinator: Coordinator, node: Home, tmp_path: Path) -> None:
    """A node's leaf is of the right authority and good as a server's, but it names no host."""
    await join_with(node, coordinator.invite())

    async def ca(_: web.Request) -> web.Response:
        return web.Response(body=coordinator.authority.ca_pem)

    app = web.Application()
    app.add_routes([web.get("/join/ca", ca)])
    tls = server_tls(node.identity / "cert.pem", node.identity / "key.pem")
    async with serving(app, tls, "127.0.0.1", 0) as port:
        invitation = msgspec.structs.replace(coordinator.invite("node-2"), address=f"127.0.0.1:{port}")
        error = await refused(join_with(Home(tmp_path / "second"), invitation))
    assert isinstance(error, PeerError)
    assert "certificate is not for" in error.message


async def test_neither_key_nor_secret_travels(coordinator: Coordinator, node: Home) -> None:
    received: list[bytes] = []

    async def ca(_: web.Request) -> web.Response:
        return web.Response(body=coordinator.authority.ca_pem)

    async def listen_in(request: web.Request) -> web.Response:
        received.append(await request.read())
        status, body, _ = await post(coordinator, received[0])
        return web.Response(status=status, body=body)

    app = web.Application()
    app.add_routes([web.get("/join/ca", ca), web.post("/join", listen_in)])
    tls = server_tls(coordinator.home.gateway / "cert.pem", coordinator.home.gateway / "key.pem")
    invitation = coordinator.invite()
    async with serving(app, tls, "127.0.0.1", 0) as port:
        await join_with(node, msgspec.structs.replace(invitation, address=f"127.0.0.1:{port}"))
    [body] = received
    key = certificate.parse_key((node.identity / "key.pem").read_bytes(), "key")
    request = msgspec.json.decode(body, type=JoinRequest)
    assert signing_request.checked_public_key(request.csr) == key.public_key()
    for secret in (key.private_numbers().private_value.to_bytes(32, "big"), invitation.secret):
        assert secret not in msgspec.msgpack.encode(request)
        assert secret.hex().encode() not in body
        assert base64.b64encode(secret)[:40] not in body
