"""What can happen to a mesh, each as one row: how it is brought about, and how it ends. When is decided elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Iterable

import msgspec
import psutil

from rpcmesh.coordinator import founding
from rpcmesh.coordinator.said import DRAINED
from rpcmesh.demo.local_mesh import LocalMesh
from rpcmesh.node.worker import ENGINE_WORKER
from rpcmesh.pki import identity, names
from rpcmesh.pki.authority import LEAF_LIFE

# Longer than any loss may take to be noticed.
FROZEN_S = 8.0
# Long enough for others to have met the certificate.
EXPIRED_S = 2.0
DRAIN_LIMIT_S = 30.0

TUNNEL = "rpcmesh-tunnel"

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
    _signal_all(_tunnels(mesh, node), signal.SIGKILL)


async def _kill_egress(mesh: LocalMesh, _: str) -> None:
    _signal_all(_tunnels(mesh, "coordinator"), signal.SIGKILL)


async def _freeze_tunnel(mesh: LocalMesh, node: str) -> None:
    """What a cable that is pulled looks like: nothing comes, and nothing ends."""
    _signal_all(_tunnels(mesh, node), signal.SIGSTOP)


async def _thaw_tunnel(mesh: LocalMesh, node: str) -> None:
    await asyncio.sleep(FROZEN_S)
    _signal_all(_tunnels(mesh, node), signal.SIGCONT)


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


async def _drain_node(mesh: LocalMesh, node: str) -> None:
    """And switch it off as soon as that is said to be safe."""
    await mesh.admin.drain(node, force=True)

    async def is_safe() -> bool | None:
        report = await mesh.admin.status()
        return any(each.name == node and each.state == DRAINED for each in report.nodes) or None

    await mesh.until(is_safe, DRAIN_LIMIT_S, f"{node} was not drained")
    await _kill_node(mesh, node)


async def _resume_node(mesh: LocalMesh, node: str) -> None:
    await _start_node(mesh, node)
    await mesh.admin.resume(node)


async def _join_again(mesh: LocalMesh, node: str) -> None:
    """What is left of a revoked node is of no use: it joins as a new one of the same name."""
    _signal_all(_tree(mesh, node), signal.SIGKILL)
    await mesh.processes.pop(node).wait()
    shutil.rmtree(mesh.node_home(node).root)
    await mesh.join(node)
    await mesh.run_node(node)


async def _expire_certificate(mesh: LocalMesh, node: str) -> None:
    """As if its coordinator had not been there to renew it for a week."""
    await _certify(mesh, node, time.time() - LEAF_LIFE.total_seconds() - 60.0)


async def _renew_certificate(mesh: LocalMesh, node: str) -> None:
    await asyncio.sleep(EXPIRED_S)
    await _certify(mesh, node, time.time())


async def _certify(mesh: LocalMesh, node: str, at: float) -> None:
    """Give ``node`` a certificate that was signed at ``at``, and have its tunnel begin anew with it."""
    directory = mesh.node_home(node).identity
    with founding.open_mesh(mesh.home) as opened:
        csr = identity.begin_renewal(directory)
        leaf = opened.authority.sign_csr(csr, names.node_uri(opened.name, node), at)
    identity.finish_renewal(directory, leaf.pem)
    await _kill_tunnel(mesh, node)


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
    "node drained": Fault(_drain_node, _resume_node),
    "node revoked": Fault(_revoke_node, _join_again),
    "certificate expired": Fault(_expire_certificate, _renew_certificate),
    "node frozen": Fault(_freeze_node, _thaw_node),
}


def _tunnels(mesh: LocalMesh, process: str) -> list[int]:
    """The tunnel below a node or the coordinator; none while it starts again."""
    below = psutil.Process(mesh.processes[process].pid).children(recursive=True)
    return [each.pid for each in below if each.name() == TUNNEL]


def _tree(mesh: LocalMesh, node: str) -> list[int]:
    agent = psutil.Process(mesh.processes[node].pid)
    return [each.pid for each in (*agent.children(recursive=True), agent)]


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
