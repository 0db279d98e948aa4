"""``rpcmesh connect``: a client of llama.cpp's own RPC protocol through the mesh, beside a model that serves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import whole_mesh
from whole_mesh import RPCMESH, run_cli

from rpcmesh.demo.local_mesh import LocalMesh, free_port
from rpcmesh.native_build import Build

HELLO, DEVICE_COUNT, GET_DEVICE_MEMORY = 14, 15, 11


@contextlib.contextmanager
def connected(mesh: LocalMesh, listen: str) -> Iterator[subprocess.Popen[str]]:
    """``rpcmesh connect node-1`` once it says where the worker is."""
    with subprocess.Popen(
        [*RPCMESH, "connect", "node-1", "--listen", listen],
        env={**os.environ, "RPCMESH_HOME": str(mesh.home.root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as verb:
        try:
            assert verb.stdout is not None
            said = verb.stdout.readline()
            assert listen in said, verb.communicate(timeout=10)
            yield verb
        finally:
            verb.kill()


def call(client: socket.socket, command: int, payload: bytes = b"") -> bytes:
    """One request of the RPC protocol, and its reply."""
    client.sendall(struct.pack("<BQ", command, len(payload)) + payload)
    (size,) = struct.unpack("<Q", exactly(client, 8))
    return exactly(client, size)


def exactly(client: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = client.recv(size - len(received))
        assert piece, f"the connection ended after {len(received)} of {size} bytes"
        received += piece
    return received


def probe(listen: str) -> tuple[bytes, int, int]:
    """Say HELLO and ask for the devices: the version and capabilities, how many there are, free bytes of the first."""
    host, _, port = listen.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        hello = call(client, HELLO, bytes(24))
        (devices,) = struct.unpack("<I", call(client, DEVICE_COUNT))
        free, _total = struct.unpack("<QQ", call(client, GET_DEVICE_MEMORY, struct.pack("<I", 0)))
    return hello, devices, free


async def test_a_stock_client_gets_a_worker_of_its_own_and_the_model_serves_on(build: Build, smollm2: Path) -> None:
    async with whole_mesh.ready(build, smollm2, nodes=1) as mesh:
        at = whole_mesh.endpoint(mesh)
        before = await whole_mesh.answer(at, whole_mesh.FRANCE)
        listen = f"127.0.0.1:{free_port()}"

        with connected(mesh, listen) as verb:
            hello, devices, free = await asyncio.to_thread(probe, listen)
            again = await asyncio.to_thread(probe, listen)  # one client after the other
            during = await whole_mesh.answer(at, whole_mesh.FRANCE)
            verb.send_signal(signal.SIGINT)
            _, said = await asyncio.to_thread(verb.communicate, timeout=30)

        assert hello[4:] == bytes(24)  # no capability may lead around the tunnel
        assert devices == 1
        assert free > 0
        assert again[1] == 1
        assert during.text == before.text
        assert verb.returncode == 0, said
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", int(listen[10:]))):
            raise AssertionError("the port is still open")


async def test_connect_refuses_what_it_cannot_give(build: Build, smollm2: Path) -> None:
    async with whole_mesh.founded(build, smollm2, min_workers=1) as mesh:
        await mesh.join("node-1")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            busy = f"127.0.0.1:{taken.getsockname()[1]}"

            stranger = await asyncio.to_thread(run_cli, mesh.home, "connect", "node-7")
            absent = await asyncio.to_thread(run_cli, mesh.home, "connect", "node-1")
            await mesh.run_node("node-1")
            await mesh.ready(lambda _: None, whole_mesh.READY_LIMIT_S)
            occupied = await asyncio.to_thread(run_cli, mesh.home, "connect", "node-1", "--listen", busy)
            open_to_all = await asyncio.to_thread(run_cli, mesh.home, "connect", "node-1", "--listen", "0.0.0.0:50052")

        assert [done.returncode for done in (stranger, absent, occupied, open_to_all)] == [1, 1, 1, 1]
        assert "no node of this mesh is named 'node-7'" in stranger.stderr
        assert "node 'node-1' cannot lend a worker" in absent.stderr
        assert "in use" in occupied.stderr
        assert "loopback" in open_to_all.stderr
