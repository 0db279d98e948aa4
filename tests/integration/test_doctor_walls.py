"""What is in force for a node's processes, seen at real ones: their walls and their ports."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from process_probe import python
from test_node_agent import STATUS
from whole_mesh import short_home

from rpcmesh.doctor import read_linux
from rpcmesh.doctor.facts import Unknown, Walls
from rpcmesh.doctor.gather.walls import listeners, walls
from rpcmesh.node import api
from rpcmesh.node.status import AgentStatus, WorkerStatus
from rpcmesh.paths import Home
from rpcmesh.serving import unix_site

SETPRIV, UNSHARE = shutil.which("setpriv"), shutil.which("unshare")
WAIT = python("import sys; print('up', flush=True); sys.stdin.read()")
LISTEN = python(
    "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True);"
    "sys.stdin.read()"
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    """A home whose agent is this very process."""
    with short_home() as made:
        async with unix_site(web.Application(), made.socket(api.SOCKET_NAME)):
            yield made


@contextlib.contextmanager
def running(*argv: str) -> Iterator[tuple[int, str]]:
    """The pid of a child of ours, and the line that it printed."""
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield child.pid, child.stdout.readline().strip()
        child.kill()


def with_worker(pid: int | None) -> AgentStatus:
    worker = WorkerStatus(name="w0", state="ready", pid=pid, restarts=0, last_exit="", rss_bytes=0)
    return msgspec.structs.replace(STATUS, workers=(worker,))


def ours() -> read_linux.Confinement:
    found = read_linux.confinement(Path("/proc/self/status").read_text())
    assert found is not None
    return found


@linux
async def test_a_child_without_walls_has_those_of_its_parent(home: Home) -> None:
    with running(*WAIT) as (pid, _):
        seen = walls(home, with_worker(pid))

    assert seen == (Walls("w0", os.geteuid(), ours().no_new_privileges, ours().call_filter, own_network=False),)


@linux
@pytest.mark.skipif(not SETPRIV, reason="needs setpriv, from util-linux")
async def test_a_child_that_gave_up_new_rights_is_seen_to(home: Home) -> None:
    with running(str(SETPRIV), "--no-new-privs", *WAIT) as (pid, _):
        (seen,) = walls(home, with_worker(pid))

    assert isinstance(seen, Walls)
    assert seen.no_new_privileges


@linux
@pytest.mark.skipif(os.geteuid() != 0 or not UNSHARE, reason="a network of its own needs root and unshare")
async def test_a_network_of_its_own_is_seen(home: Home) -> None:
    with running(str(UNSHARE), "--net", *WAIT) as (pid, _):
        (seen,) = walls(home, with_worker(pid))

    assert isinstance(seen, Walls)
    assert seen.own_network


@linux
async def test_a_process_that_is_not_the_agents_is_not_taken_for_its_worker(home: Home) -> None:
    assert walls(home, with_worker(1)) == (Unknown("worker w0: it is gone, or out of sight"),)


async def test_a_worker_that_does_not_run_has_no_walls(home: Home) -> None:
    assert walls(home, with_worker(None)) == ()


@linux
async def test_a_port_of_a_child_is_found_with_who_holds_it(home: Home) -> None:
    before = {(one.pid, one.port) for one in listeners(home)}

    with running(*LISTEN) as (pid, port):
        (found,) = (one for one in listeners(home) if (one.pid, one.port) not in before)

    assert (found.pid, found.host, found.port) == (pid, "127.0.0.1", int(port))
    assert found.process.startswith("python")


@linux
async def test_connections_and_unix_sockets_are_no_ports(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        ports = [one.port for one in listeners(home) if one.pid == os.getpid()]
        expected = listener.getsockname()[1]

    assert ports == [expected]
