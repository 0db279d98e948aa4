"""Measures the mesh from its coordinator, through the tunnels that run: nothing is dialled but the nodes' agents.

Every node and every pair ends in a value or an ``Unknown`` with its name, also when it goes away in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

import msgspec

from rpcmesh import config
from rpcmesh.coordinator.agent_client import AgentClient
from rpcmesh.coordinator.report import StatusReport
from rpcmesh.doctor.facts import Clock, Link, Measured, Tried, Unknown
from rpcmesh.errors import PeerError, RpcmeshError, alone
from rpcmesh.node.measure import MAX_BYTES
from rpcmesh.paths import Home

ROUND_TRIPS = 20
FIRST_BYTES = 1 << 20
# Each direction of a link is measured for half a second; more than six nodes share six seconds.
WAY_S, ALL_WAYS_S = 0.5, 6.0
# After this no further pair is tried. One that is silent takes two seconds.
TRIES_S = 4.0


class Peer(msgspec.Struct, frozen=True):
    """A node that is up. ``address`` is its tunnel's, ADDR:PORT; ``os`` as it says it."""

    name: str
    address: str
    os: str


class Reading(msgspec.Struct, frozen=True):
    """A node's clock, and ours when it was asked and when it had answered."""

    asked: float
    node: float
    answered: float


def peers(report: StatusReport) -> tuple[Peer, ...]:
    return tuple(
        Peer(node.name, node.address, node.agent.os)
        for node in report.nodes
        if node.agent is not None and node.state == "up"
    )


async def measure(home: Home, found: tuple[Peer, ...]) -> Measured:
    """Takes a few seconds: links one after the other, and while they are measured, who reaches whom."""
    clocks: list[Clock | Unknown] = []
    links: list[Link | Unknown] = []
    tried: list[Tried | Unknown] = []
    way_s = min(WAY_S, ALL_WAYS_S / (2 * max(1, len(found))))
    with alone():
        async with asyncio.TaskGroup() as group:
            for stranger in found:
                group.create_task(_try_all(home, stranger, found, tried))
            for peer in found:
                async with _agent(home, peer) as agent:
                    clock, link = await _measure_one(agent, peer, way_s)
                links.append(link)
                clocks += [clock] if clock is not None else []
    return Measured(clocks=tuple(clocks), links=tuple(links), tried=tuple(sorted(tried, key=str)))


async def _measure_one(agent: AgentClient, peer: Peer, way_s: float) -> tuple[Clock | None, Link | Unknown]:
    """A node without a clock is one without a link, and that is said once."""
    clock = None
    try:
        readings = [await _read_clock(agent) for _ in range(ROUND_TRIPS)]
        clock = clock_of(peer, readings)
        return clock, Link(
            node=peer.name,
            round_trip_s=statistics.median(reading.answered - reading.asked for reading in readings),
            there_bit_s=await _bit_s(agent.send_zeros, way_s),
            back_bit_s=await _bit_s(agent.receive_zeros, way_s),
        )
    except RpcmeshError as error:
        return clock, Unknown(f"{peer.name}: {error.message}")


async def _read_clock(agent: AgentClient) -> Reading:
    began, asked = time.perf_counter(), time.time()
    node = await agent.clock()
    # Our clock may be set while we wait; the counter is not.
    return Reading(asked=asked, node=node, answered=asked + time.perf_counter() - began)


def clock_of(peer: Peer, readings: Iterable[Reading]) -> Clock:
    """By the fastest of ``readings``: the node read its clock at some time in between, the middle being the best guess.

    That is NTP's offset and its error bound, RFC 5905 section 8, of a node that answers at once.
    """
    best = min(readings, key=lambda reading: reading.answered - reading.asked)
    uncertainty_s = (best.answered - best.asked) / 2
    return Clock(
        node=peer.name, os=peer.os, ahead_s=best.node - best.asked - uncertainty_s, uncertainty_s=uncertainty_s
    )


async def _bit_s(move: Callable[[int], Awaitable[None]], way_s: float) -> float:
    """Bits a second of the fastest stream. Streams grow until they fill the time."""
    deadline = time.perf_counter() + way_s
    count, best = FIRST_BYTES, 0.0
    while True:
        began = time.perf_counter()
        await move(count)
        ended = time.perf_counter()
        best = max(best, count * 8 / (ended - began))
        larger = next_count(count, took_s=ended - began, left_s=deadline - ended)
        if larger is None:
            return best
        count = larger


def next_count(count: int, *, took_s: float, left_s: float) -> int | None:
    """How many bytes to move next after ``count`` took ``took_s``; None when the time would not be enough.

    Half of the time that is left, at most eight times as many: the start of a connection is slower than the rest.
    """
    if took_s >= left_s:
        return None
    return max(count, min(MAX_BYTES, count * 8, int(count * left_s / (2 * took_s))))


async def _try_all(home: Home, stranger: Peer, found: tuple[Peer, ...], tried: list[Tried | Unknown]) -> None:
    """Let ``stranger`` try the others, beginning with the next one, so that each node is tried by somebody in time."""
    deadline = time.monotonic() + TRIES_S
    async with _agent(home, stranger) as agent:
        for node, host, port in others(stranger, found):
            if time.monotonic() >= deadline:
                return
            try:
                probed = await agent.probe(host, port)
            except PeerError as error:
                tried.append(Unknown(f"{stranger.name} to {node.name}: {error.message}"))
                continue
            tried.append(Tried(stranger=stranger.name, node=node.name, address=node.address, result=probed.result))


def others(stranger: Peer, found: tuple[Peer, ...]) -> Iterator[tuple[Peer, str, int]]:
    """Whom ``stranger`` may try, with host and port: the nodes after it, then those before it.

    What runs on one machine reaches itself past every firewall, and loopback is nobody else's.
    """
    at = found.index(stranger)
    own, _ = config.parse_address(stranger.address)
    for node in (*found[at + 1 :], *found[:at]):
        host, port = config.parse_address(node.address)
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            continue  # a name: which address it means here says nothing of there
        if host != own and not address.is_loopback:
            yield node, host, port


@contextlib.asynccontextmanager
async def _agent(home: Home, peer: Peer) -> AsyncIterator[AgentClient]:
    agent = AgentClient(home.socket(f"{peer.name}.agent"))
    try:
        yield agent
    finally:
        await agent.close()
