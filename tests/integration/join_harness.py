"""A coordinator's join side on a real HTTPS port, and a node that asks it."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web

from rpcmesh.coordinator.join import join_routes
from rpcmesh.coordinator.records import Action, Member
from rpcmesh.coordinator.store import Store
from rpcmesh.errors import RpcmeshError
from rpcmesh.gateway.server import serving
from rpcmesh.gateway.tls import server_tls
from rpcmesh.node.joining import JoinResult, join
from rpcmesh.paths import Home
from rpcmesh.pki import gateway_certificate, join_string, messages, signing_request, tokens
from rpcmesh.pki.authority import Authority
from rpcmesh.pki.join_string import JoinString
from rpcmesh.pki.messages import JoinRequest

BUILD = "abc123"
ADDRESS = "127.0.0.1:7443"


@dataclass
class Coordinator:
    """The join side of a coordinator, on a real port. ``ahead_s`` sets its clock forward."""

    home: Home
    authority: Authority
    store: Store
    port: int = 0
    ahead_s: float = 0.0
    joined: list[Member] = field(default_factory=list)

    def clock(self) -> float:
        return time.time() + self.ahead_s

    def invite(self, node: str | None = "node-1", host: str = "127.0.0.1") -> JoinString:
        secret, token = tokens.mint(time.time(), node)
        self.store.add_token(token, "admin", time.time())
        return JoinString(f"{host}:{self.port}", self.authority.spki_pin, token.id, secret, node)

    def refusals(self) -> list[str]:
        return [entry.detail["reason"] for entry in self.store.audit() if entry.action is Action.JOIN_REFUSED]


@contextlib.asynccontextmanager
async def coordinating(
    root: Path, *, hosts: tuple[str, ...] = ("127.0.0.1",), open_store: Callable[[Path], Store] = Store
) -> AsyncIterator[Coordinator]:
    home = Home(root).ensure()
    authority = Authority.create(home.authority, "m", time.time())
    gateway_certificate.ensure(home.gateway, authority, hosts, time.time())
    with open_store(home.database) as store:
        store.found_mesh("m", "admin", time.time())
        coordinator = Coordinator(home, authority, store)
        app = web.Application()
        app.add_routes(join_routes(store, authority, BUILD, coordinator.clock, coordinator.joined.append))
        tls = server_tls(home.gateway / "cert.pem", home.gateway / "key.pem")
        async with serving(app, tls, "127.0.0.1", 0) as coordinator.port:
            yield coordinator


async def join_with(
    home: Home, invitation: JoinString, *, build: str = BUILD, address: str = ADDRESS, name: str | None = None
) -> JoinResult:
    return await join(home, join_string.encode(invitation), address, build, time.time(), node=name)


async def post(coordinator: Coordinator, body: bytes) -> tuple[int, bytes, aiohttp.typedefs.LooseHeaders]:
    """What a stranger with his own client gets."""
    trust = ssl.create_default_context(cadata=coordinator.authority.ca_pem.decode())
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"https://127.0.0.1:{coordinator.port}/join", data=body, ssl=trust) as response,
    ):
        return response.status, await response.read(), response.headers


def request_for(invitation: JoinString, csr: bytes | None = None) -> JoinRequest:
    """A request that is genuine but for the signing request, if one is given."""
    csr = csr or signing_request.new_key_and_csr()[1]
    name = invitation.node or "node-1"
    plain = JoinRequest(invitation.token_id, name, ADDRESS, BUILD, "Linux", csr, mac=b"")
    key = tokens.mac_key(invitation.token_id, invitation.secret)
    return msgspec.structs.replace(plain, mac=messages.mac_of(plain, key))


async def refused(joining: Awaitable[JoinResult]) -> RpcmeshError:
    with pytest.raises(RpcmeshError) as caught:
        await joining
    return caught.value
