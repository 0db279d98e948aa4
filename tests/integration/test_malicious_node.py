"""A node that lies harms the engine at most, which is there to be replaced, and fills nobody's memory."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from meshed_engine import request, spec, start
from rpc_worker import Command, Request, Worker, reply, u64
from tunnel_harness import unix_server

from rpcmesh.coordinator import agent_client
from rpcmesh.coordinator.agent_client import AgentClient
from rpcmesh.engine.client import EngineLost
from rpcmesh.engine.messages import DeviceSpec
from rpcmesh.errors import PeerError
from rpcmesh.native_build import Build
from rpcmesh.serving import unix_site

LIMIT_S = 30
LIES = {"longer": u64(17) + bytes(17), "of_2_63_bytes": u64(2**63), "cut_short": u64(16) + bytes(7)}


class Liar(Worker):
    """Answers allocations with ``lie``, length and all, and leaves."""

    def __init__(self, lie: bytes) -> None:
        super().__init__()
        self.lie = lie

    def answer(self, request: Request) -> bytes | None:
        return self.lie if request.command == Command.ALLOC_BUFFER else super().answer(request)

    def send(self, connection: socket.socket, answer: bytes) -> None:
        if answer == reply(self.lie):
            connection.sendall(self.lie)
            connection.shutdown(socket.SHUT_RDWR)
        else:
            super().send(connection, answer)


async def test_a_worker_whose_answer_is_no_answer_costs_the_engine_and_no_more(
    build: Build, smollm2: Path, tmp_path: Path
) -> None:
    for name, lie in LIES.items():
        path = tmp_path / f"{name}.sock"
        with unix_server(path, Liar(lie)):
            async with await start(build) as engine, asyncio.timeout(LIMIT_S):
                with pytest.raises(EngineLost):
                    await engine.load(spec(smollm2, DeviceSpec(f"{path}:1", "node-1", "w0")))
                assert (await engine.lost()).exit_code == -signal.SIGABRT
    async with await start(build) as another:
        await another.load(spec(smollm2))
        assert [delta async for delta in another.generate(request())]


@pytest.fixture
async def agent() -> AsyncIterator[AgentClient]:
    """The client of an agent that answers everything with more than anybody should keep, and no JSON."""

    async def endless(asked: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=int(asked.headers.get("status", "200")))
        await response.prepare(asked)
        for _ in range(64):
            await response.write(bytes(agent_client.MAX_BYTES))
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", endless)
    root = Path(tempfile.mkdtemp(prefix="rm-", dir="/tmp"))
    try:
        async with unix_site(app, root / "agent.sock"):
            client = AgentClient(root / "agent.sock")
            yield client
            await client.close()
    finally:
        shutil.rmtree(root)


async def test_an_agents_endless_answer_is_not_kept(agent: AgentClient) -> None:
    with pytest.raises(PeerError, match="longer than"):
        await agent.status()
    with pytest.raises(PeerError, match="longer than"):
        await agent.begin_renewal()
