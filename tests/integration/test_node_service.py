"""A whole ``rpcmesh node run``: what it starts, what it starts again, and that nothing of it outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable

import psutil
import whole_mesh
from process_probe import alive, python, until, until_gone
from whole_mesh import node_in, until_report

from rpcmesh import config
from rpcmesh.coordinator.agent_client import AgentClient
from rpcmesh.coordinator.report import StatusReport
from rpcmesh.demo import local_mesh
from rpcmesh.demo.local_mesh import LocalMesh
from rpcmesh.errors import PeerError
from rpcmesh.native_build import Build
from rpcmesh.node.guest import WANTED_S, Guest
from rpcmesh.node.status import AgentStatus, WorkerStatus
from rpcmesh.supervise.supervisor import Service
from rpcmesh.tunnel import status as tunnel_status

NODE = "node-1"
STOP_LIMIT_S = 15.0


@contextlib.asynccontextmanager
async def up(build: Build) -> AsyncIterator[LocalMesh]:
    """A coordinator that wants no model, and one node that it reaches."""
    with whole_mesh.short_home() as home:
        async with local_mesh.running(home, build) as mesh:
            await mesh.found(config.Engine())
            await mesh.join(NODE)
            await mesh.run_node(NODE)
            await until_agent(mesh, lambda agent: agent.workers[0].state == "ready", "a node with a worker")
            yield mesh


async def until_agent(mesh: LocalMesh, true: Callable[[AgentStatus], bool], what: str) -> AgentStatus:
    """What the coordinator reports of the node, once it is up and ``true``."""

    def reached(report: StatusReport) -> bool:
        node = node_in(report, NODE)
        return node.state == "up" and node.agent is not None and true(node.agent)

    agent = node_in(await until_report(mesh, reached, what), NODE).agent
    assert agent is not None
    return agent


def worker(agent: AgentStatus) -> WorkerStatus:
    return agent.workers[0]


async def worker_pid(mesh: LocalMesh) -> int:
    pid = worker(await until_agent(mesh, lambda agent: worker(agent).pid is not None, "the worker")).pid
    assert pid is not None
    return pid


def tunnel_pid(mesh: LocalMesh, build: Build) -> int:
    """The ingress tunnel among the node's processes."""
    running = whole_mesh.descendants(mesh.processes[NODE].pid)
    (found,) = [process.pid for process in running if process.cmdline()[:1] == [str(build.tunnel)]]
    return found


def sockets(mesh: LocalMesh) -> set[str]:
    """Each by its path below the node's folder of sockets."""
    run = mesh.node_home(NODE).run
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_socket()}


async def test_the_devices_are_known_before_any_client_came(build: Build) -> None:
    async with up(build) as mesh:
        agent = await until_agent(mesh, lambda seen: bool(worker(seen).devices), "the worker's devices")
        ingress = await tunnel_status.fetch(mesh.node_home(NODE).socket("tunnel"))

        assert [device.name for device in worker(agent).devices] == ["CPU"]
        assert worker(agent).devices[0].total_mib > 0
        assert {session.route for session in ingress.sessions} == {"rpcmesh/agent"}  # no client of the worker's
        assert (agent.name, agent.mesh, agent.build_id) == (NODE, "demo", build.build_id)
        assert (agent.tunnel_state, agent.crl_number) == ("ready", 1)


async def test_a_killed_worker_comes_back_with_a_new_pid_and_is_counted(build: Build) -> None:
    async with up(build) as mesh:
        before = await worker_pid(mesh)

        os.kill(before, signal.SIGKILL)

        agent = await until_agent(
            mesh, lambda seen: worker(seen).state == "ready" and worker(seen).pid != before, "the worker's return"
        )
        assert (worker(agent).restarts, worker(agent).last_exit) == (1, "killed by SIGKILL")
        assert psutil.pid_exists(await worker_pid(mesh))
        assert worker(agent).rss_bytes > 0


async def test_a_killed_tunnel_comes_back_and_the_node_is_up_again(build: Build) -> None:
    async with up(build) as mesh:
        before = tunnel_pid(mesh, build)
        worker_before = await worker_pid(mesh)

        os.kill(before, signal.SIGKILL)
        await until_gone(before)

        def is_replaced(_: AgentStatus) -> bool:
            # The report may still be the one from before; an answer through the new tunnel is asked for below.
            with contextlib.suppress(ValueError, psutil.NoSuchProcess):
                return tunnel_pid(mesh, build) != before
            return False

        await until_agent(mesh, is_replaced, "the tunnel's return")
        agent = await until_answered(mesh)
        assert agent.tunnel_state == "ready"
        assert worker(agent).pid == worker_before
        assert worker(agent).restarts == 0


async def until_answered(mesh: LocalMesh) -> AgentStatus:
    """The agent's own word, through both tunnels."""
    client = AgentClient(mesh.home.socket(f"{NODE}.agent"))

    async def ask() -> AgentStatus | None:
        with contextlib.suppress(PeerError):
            return await client.status()
        return None

    try:
        return await whole_mesh.until(ask, "an answer of the agent")
    finally:
        await client.close()


async def test_the_processes_of_a_node_get_nothing_of_its_environment(build: Build) -> None:
    async with up(build) as mesh:
        node = psutil.Process(mesh.processes[NODE].pid).environ()
        assert {"HOME", "RPCMESH_HOME"} <= node.keys()

        worker_has = environment(await worker_pid(mesh))
        worker_has.pop("LD_LIBRARY_PATH", None)  # on Linux: where its launcher found its libraries
        assert worker_has == {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "GGML_NO_BACKTRACE": "1"}
        assert environment(tunnel_pid(mesh, build)) == {}


def environment(pid: int) -> dict[str, str]:
    """Without what macOS gives to every process."""
    found = psutil.Process(pid).environ()
    return {name: value for name, value in found.items() if name != "__CF_USER_TEXT_ENCODING"}


async def test_sigterm_ends_all_processes_and_takes_the_sockets_away(build: Build) -> None:
    async with up(build) as mesh:
        node = mesh.processes.pop(NODE)
        started = [process.pid for process in whole_mesh.descendants(node.pid)]
        assert len(started) == 4  # worker and tunnel, each with its tether
        assert sockets(mesh) == {"agent.sock", "tunnel.sock", "w0/w0.sock"}

        node.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_LIMIT_S):
            ended = await node.wait()

        assert ended.code == 0
        await until_gone(*started)
        assert whole_mesh.processes_below(mesh.node_home(NODE).root) == []
        assert sockets(mesh) == set()


async def test_nothing_of_a_killed_node_lives_on_and_it_can_start_again(build: Build) -> None:
    async with up(build) as mesh:
        node = mesh.processes.pop(NODE)
        started = [process.pid for process in whole_mesh.descendants(node.pid)]
        assert len(started) == 4

        node.send_signal(signal.SIGKILL)
        await node.wait()

        await until_gone(*started)
        assert whole_mesh.processes_below(mesh.node_home(NODE).root) == []
        await mesh.run_node(NODE)  # over the sockets that it left
        agent = await until_agent(mesh, lambda seen: worker(seen).pid not in (None, *started), "the node's return")
        assert worker(agent).restarts == 0


async def test_a_guest_lives_while_somebody_asks_for_it(build: Build) -> None:
    async with up(build) as mesh:
        client = AgentClient(mesh.home.socket(f"{NODE}.agent"))
        engines = await worker_pid(mesh)

        await client.want_guest()
        asked_at = time.monotonic()
        await client.close()

        assert "guest/guest.sock" in sockets(mesh)  # ready when the answer came
        agent = await until_agent(mesh, lambda seen: [one.state for one in seen.workers] == ["ready"] * 2, "the guest")
        guest = agent.workers[1]
        assert guest.name == "guest"
        assert guest.pid not in (None, engines)
        await until(lambda: not alive(guest.pid or 0), WANTED_S + whole_mesh.LIMIT_S)
        assert time.monotonic() - asked_at > WANTED_S - 1.0
        await until(lambda: "guest/guest.sock" not in sockets(mesh))
        after = await until_agent(mesh, lambda seen: len(seen.workers) == 1, "a node without a guest")
        assert (worker(after).pid, worker(after).restarts) == (engines, 0)


# Listens on its socket, and takes its time to end.
SLOW_TO_END = """
import pathlib, signal, socket, sys, time
def linger(*_):
    pathlib.Path(sys.argv[1]).with_name("ending").touch()
    time.sleep(0.5)
    sys.exit()
signal.signal(signal.SIGTERM, linger)
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
while True:
    signal.pause()
"""


async def test_a_guest_asked_for_while_the_last_one_ends_is_a_new_one() -> None:
    with whole_mesh.short_home() as home:
        path = home.socket("guest")
        guest = Guest(Service("guest", python(SLOW_TO_END, str(path)), env={}, socket=path), wanted_s=3.0)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(guest.run())
            await guest.want()
            first = pid_of(guest)
            await until((home.run / "ending").exists)

            async with asyncio.timeout(whole_mesh.LIMIT_S):
                await guest.want()

            assert pid_of(guest) not in (None, first)
            assert path.is_socket()
            running.cancel()
        assert not path.exists()


def pid_of(guest: Guest) -> int | None:
    return guest.supervisor.snapshot.pid if guest.supervisor else None
