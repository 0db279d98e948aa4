"""Measuring through the agent's API, as the coordinator does it: streams of a length, bounded, one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from rpcmesh.coordinator.agent_client import AgentClient
from rpcmesh.errors import PeerError
from rpcmesh.node import api
from rpcmesh.node.measure import MAX_BYTES, Measurements
from rpcmesh.node.status import AgentStatus
from rpcmesh.paths import Home
from rpcmesh.serving import unix_site

MIB = 2**20
GET = f"GET /measure?bytes={MAX_BYTES} HTTP/1.1\r\nHost: agent\r\n\r\n"
PUT = f"PUT /measure HTTP/1.1\r\nHost: agent\r\nContent-Length: {MAX_BYTES}\r\n\r\n0"


def never() -> AgentStatus:
    raise AssertionError("nobody asks for the status here")


async def nothing() -> None:
    pass


@pytest.fixture
async def socket(tmp_path: Path) -> AsyncIterator[Path]:
    """Where an agent answers that has no identity and no worker."""
    agent = api.Agent(home=Home(tmp_path), status=never, reload_tunnel=lambda: None, want_guest=nothing)
    async with unix_site(agent.app(), tmp_path / "agent.sock"):
        yield tmp_path / "agent.sock"


@pytest.fixture
async def client(socket: Path) -> AsyncIterator[AgentClient]:
    speaking = AgentClient(socket)
    yield speaking
    await speaking.close()


@contextlib.asynccontextmanager
async def asking(socket: Path, request: str) -> AsyncIterator[asyncio.StreamReader]:
    """A request that is not finished, or whose answer nobody reads further than the block does."""
    reader, writer = await asyncio.open_unix_connection(str(socket), limit=1024)
    writer.write(request.encode())
    await writer.drain()
    try:
        yield reader
    finally:
        writer.transport.abort()


async def measured(client: AgentClient) -> bool:
    """False while somebody else measures."""
    try:
        await client.receive_zeros(1)
    except PeerError as error:
        if "another measurement is under way" not in error.message:
            raise
        return False
    return True


async def until_free(client: AgentClient) -> None:
    deadline = time.monotonic() + 20
    while not await measured(client):
        assert time.monotonic() < deadline, "the measurement never ended"
        await asyncio.sleep(0.02)


async def test_the_agent_tells_its_time(client: AgentClient) -> None:
    before = time.time()
    told = await client.clock()
    assert before <= told <= time.time()


@pytest.mark.parametrize("count", [1, 2**18, 2**18 + 1, 5 * MIB, MAX_BYTES])
async def test_a_stream_has_the_length_that_was_asked_for_both_ways(client: AgentClient, count: int) -> None:
    await client.send_zeros(count)
    await client.receive_zeros(count)


@pytest.mark.parametrize("text", ["", "0", "-1", "1e3", "٣", str(MAX_BYTES + 1), "9" * 5000, "x"])
async def test_a_length_that_is_none_or_too_much_is_refused(socket: Path, text: str) -> None:
    connector = aiohttp.UnixConnector(path=str(socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://agent/measure", params={"bytes": text}) as response,
    ):
        assert response.status == 400
        assert "is not a number of bytes from 1 to" in await response.text()


async def test_a_stream_that_goes_on_beyond_the_limit_is_refused(client: AgentClient) -> None:
    with pytest.raises(PeerError, match=r"answered 413|cannot be reached"):
        await client.send_zeros(MAX_BYTES + 1)

    await client.send_zeros(MIB)


async def test_a_second_measurement_is_refused_while_one_is_under_way_and_not_after(
    socket: Path, client: AgentClient
) -> None:
    async with asking(socket, GET) as answer:
        assert (await answer.readline()).startswith(b"HTTP/1.1 200")

        with pytest.raises(PeerError, match=r"answered 409 to GET .*: 'another measurement is under way'"):
            await client.receive_zeros(1)
        with pytest.raises(PeerError, match=r"answered 409 to PUT .*: 'another measurement is under way'"):
            await client.send_zeros(MIB)
        assert await client.clock()

    await until_free(client)


@pytest.mark.parametrize("asked", [GET, PUT], ids=["nobody reads", "nobody sends"])
async def test_a_measurement_that_stands_still_ends(tmp_path: Path, asked: str) -> None:
    app = web.Application(middlewares=[api._refusals])
    app.add_routes(Measurements(limit_s=0.2).routes())
    async with unix_site(app, tmp_path / "agent.sock"):
        client = AgentClient(tmp_path / "agent.sock")
        try:
            async with asking(tmp_path / "agent.sock", asked) as answer:
                await until_free(client)
                head = await answer.readline()
        finally:
            await client.close()

    assert head.split(b" ")[1] == (b"200" if asked is GET else b"408")


@pytest.mark.parametrize(
    ("address", "port", "words"),
    [("127.0.0.1", 7443, "no address of another machine"), ("10.0.0.1", 22, "port 22"), ("localhost", 7443, "numeric")],
)
async def test_the_agent_probes_nothing_but_other_machines_tunnels(
    client: AgentClient, address: str, port: int, words: str
) -> None:
    with pytest.raises(PeerError, match=words):
        await client.probe(address, port)
