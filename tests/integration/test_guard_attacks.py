"""Whoever holds a coordinator's certificate can neither crash, block nor sound out a real worker: attack by attack.

Each of them ended, hung or opened a worker without a guard, or is there to see that none does. Here it ends its own
session only, and the next one is served.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from attack_conduct import SECRET, look_at_numbers
from attack_kinds import BUFFER_BYTES, Attack, Conduct, Loot, session
from attacks import ATTACKS, CONDUCTS
from rpc_worker import HELLO_REQUEST, Client, Command, assert_cut, frame, set_tensor, sum_of, u32, u64
from tunnel_harness import COORDINATOR, NODE, Tunnel, client_tls, dial, eventually, founded

from rpcmesh.native_build import Build
from rpcmesh.tunnel.routes import IngressRoute, rpc_alpn

GPU0 = rpc_alpn("gpu0")
MEMORY_MIB = 64
SERVED_WITHIN_S = 2.0


@dataclass(frozen=True)
class Target:
    """A real worker behind a real ingress, and the certificate to reach it."""

    worker: subprocess.Popen[bytes]
    tunnel: Tunnel
    port: int
    identity: Path

    @property
    def pid(self) -> int:
        return self.worker.pid

    def connect(self) -> socket.socket:
        return dial(self.port, client_tls(self.identity, GPU0))

    def session(self) -> AbstractContextManager[Client]:
        return session(self)

    def refused(self, word: str) -> int:
        return self.tunnel.status().totals.refused.get(word, 0)

    def serves_the_next(self) -> None:
        """The very same process, soon, and nobody's old bytes. Leaves a secret behind for whoever comes next."""
        begin = time.monotonic()
        with self.session() as client:
            buffer = client.alloc(BUFFER_BYTES)
            assert client.read(buffer) == bytes(BUFFER_BYTES)
            client.send(set_tensor(buffer.bytes_at(), 0, SECRET))
            assert client.read(buffer) == SECRET
        assert time.monotonic() - begin < SERVED_WITHIN_S
        assert self.worker.poll() is None

    def refuses_the_next(self, word: str) -> None:
        before = self.refused(word)
        with self.connect() as second:
            second.sendall(HELLO_REQUEST)
            assert_cut(second)
        self.tunnel.wait_refused(word, before + 1)


@pytest.fixture(scope="module")
def target(build: Build, tunnel_binary: Path) -> Iterator[Target]:
    with founded(tunnel_binary) as mesh:
        path = mesh.path("gpu0")
        arguments = [str(build.worker), "-H", str(path), "-p", "1", "-t", "1"]
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        with (
            mesh.path("worker.log").open("wb") as log,
            subprocess.Popen(arguments, env=environment, cwd=mesh.root, stdout=log, stderr=log) as worker,
        ):
            try:
                eventually(path.is_socket, "the worker's socket")
                route = IngressRoute(GPU0, path, COORDINATOR)
                identity = mesh.identity("node", mesh.leaf(NODE))
                options = ("--memory-mib", str(MEMORY_MIB), "--handshake-timeout-s", "60", "--lease-wait-ms", "1500")
                coordinator = mesh.identity("coordinator", mesh.leaf(COORDINATOR))
                with mesh.ingress([route], identity, *options) as tunnel:
                    yield Target(worker, tunnel, tunnel.port, coordinator)
            finally:
                worker.kill()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_the_attacker_alone_is_cut_off(target: Target, attack: Attack) -> None:
    before = target.refused(attack.word)
    with target.session() as attacker:
        buffer = attacker.alloc(attack.size)
        with contextlib.suppress(ConnectionError):
            attacker.send(attack.frame_for(buffer))
        assert_cut(attacker.connection)
    target.tunnel.wait_refused(attack.word, before + 1)
    target.serves_the_next()


def on_this_system(conduct: Conduct) -> pytest.param:
    no_maps = conduct.act is look_at_numbers and sys.platform != "linux"
    marks = [pytest.mark.skip(reason="/proc tells what a number may point to")] if no_maps else []
    return pytest.param(conduct, id=conduct.name, marks=marks)


@pytest.mark.parametrize("conduct", [on_this_system(conduct) for conduct in CONDUCTS])
def test_the_next_client_is_served_or_told_why_not(target: Target, conduct: Conduct) -> None:
    with conduct.act(target) as loot:
        assert loot == Loot()
        if conduct.meanwhile:
            target.refuses_the_next(conduct.meanwhile)
        else:
            target.serves_the_next()
    target.serves_the_next()


def test_the_nodes_memory_is_given_once(target: Target) -> None:
    with target.session() as attacker:
        buffer = attacker.alloc((MEMORY_MIB << 20) - BUFFER_BYTES)
        assert attacker.ask(Command.ALLOC_BUFFER, u32(0) + u64(2 * BUFFER_BYTES)) == u64(0, 0)
        attacker.send(frame(Command.FREE_BUFFER, u64(buffer.handle)))
        attacker.alloc(2 * BUFFER_BYTES)
    target.serves_the_next()


def test_an_honest_graph_is_computed_after_all_this(target: Target) -> None:
    with target.session() as client:
        buffer = client.alloc(512)
        client.send(set_tensor(buffer.bytes_at(), 0, struct.pack("<128f", *range(128))), sum_of(buffer))
        total = struct.unpack("<64f", client.read(buffer, 0, 256))
    assert total == tuple(64.0 + 2 * i for i in range(64))
