"""The real worker of a real ``rpcmesh node run``: what is in force, that it computes, and where it cannot be had."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from confined_node import WITHOUT_LANDLOCK, coordinator_of, found_walls, node_home, node_running
from process_probe import kill, until, until_gone
from rpc_worker import greet, set_tensor, sum_of
from test_supervise_parent import family
from tunnel_harness import client_tls, dial, eventually

from rpcmesh.coordinator.agent_client import AgentClient
from rpcmesh.errors import PeerError, RpcmeshError
from rpcmesh.native_build import Build
from rpcmesh.node import api, worker
from rpcmesh.node.sandbox import NOT_CONFINED, address_space_mib
from rpcmesh.node.status import WorkerStatus
from rpcmesh.paths import Home
from rpcmesh.tunnel.routes import rpc_alpn

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="on macOS the walls are a profile's")

AS_ROOT = os.geteuid() == 0
MEMORY_MIB = 96
W0 = rpc_alpn(worker.ENGINE_WORKER)
LIMITS = {
    "Max core file size": 0,
    "Max open files": 64,
    "Max file size": 0,
    "Max address space": address_space_mib(MEMORY_MIB, os.cpu_count() or 1) << 20,
}


def worker_of(home: Home, node: subprocess.Popen[bytes], said: Path) -> WorkerStatus:
    """What the agent says of the worker, once it and the tunnel are ready."""

    async def ask() -> WorkerStatus | None:
        agent = AgentClient(home.socket(api.SOCKET_NAME))
        try:
            seen = await agent.status()
        except PeerError:
            return None
        finally:
            await agent.close()
        found = seen.workers[0]
        return found if (found.state, seen.tunnel_state) == ("ready", "ready") and found.devices else None

    def look() -> WorkerStatus | None:
        assert node.poll() is None, said.read_text()
        return asyncio.run(ask())

    found: WorkerStatus = eventually(look, "a worker that is ready", 60.0)
    return found


def in_proc(pid: int | None, file: str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_a_nodes_worker_is_confined_and_computes_up_to_its_quota(build: Build, free_port: int) -> None:
    with (
        node_home() as home,
        node_running(
            home, free_port, RPCMESH_NODE_SANDBOX="required", RPCMESH_NODE_MEMORY_LIMIT_MIB=str(MEMORY_MIB)
        ) as (node, said),
    ):
        found = worker_of(home, node, said)
        kernels = in_proc(found.pid, "status")
        limits = Path(f"/proc/{found.pid}/limits").read_text()

        with dial(free_port, client_tls(coordinator_of(home), W0)) as connection:
            client = greet(connection)
            small = client.alloc(512)
            client.send(set_tensor(small.bytes_at(), 0, struct.pack("<128f", *range(128))), sum_of(small))
            total = struct.unpack("<64f", client.read(small, 0, 256))
            large = client.alloc((MEMORY_MIB - 1) << 20)
            content = os.urandom(1 << 20) * (MEMORY_MIB - 1)
            client.send(set_tensor(large.bytes_at(), 0, content))
            came_back = client.read(large)

        after = worker_of(home, node, said)

    assert found.sandbox.state == "confined", found.sandbox
    assert found.sandbox.missing == ()
    assert found.sandbox.landlock > 0
    assert found.sandbox.call_filter
    assert (kernels["Seccomp"], kernels["NoNewPrivs"]) == ("2", "1")
    assert [int(kernels[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")] == [0, 0, 0, 0]
    assert int(kernels["SigIgn"], 16) & 1 << (signal.SIGPIPE - 1)
    assert (int(kernels["Uid"].split()[0]) != 0, found.sandbox.uid == os.geteuid()) == (True, not AS_ROOT)
    for name, limit in LIMITS.items():
        assert re.search(rf"^{name} +{limit} +{limit} ", limits, re.MULTILINE), limits
    assert total == tuple(64.0 + 2 * i for i in range(64))
    assert came_back == content
    assert (after.pid, after.restarts) == (found.pid, 0)


def test_a_kernel_without_landlock_is_said_and_the_rest_is_in_force(build: Build, free_port: int) -> None:
    with node_home() as home, node_running(home, free_port, *WITHOUT_LANDLOCK) as (node, said):
        found = worker_of(home, node, said)
        shown = {line.partition(" ")[0] for line in said.read_text().splitlines() if "worker_confined" in line}
        kernels = in_proc(found.pid, "status")

    assert found.sandbox.state == "partial"
    assert found.sandbox.missing == ("landlock: this kernel has none",)
    assert (found.sandbox.landlock, found.sandbox.call_filter) == (0, True)
    assert kernels["Seccomp_filters"] == "2"  # that of the old kernel, and its own
    assert shown


def test_a_kernel_without_landlock_is_not_enough_where_it_is_required(build: Build, free_port: int) -> None:
    with (
        node_home() as home,
        node_running(home, free_port, *WITHOUT_LANDLOCK, RPCMESH_NODE_SANDBOX="required") as (node, said),
    ):
        assert node.wait(60.0) == 1
        lines = said.read_text().splitlines()
        assert not home.worker_socket("w0").exists()

    (reason,) = [line for line in lines if "worker_not_confined" in line and "event" in line]
    assert "landlock: this kernel has none" in reason
    assert NOT_CONFINED.message in lines[-2]
    assert str(NOT_CONFINED.hint) in lines[-1]


# A root that is the only user there is, as in some containers.
ALONE = ("unshare", "--user", "--map-root-user")
one_user = pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode != 0,
    reason="needs unshare, from util-linux, and user namespaces",
)


@one_user
def test_where_there_is_no_other_user_to_become_it_is_said(build: Build, free_port: int) -> None:
    with node_home() as home, node_running(home, free_port, *ALONE) as (node, said):
        found = worker_of(home, node, said)
        kernels = in_proc(found.pid, "status")

    assert found.sandbox.state == "partial"
    assert found.sandbox.missing == ("user: 'nobody' cannot own a folder here: Invalid argument",)
    assert (found.sandbox.uid, found.sandbox.landlock > 0, found.sandbox.call_filter) == (0, True, True)
    assert int(kernels["CapEff"], 16) == 0


@one_user
def test_where_there_is_no_other_user_to_become_it_is_not_enough_where_required(build: Build, free_port: int) -> None:
    with node_home() as home, node_running(home, free_port, *ALONE, RPCMESH_NODE_SANDBOX="required") as (node, said):
        assert node.wait(60.0) == 1
        lines = said.read_text().splitlines()

    assert "[node] sandbox is \"required\", and this cannot be had: user: 'nobody' cannot own" in lines[-2]
    assert "rpcmesh service install --role node" in lines[-1]


def test_no_sandbox_is_what_was_asked_for_and_is_said(build: Build, free_port: int) -> None:
    with node_home() as home, node_running(home, free_port, RPCMESH_NODE_SANDBOX="off") as (node, said):
        found = worker_of(home, node, said)
        kernels = in_proc(found.pid, "status")
        socket = home.worker_socket("w0").stat()

    assert found.sandbox.state == "off"
    assert (kernels["Seccomp"], kernels["NoNewPrivs"]) == ("0", "0")
    assert (socket.st_uid, socket.st_mode & 0o777) == (os.geteuid(), 0o600)


async def test_a_confined_worker_dies_with_its_tether(build: Build) -> None:
    """The kernel ends it, though becoming another user makes the kernel forget that it should."""
    with node_home() as home:
        service = worker.service(home, build, "w0", 1, found_walls(home, build, "required"))
        service.prepare()
        with family(*service.argv) as started:
            await until(home.worker_socket("w0").is_socket)
            started.supervisor.send_signal(signal.SIGSTOP)  # so that it is not the one

            kill(started.tether)

            try:
                await until_gone(started.child)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    kill(started.child)


def test_a_worker_is_not_given_a_link_for_its_folder(build: Build) -> None:
    with node_home() as home:
        home.worker_dir("w0").symlink_to(home.identity)
        service = worker.service(home, build, "w0", 1, found_walls(home, build))

        with pytest.raises(RpcmeshError, match="is not a folder"):
            service.prepare()

        assert home.identity.stat().st_uid == os.geteuid()
