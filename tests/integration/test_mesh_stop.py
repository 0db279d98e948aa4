"""How a coordinator ends, by request and by force, and what its clients and nodes have of it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
import whole_mesh
from whole_mesh import node_in, until, until_report, until_told

from rpcmesh import config
from rpcmesh.coordinator.report import StatusReport
from rpcmesh.demo import ask
from rpcmesh.demo.local_mesh import LocalMesh
from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import Build
from rpcmesh.supervise.child import Exit

STORY = "Write a long story about the sea."
# The longest that fits the context: it takes many times as long as the tests wait.
N_LONG = 440


def story(mesh: LocalMesh, max_tokens: int) -> tuple[asyncio.Task[ask.Answer], list[str]]:
    """A stream that is being read, and the pieces that have come."""
    pieces: list[str] = []
    told = whole_mesh.tell(whole_mesh.endpoint(mesh), STORY, max_tokens, pieces.append)
    return asyncio.create_task(told), pieces


def terminate(mesh: LocalMesh) -> None:
    os.kill(mesh.processes["coordinator"].pid, signal.SIGTERM)


async def ended(mesh: LocalMesh) -> Exit:
    """How the coordinator ended; it counts as one of the mesh's processes no longer."""
    process = mesh.processes.pop("coordinator")

    async def exit_of() -> Exit | None:
        return process.exit

    return await until(exit_of, "the coordinator's end")


async def until_shut(mesh: LocalMesh) -> None:
    host, port = config.parse_address(mesh.listen)

    async def refused() -> bool | None:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except (ConnectionRefusedError, ConnectionResetError):  # reset: it was in the queue of a port that closed
            return True
        writer.close()
        return None

    await until(refused, "a refused connection")


async def test_an_open_answer_ends_as_it_should_and_nobody_else_gets_in(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(build, smollm2, nodes=1, drain_s=config.DRAIN_MAX_S) as mesh:
        asked, pieces = story(mesh, 300)
        await until_told(pieces, 5)

        terminate(mesh)

        await until_shut(mesh)
        assert not asked.done()
        assert (await mesh.admin.status()).reason == "shutting_down"
        assert (await asked).completion_tokens == 300
        assert await ended(mesh) == Exit(code=0)


async def test_an_answer_that_takes_too_long_ends_with_a_typed_error(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(build, smollm2, nodes=1, drain_s=0.3) as mesh:
        asked, pieces = story(mesh, N_LONG)
        await until_told(pieces, 5)

        terminate(mesh)

        with pytest.raises(RpcmeshError, match="this endpoint is being switched off"):
            await asked
        assert await ended(mesh) == Exit(code=0)


async def test_a_second_signal_waits_for_no_answer(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(build, smollm2, nodes=1, drain_s=config.DRAIN_MAX_S) as mesh:
        asked, pieces = story(mesh, N_LONG)
        await until_told(pieces, 5)

        terminate(mesh)
        await until_shut(mesh)
        terminate(mesh)

        with pytest.raises(RpcmeshError, match="this endpoint is being switched off"):
            await asked
        assert await ended(mesh) == Exit(code=0)


def worker_pids(report: StatusReport) -> dict[str, int | None]:
    return {node.name: node.agent.workers[0].pid for node in report.nodes if node.agent is not None}


async def test_a_coordinator_that_was_killed_finds_its_nodes_keys_and_model_again(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(build, smollm2) as mesh:
        at = whole_mesh.endpoint(mesh)
        before = worker_pids(await mesh.admin.status())
        asked, pieces = story(mesh, N_LONG)
        await until_told(pieces, 5)

        os.kill(mesh.processes["coordinator"].pid, signal.SIGKILL)

        with pytest.raises(RpcmeshError, match="cannot reach"):
            await asked
        assert await ended(mesh) == Exit(signal_name="SIGKILL")
        await mesh.run_coordinator()
        report = await mesh.ready(lambda _: None, whole_mesh.READY_LIMIT_S)
        assert worker_pids(report) == before
        assert {part.node for part in report.model.placement if part.layers} == {"node-1", "node-2"}
        assert "Paris" in (await whole_mesh.answer(at, whole_mesh.FRANCE)).text


async def test_what_comes_while_an_engine_is_replaced_waits_and_is_answered(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(build, smollm2, nodes=1) as mesh:
        at = whole_mesh.endpoint(mesh)

        # The spare one too, so that the next has yet to start.
        for process in whole_mesh.descendants(mesh.processes["coordinator"].pid):
            if "rpcmesh.engine.process" in process.cmdline():
                process.kill()

        await until_report(mesh, lambda seen: not seen.ready, "the loss of the engine")
        assert "Paris" in (await whole_mesh.answer(at, whole_mesh.FRANCE)).text
        assert node_in(await mesh.admin.status(), "node-1").state == "up"
