"""What is in force for the processes of a node that runs here: their walls and their ports."""

from __future__ import annotations

import socket
import struct
import sys
from functools import partial
from pathlib import Path

import psutil

from rpcmesh.doctor import read_linux
from rpcmesh.doctor.facts import Listener, Unknown, Walls
from rpcmesh.doctor.gather.looking import look
from rpcmesh.errors import RpcmeshError
from rpcmesh.node import api
from rpcmesh.node.status import AgentStatus
from rpcmesh.paths import Home

PROC = Path("/proc")
# <sys/un.h> of macOS. Not run on a Mac.
SOL_LOCAL, LOCAL_PEERPID = 0, 2
CONNECT_LIMIT_S = 2.0


def walls(home: Home, agent: AgentStatus) -> tuple[Walls | Unknown, ...]:
    """Of each worker that runs. Its pid is the agent's word: only one of the agent's own processes is believed."""
    running = [worker for worker in agent.workers if worker.pid is not None]
    node = psutil.Process(_pid_behind(home.socket(api.SOCKET_NAME)))
    processes = {process.pid: process for process in node.children(recursive=True)}
    return tuple(look(partial(_walls, worker.name, processes.get(worker.pid or 0), node)) for worker in running)


def _walls(worker: str, process: psutil.Process | None, node: psutil.Process) -> Walls:
    if not PROC.is_dir():
        raise RpcmeshError(f"worker {worker}: this system does not tell what walls a process has")
    if process is None:
        raise RpcmeshError(f"worker {worker}: it is gone, or out of sight")
    try:
        said = (PROC / str(process.pid) / "status").read_text()
    except OSError as error:
        raise RpcmeshError(f"worker {worker}: {error.strerror}") from error
    found = read_linux.confinement(said)
    if found is None:
        raise RpcmeshError(f"worker {worker}: /proc/{process.pid}/status says nothing of its walls")
    return Walls(
        worker=worker,
        uid=found.uid,
        no_new_privileges=found.no_new_privileges,
        call_filter=found.call_filter,
        own_network=_own_network(process.pid, node.pid),
    )


def _own_network(pid: int, agent_pid: int) -> bool | None:
    """Whether it is another one than the agent's, which is the machine's."""
    try:
        worker, agent = ((PROC / str(one) / "ns" / "net").readlink() for one in (pid, agent_pid))
    except OSError:
        return None  # of another user, or gone
    return worker != agent


def listeners(home: Home) -> tuple[Listener, ...]:
    """The TCP ports that the node's processes listen on, whoever of them does."""
    node = psutil.Process(_pid_behind(home.socket(api.SOCKET_NAME)))
    found = []
    for process in (node, *node.children(recursive=True)):
        try:
            name, connections = process.name(), process.net_connections("tcp")
        except psutil.NoSuchProcess:
            continue
        ports = {(one.laddr.ip, one.laddr.port) for one in connections if one.status == psutil.CONN_LISTEN}
        found += [Listener(process=name, pid=process.pid, host=host, port=port) for host, port in sorted(ports)]
    return tuple(found)


def _pid_behind(path: Path) -> int:
    """Who listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(CONNECT_LIMIT_S)
        asking.connect(str(path))
        if sys.platform == "linux":
            pid, _, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        else:
            pid = asking.getsockopt(SOL_LOCAL, LOCAL_PEERPID)
    if not pid:
        raise RpcmeshError(f"the process behind {str(path)!r} is out of sight")
    return int(pid)
