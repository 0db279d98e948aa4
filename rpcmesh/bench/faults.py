"""What can happen to a mesh, each as one row: how it is brought about, and how it ends. When is decided elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterable

import msgspec
import psutil

from rpcmesh.demo.local_mesh import LocalMesh
from rpcmesh.node.worker import ENGINE_WORKER
from rpcmesh.tunnel import status as tunnel_status

# Longer than any loss may take to be noticed.
FROZEN_S = 8.0

# The name of a tunnel's status socket, on either side.
TUNNEL_STATUS = "tunnel"

Act = Callable[[LocalMesh, str], Awaitable[None]]


class Fault(msgspec.Struct, frozen=True):
    """``happen`` returns once it has happened; ``mend`` brings the mesh back to where it was."""

    happen: Act
    mend: Act


async def _kill_worker(mesh: LocalMesh, node: str) -> None:
    report = await mesh.admin.status()
    agent = next(each.agent for each in report.nodes if each.name == node)
    pids = [worker.pid for worker in agent.workers if worker.name == ENGINE_WORKER] if agent else []
    _signal_all((pid for pid in pids if pid is not None), signal.SIGKILL)


async def _kill_tunnel(mesh: LocalMesh, node: str) -> None:
    _signal_all([await _tunnel_pid(mesh, node)], signal.SIGKILL)


async def _kill_egress(mesh: LocalMesh, _: str) -> None:
    seen = await tunnel_status.fetch(mesh.home.socket(TUNNEL_STATUS))
    _signal_all([seen.pid], signal.SIGKILL)


async def _freeze_tunnel(mesh: LocalMesh, node: str) -> None:
    """What a cable that is pulled looks like: nothing comes, and nothing ends."""
    _signal_all([await _tunnel_pid(mesh, node)], signal.SIGSTOP)


async def _thaw_tunnel(mesh: LocalMesh, node: str) -> None:
    await asyncio.sleep(FROZEN_S)
    tree = psutil.Process(mesh.processes[node].pid).children(recursive=True)
    _signal_all([each.pid for each in tree if each.status() == psutil.STATUS_STOPPED], signal.SIGCONT)


async def _kill_agent(mesh: LocalMesh, node: str) -> None:
    _signal_all([mesh.processes[node].pid], signal.SIGKILL)


async def _kill_node(mesh: LocalMesh, node: str) -> None:
    _signal_all(_tree(mesh, node), signal.SIGKILL)


async def _freeze_node(mesh: LocalMesh, node: str) -> None:
    _signal_all(_tree(mesh, node), signal.SIGSTOP)


async def _thaw_node(mesh: LocalMesh, node: str) -> None:
    await asyncio.sleep(FROZEN_S)
    _signal_all(_tree(mesh, node), signal.SIGCONT)


async def _kill_engine(mesh: LocalMesh, _: str) -> None:
    """The one that holds the model: the other has nothing in it yet."""
    children = psutil.Process(mesh.processes["coordinator"].pid).children(recursive=True)
    engines = [child for child in children if "rpcmesh.engine.process" in child.cmdline()]
    _signal_all([max(engines, key=lambda engine: int(engine.memory_info().rss)).pid], signal.SIGKILL)


async def _start_node(mesh: LocalMesh, node: str) -> None:
    await mesh.processes.pop(node).wait()
    await mesh.run_node(node)


async def _revoke_node(mesh: LocalMesh, node: str) -> None:
    await mesh.admin.revoke(node)


async def _join_again(mesh: LocalMesh, node: str) -> None:
    """What is left of a revoked node is of no use: it joins as a new one of the same name."""
    _signal_all(_tree(mesh, node), signal.SIGKILL)
    await mesh.processes.pop(node).wait()
    shutil.rmtree(mesh.node_home(node).root)
    await mesh.join(node)
    await mesh.run_node(node)


async def _by_itself(_mesh: LocalMesh, _node: str) -> None:
    """A supervisor does it."""


FAULTS: dict[str, Fault] = {
    "worker killed": Fault(_kill_worker, _by_itself),
    "tunnel killed": Fault(_kill_tunnel, _by_itself),
    "coordinator's tunnel killed": Fault(_kill_egress, _by_itself),
    "tunnel frozen": Fault(_freeze_tunnel, _thaw_tunnel),
    "engine killed": Fault(_kill_engine, _by_itself),
    "agent killed": Fault(_kill_agent, _start_node),
    "node killed": Fault(_kill_node, _start_node),
    "node revoked": Fault(_revoke_node, _join_again),
    "node frozen": Fault(_freeze_node, _thaw_node),
}


async def _tunnel_pid(mesh: LocalMesh, node: str) -> int:
    return (await tunnel_status.fetch(mesh.node_home(node).socket(TUNNEL_STATUS))).pid


def _tree(mesh: LocalMesh, node: str) -> list[int]:
    agent = psutil.Process(mesh.processes[node].pid)
    return [each.pid for each in (*agent.children(recursive=True), agent)]


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
