"""A node whose worker crashes, hangs or is killed: it is back, what happened is told once, and the next is served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
import struct
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import whole_mesh
from process_probe import until
from real_worker import PRODUCTS_BYTES, products, row_of
from rpc_worker import Buffer, Client, assert_cut, graph, greet, set_tensor, tensor, u32
from tunnel_harness import dial_unix
from whole_mesh import node_in, run_cli, until_report

from rpcmesh import config
from rpcmesh.demo import local_mesh
from rpcmesh.demo.local_mesh import LocalMesh
from rpcmesh.native_build import Build
from rpcmesh.node.status import WorkerStatus
from rpcmesh.observe import error_log
from rpcmesh.pki import files

NODE = "node-1"
COORDINATOR = "spiffe://demo/coordinator"


@contextlib.asynccontextmanager
async def up(build: Build, **settings: object) -> AsyncIterator[LocalMesh]:
    """A coordinator without a model, and a node whose [node] has these settings too."""
    with whole_mesh.short_home() as home:
        async with local_mesh.running(home, build) as mesh:
            await mesh.found(config.Engine())
            await mesh.join(NODE)
            path = mesh.node_home(NODE).config
            more = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
            files.write_private(path, path.read_text().replace("[node]\n", f"[node]\n{more}").encode())
            await mesh.run_node(NODE)
            await until_worker(mesh)
            yield mesh


async def until_worker(mesh: LocalMesh, restarts: int = 0) -> WorkerStatus:
    """Of the node, ready after so many ends."""

    def is_ready(report: whole_mesh.StatusReport) -> bool:
        agent = node_in(report, NODE).agent
        return agent is not None and (agent.workers[0].state, agent.workers[0].restarts) == ("ready", restarts)

    agent = node_in(await until_report(mesh, is_ready, f"a worker that ended {restarts} times"), NODE).agent
    assert agent is not None
    return agent.workers[0]


@contextlib.contextmanager
def session(mesh: LocalMesh) -> Iterator[Client]:
    """With the node's worker, as the engine has one: through both tunnels."""
    with dial_unix(mesh.home.socket(f"{NODE}.w0")) as connection:
        yield greet(connection)


def serves(mesh: LocalMesh) -> None:
    with session(mesh) as client:
        buffer = client.alloc(512)
        client.send(set_tensor(buffer.bytes_at(), 0, b"next"))
        assert client.read(buffer, 0, 4) == b"next"


def events(mesh: LocalMesh, *names: str) -> list[dict[str, Any]]:
    """From the node's error log."""
    path = error_log.path_of(mesh.node_home(NODE))
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [record for record in records if record["event"] in names]


ENDS = ("worker_crashed", "worker_reset")


async def until_events(mesh: LocalMesh, count: int) -> list[dict[str, Any]]:
    await until(lambda: len(events(mesh, *ENDS)) >= count)
    return events(mesh, *ENDS)


def abort(client: Client) -> None:
    """What no look at a frame's header can prevent: a row's number that is out of range."""
    buffer = client.alloc(4096)
    client.send(set_tensor(buffer.bytes_at(1024), 0, u32(1_000_000)), row_of(buffer))
    assert_cut(client.connection)


async def test_each_crash_is_told_once_with_what_was_going_on(build: Build) -> None:
    async with up(build) as mesh:
        # By one of ggml's own checks, in a graph.
        with session(mesh) as client:
            await asyncio.to_thread(abort, client)
        await asyncio.to_thread(serves, mesh)
        (aborted,) = await until_events(mesh, 1)
        assert (aborted["level"], aborted["worker"], aborted["node"]) == ("error", "w0", NODE)
        assert (aborted["exit"], aborted["signal"]) == ("killed by SIGABRT", "SIGABRT")
        assert (aborted["peer"], aborted["command"]) == (COORDINATOR, "GRAPH_COMPUTE")
        assert aborted["graph"] == {"device": 0, "nodes": 1, "tensors": 3, "ops": {"GET_ROWS": 1}}
        assert any("GGML_ASSERT" in line for line in aborted["output"])
        assert isinstance(aborted["session"], int)
        assert aborted["ready_again_ms"] > 0

        # From outside, in the middle of a session.
        worker = await until_worker(mesh, restarts=1)
        with session(mesh) as client:
            client.alloc(512)
            os.kill(worker.pid or 0, signal.SIGSEGV)
            await asyncio.to_thread(assert_cut, client.connection)
        segfault = (await until_events(mesh, 2))[1]
        assert (segfault["event"], segfault["signal"], segfault["peer"]) == (
            "worker_crashed",
            "SIGSEGV",
            COORDINATOR,
        )
        assert segfault["session"] != aborted["session"]

        # And while it serves nobody.
        worker = await until_worker(mesh, restarts=2)
        os.kill(worker.pid or 0, signal.SIGKILL)
        idle = (await until_events(mesh, 3))[2]
        assert (idle["event"], idle["signal"]) == ("worker_crashed", "SIGKILL")
        assert not {"session", "peer", "command", "graph"} & idle.keys()

        await until_worker(mesh, restarts=3)
        serves(mesh)
        assert len(events(mesh, *ENDS)) == 3
        assert len(events(mesh, "worker_lost")) == 2

        await assert_logs_shows_it(mesh)
        assert_nothing_secret_is_told(mesh)


async def assert_logs_shows_it(mesh: LocalMesh) -> None:
    """The same records on the coordinator and on the node itself, also once nothing runs there."""
    node_home = mesh.node_home(NODE)
    asked = await asyncio.to_thread(run_cli, mesh.home, "logs", NODE, "--json", "-n", "500")
    own = await asyncio.to_thread(run_cli, node_home, "logs", "--json", "-n", "500")
    assert (asked.returncode, own.returncode) == (0, 0), asked.stderr + own.stderr
    assert asked.stdout == own.stdout
    records = [json.loads(line) for line in own.stdout.splitlines()]
    assert records == [json.loads(line) for line in error_log.path_of(node_home).read_text().splitlines()]

    shown = (await asyncio.to_thread(run_cli, mesh.home, "logs", NODE)).stdout.splitlines()
    assert len(shown) == len(records)
    crash = next(line for line in shown if "SIGABRT" in line and "worker_crashed" in line)
    assert "  error  worker_crashed  w0 killed by SIGABRT in GRAPH_COMPUTE (1 node: GET_ROWS 1), ready again" in crash
    assert "GGML_ASSERT" in crash
    assert "\x1b" not in "".join(shown)

    follower = await follow(mesh)
    worker = await until_worker(mesh, restarts=3)
    os.kill(worker.pid or 0, signal.SIGKILL)
    await follower.until_said("worker_crashed")
    assert await follower.interrupted() == 130

    node = mesh.processes.pop(NODE)
    node.send_signal(signal.SIGTERM)
    await node.wait()
    last = (await asyncio.to_thread(run_cli, node_home, "logs", "-n", "5")).stdout.splitlines()
    assert len(last) == 5
    assert any("  error  worker_crashed  w0 killed by SIGKILL, ready again after " in line for line in last)
    gone = await asyncio.to_thread(run_cli, mesh.home, "logs", NODE)
    assert gone.returncode == 1
    assert gone.stderr.startswith(f"error: node '{NODE}' does not tell its errors")
    assert "hint:" in gone.stderr
    stranger = await asyncio.to_thread(run_cli, mesh.home, "logs", "node-9")
    assert (stranger.returncode, stranger.stderr) == (
        1,
        "error: no node of this mesh is named 'node-9'\nhint:  rpcmesh node ls\n",
    )


class Follower:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def until_said(self, word: str) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(whole_mesh.LIMIT_S):
            while word not in (line := (await self._process.stdout.readline()).decode()):
                assert line, "it ended"

    async def interrupted(self) -> int:
        self._process.send_signal(signal.SIGINT)
        async with asyncio.timeout(whole_mesh.LIMIT_S):
            return await self._process.wait()


async def follow(mesh: LocalMesh) -> Follower:
    """``rpcmesh logs NODE -f`` once it has shown the last record that there is."""
    before = events(mesh, *ENDS)[-1]["seq"]
    process = await asyncio.create_subprocess_exec(
        *whole_mesh.RPCMESH,
        *("logs", NODE, "-f", "--json"),
        env={**os.environ, "RPCMESH_HOME": str(mesh.home.root)},
        stdout=asyncio.subprocess.PIPE,
    )
    follower = Follower(process)
    await follower.until_said(f'"seq":{before},')
    return follower


def assert_nothing_secret_is_told(mesh: LocalMesh) -> None:
    home = mesh.node_home(NODE)
    path = error_log.path_of(home)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    told = path.read_text()
    key_lines = (home.identity / "key.pem").read_text().splitlines()[1:-1]
    assert key_lines
    assert not [line for line in key_lines if line in told]
    assert "PRIVATE" not in told


async def test_a_computation_that_takes_too_long_ends_with_its_worker_and_the_next_is_served(build: Build) -> None:
    async with up(build, compute_timeout_s=2) as mesh:
        before = await until_worker(mesh)
        with session(mesh) as client:
            client.send(products(client.alloc(PRODUCTS_BYTES), 3000))
            await asyncio.to_thread(assert_cut, client.connection)
        await asyncio.to_thread(serves, mesh)
        (reset,) = await until_events(mesh, 1)
        assert (reset["event"], reset["level"], reset["reason"]) == ("worker_reset", "warning", "compute_timeout")
        assert (reset["worker"], reset["signal"], reset["peer"]) == ("w0", "SIGKILL", COORDINATOR)
        assert (reset["command"], reset["graph"]["ops"]) == ("GRAPH_COMPUTE", {"MUL_MAT": 3000})
        after = await until_worker(mesh, restarts=1)
        assert after.pid != before.pid


SILU_BACK, OPT_STEP_SGD = 23, 99


def of_two(op: int, buffer: Buffer) -> bytes:
    """A graph of one node of ``op`` over the buffer's first 64 floats and its next; the result is behind both."""
    one, two = (tensor(key=key, buffer=buffer.handle, data=buffer.base + 256 * (key - 1)) for key in (1, 2))
    result = tensor(key=3, buffer=buffer.handle, data=buffer.base + 512, op=op, src=(1, 2))
    return graph([3], [one, two, result])


async def test_an_op_without_a_rule_is_computed_where_the_node_allows_it_by_name(build: Build) -> None:
    async with up(build, allow_ops=["SILU_BACK"]) as mesh:
        with session(mesh) as client:
            buffer = client.alloc(768)
            # The derivative of x * sigmoid(x) at 0 is a half.
            client.send(set_tensor(buffer.bytes_at(), 0, struct.pack("<64f", *[2.0] * 64)), of_two(SILU_BACK, buffer))
            assert struct.unpack("<64f", client.read(buffer, 512, 256)) == (1.0,) * 64
            client.send(of_two(OPT_STEP_SGD, buffer))
            await asyncio.to_thread(assert_cut, client.connection)
        await until(lambda: events(mesh, "frame_refused"))
        (refused,) = events(mesh, "frame_refused")
        assert (refused["reason"], refused["op"]) == ("op_forbidden", "OPT_STEP_SGD")
        assert events(mesh, *ENDS) == []


async def test_a_client_that_leaves_in_the_middle_of_a_computation_again_and_again_costs_the_next_nothing(
    build: Build,
) -> None:
    async with up(build) as mesh:
        # More often than a worker may end by itself before it is given up.
        for number in range(1, 10):
            with session(mesh) as client:
                client.send(products(client.alloc(PRODUCTS_BYTES), 3000))
            serves(mesh)
            assert len(await until_events(mesh, number)) == number
        assert {(event["event"], event["reason"]) for event in events(mesh, *ENDS)} == {("worker_reset", "client_gone")}
        await until_worker(mesh, restarts=9)
        # How long it took stands in the events; here only that none of them grew with the number of resets.
        assert max(event["ready_again_ms"] for event in events(mesh, *ENDS)) < 10_000


async def test_a_home_without_a_log_has_no_errors_and_no_home_is_one_line() -> None:
    with whole_mesh.short_home() as home:
        empty = run_cli(home, "logs")
        assert (empty.returncode, empty.stdout) == (0, "")
        assert empty.stderr == "no warning and no error was logged\n"
        alone = run_cli(home, "logs", "node-1")
        assert alone.returncode == 1
        assert alone.stderr.startswith("error: no coordinator answers on ")
    nowhere = Path(tempfile.gettempdir()) / "rm-nowhere"
    absent = run_cli(nowhere, "logs")
    assert absent.returncode == 1
    assert absent.stderr == (
        f"error: there is no home at {str(nowhere)!r}\nhint:  rpcmesh init, or rpcmesh join STRING\n"
    )
