"""Numbers inside tensors can end a worker, and no header shows them: its supervisor has the next one ready in time."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from attack_conduct import SECRET
from attack_kinds import BUFFER_BYTES, Attack, session
from attacks import VALUES
from process_probe import until
from rpc_worker import assert_cut, set_tensor
from tunnel_harness import COORDINATOR, NODE, client_tls, dial, founded

from rpcmesh.native_build import Build
from rpcmesh.supervise.supervisor import Service, State, Supervisor
from rpcmesh.tunnel.routes import IngressRoute, rpc_alpn

SERVED_WITHIN_S = 2.0
W0 = rpc_alpn("w0")


@dataclass(frozen=True)
class Node:
    """The way to a supervised worker."""

    port: int
    identity: Path
    pid: int = 0

    def connect(self) -> ssl.SSLSocket:
        return dial(self.port, client_tls(self.identity, W0))

    def suffer(self, attack: Attack) -> None:
        with session(self) as attacker:
            buffer = attacker.alloc(attack.size)
            attacker.send(attack.frame_for(buffer))
            assert_cut(attacker.connection)

    def serve(self) -> None:
        with session(self) as client:
            buffer = client.alloc(BUFFER_BYTES)
            assert client.read(buffer) == bytes(BUFFER_BYTES)
            client.send(set_tensor(buffer.bytes_at(), 0, SECRET))
            assert client.read(buffer) == SECRET


@pytest.mark.parametrize("attack", VALUES, ids=lambda attack: attack.name)
async def test_a_worker_that_dies_of_a_number_is_back_for_the_next(
    build: Build, tunnel_binary: Path, tmp_path: Path, attack: Attack
) -> None:
    path = tmp_path / "w0.sock"
    argv = (str(build.worker), "-H", str(path), "-p", "1", "-t", "1")
    supervisor = Supervisor(Service(name="w0", argv=argv, env={"PATH": "/usr/bin:/bin"}, socket=path, cwd=tmp_path))
    with founded(tunnel_binary) as mesh:
        coordinator = mesh.identity("coordinator", mesh.leaf(COORDINATOR))
        route = IngressRoute(W0, path, COORDINATOR)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(supervisor.run())
            await supervisor.until_ready()
            with mesh.ingress([route], mesh.identity("node", mesh.leaf(NODE))) as tunnel:
                node = Node(await asyncio.to_thread(lambda: tunnel.port), coordinator)

                await asyncio.to_thread(node.suffer, attack)
                begin = time.monotonic()
                await until(lambda: (supervisor.snapshot.restarts, supervisor.snapshot.state) == (1, State.READY))
                await asyncio.to_thread(node.serve)
                took_s = time.monotonic() - begin
            running.cancel()

    assert supervisor.snapshot.last_exit.startswith("killed by SIG")
    assert took_s < SERVED_WITHIN_S
