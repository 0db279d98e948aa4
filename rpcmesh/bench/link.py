"""Both tunnels and nothing else: bytes a second through them, and what they add to a round trip."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import msgspec

from rpcmesh.bench import mirror, rounds
from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import Build
from rpcmesh.paths import Home
from rpcmesh.pki import identity, names, signing_request
from rpcmesh.pki.authority import Authority
from rpcmesh.pki.certificate import key_pem
from rpcmesh.pki.revocation import Revocations
from rpcmesh.supervise import child
from rpcmesh.tunnel import command, routes
from rpcmesh.tunnel import status as tunnel_status

START_LIMIT_S = 20.0
MESH = "bench"
NODE = "node-1"
PING_BYTES = 64
BULK_BYTES = 512 * 2**20
GB = 1e9


class RoundTrip(msgspec.Struct, frozen=True):
    """Microseconds of a 64-byte ping, over all rounds; ``added`` is through both tunnels less the direct socket."""

    direct_p50_us: float
    direct_p99_us: float
    tunnel_p50_us: float
    tunnel_p99_us: float
    added_p50_us: float
    added_p99_us: float


class Link(msgspec.Struct, frozen=True):
    """``direct`` leads to the mirror, ``through`` to the same by way of egress, TLS and ingress."""

    direct: Path
    through: Path


class Way(msgspec.Struct, frozen=True):
    """One route of both tunnels: what asks for ``alpn`` is connected to ``socket``."""

    alpn: str
    socket: Path


@contextlib.asynccontextmanager
async def running(home: Home, build: Build) -> AsyncIterator[Link]:
    """Two tunnels, and the mirror behind them."""
    direct = home.ensure().socket("mirror")
    argv = (sys.executable, "-I", mirror.__file__, str(direct))
    async with child.running("mirror", argv, env={}, on_line=lambda _: None):
        await until_socket(direct)
        async with tunnels(home, build, {"through": Way(routes.AGENT_ALPN, direct)}) as before:
            yield Link(direct=direct, through=before["through"])


@contextlib.asynccontextmanager
async def tunnels(home: Home, build: Build, ways: Mapping[str, Way]) -> AsyncIterator[dict[str, Path]]:
    """Both tunnels, with identities of their own. Yields the sockets before them, named as the ``ways`` are."""
    now = time.time()
    authority = Authority.create(home.ensure().authority, MESH, now)
    revoked = authority.sign_revocations(Revocations(number=1, updated_at=now - 300))
    ends = {"ingress": names.node_uri(MESH, NODE), "egress": names.coordinator_uri(MESH)}
    for end, uri in ends.items():
        key = signing_request.new_key()
        leaf = authority.sign_csr(signing_request.csr_for(key), uri, now)
        identity.install(home.root / end, key_pem(key), leaf.pem, authority.ca_pem, revoked)
    inward = [routes.IngressRoute(way.alpn, way.socket, ends["egress"]) for way in ways.values()]
    routes.write_ingress(home.run / "ingress.routes", inward)
    async with contextlib.AsyncExitStack() as stack:

        async def start(name: str, argv: tuple[str, ...]) -> None:
            await stack.enter_async_context(child.running(name, argv, env={}, on_line=lambda _: None))
            await until_socket(home.socket(name))

        argv = command.ingress(
            build.tunnel,
            listen="127.0.0.1:0",
            identity=home.root / "ingress",
            routes=home.run / "ingress.routes",
            status=home.socket("ingress"),
        )
        await start("ingress", argv)
        listen = (await tunnel_status.fetch(home.socket("ingress"))).listen
        before = {name: home.socket(name) for name in ways}
        outward = [routes.EgressRoute(before[name], listen, way.alpn, ends["ingress"]) for name, way in ways.items()]
        routes.write_egress(home.run / "egress.routes", outward)
        common = {"identity": home.root / "egress", "routes": home.run / "egress.routes"}
        await start("egress", command.egress(build.tunnel, status=home.socket("egress"), **common))
        yield before


async def round_trip(link: Link, *, pings: int, repeats: int) -> RoundTrip:
    """Pings turn about, ``pings`` each time."""
    taken: dict[Path, list[float]] = {link.direct: [], link.through: []}
    for number in range(repeats + 1):
        for path in (link.direct, link.through) if number % 2 else (link.through, link.direct):
            measured = await asyncio.to_thread(_ping, path, pings)
            if number:
                taken[path] += measured
    direct, through = (statistics.quantiles(taken[path], n=100) for path in (link.direct, link.through))
    return RoundTrip(
        direct_p50_us=direct[49],
        direct_p99_us=direct[98],
        tunnel_p50_us=through[49],
        tunnel_p99_us=through[98],
        added_p50_us=through[49] - direct[49],
        added_p99_us=through[98] - direct[98],
    )


async def bulk(link: Link, *, repeats: int) -> rounds.Comparison | None:
    """GB/s of one connection beside what one core encrypts; None where there is no openssl command to ask."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return None

    async def ours() -> float:
        return await asyncio.to_thread(_push, link.through)

    async def rival() -> float:
        return await asyncio.to_thread(_encrypt, openssl)

    pairs = await rounds.alternate(ours, rival, repeats)
    return rounds.compare("bulk, 1 connection", "GB/s", "openssl speed, AES-128-GCM, 1 core", pairs)


def _ping(path: Path, pings: int) -> list[float]:
    taken = []
    message = os.urandom(PING_BYTES)
    with _connected(path, mirror.ECHO) as client:
        for _ in range(pings):
            began = time.perf_counter_ns()
            client.sendall(message)
            received = 0
            while received < PING_BYTES:
                if not (echoed := client.recv(PING_BYTES - received)):
                    raise RpcmeshError(f"{str(path)!r} hung up in the middle of a ping")
                received += len(echoed)
            taken.append((time.perf_counter_ns() - began) / 1000)
    return taken


def _push(path: Path) -> float:
    piece = os.urandom(mirror.CHUNK)
    with _connected(path, mirror.COUNT) as client:
        began = time.perf_counter()
        for _ in range(BULK_BYTES // len(piece)):
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)
        counted = int.from_bytes(client.recv(8), "little")
        taken_s = time.perf_counter() - began
    if counted != BULK_BYTES:
        raise RpcmeshError(f"{counted} of {BULK_BYTES} bytes arrived")
    return BULK_BYTES / taken_s / GB


@contextlib.contextmanager
def _connected(path: Path, mode: bytes) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(mode)
        yield client


def _encrypt(openssl: str) -> float:
    command_line = [openssl, "speed", "-elapsed", "-seconds", "1", "-bytes", "16384", "-evp", "aes-128-gcm"]
    said = subprocess.run(command_line, capture_output=True, text=True, check=True).stdout
    kilobytes = re.search(r"^AES-128-GCM\s+([\d.]+)k", said, re.MULTILINE | re.IGNORECASE)
    if kilobytes is None:
        raise RpcmeshError(f"openssl speed printed no figure: {said[-200:]!r}")
    return float(kilobytes[1]) * 1000 / GB


async def until_socket(path: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not path.is_socket():
        if time.monotonic() > deadline:
            raise RpcmeshError(f"{str(path)!r} did not appear")
        await asyncio.sleep(0.01)
