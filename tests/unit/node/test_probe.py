"""What a node finds out about another one's port, on real sockets, and what it refuses to find out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rpcmesh.errors import PeerError
from rpcmesh.node import probe
from rpcmesh.node.probe import Target


@contextlib.contextmanager
def deaf_port() -> Iterator[int]:
    """A port whose queue is full: the kernel drops who else comes, as a firewall does."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_a_port_that_listens_is_connected_and_hung_up_on_without_a_byte() -> None:
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.set_result(await reader.read())
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as listener:
        probed = await probe.connect("127.0.0.1", listener.sockets[0].getsockname()[1])
        async with asyncio.timeout(10):
            assert await heard == b""

    assert probed.result == "connected"


async def test_a_closed_port_refuses(free_port: int) -> None:
    probed = await probe.connect("127.0.0.1", free_port)

    assert probed.result == "refused"
    assert 0 <= probed.after_s < 5


async def test_a_port_that_drops_is_silent_for_as_long_as_was_waited() -> None:
    with deaf_port() as port:
        probed = await probe.connect("127.0.0.1", port, limit_s=0.3)

    assert probed.result == "silent"
    assert probed.after_s >= 0.3


async def test_an_address_without_a_way_is_unreachable() -> None:
    assert (await probe.connect("255.255.255.255", 7443)).result == "unreachable"


@pytest.mark.parametrize(
    "body",
    [
        {"address": "192.168.1.10", "port": 7443},
        {"address": "fd00:6d65:7368::2", "port": 1024},
        {"address": "fe80::1%eth0", "port": 65535},
    ],
)
def test_another_machines_unprivileged_port_may_be_probed(body: dict[str, Any]) -> None:
    target = probe.parse(json.dumps(body).encode())

    assert (target.address, target.port) == (body["address"], body["port"])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "needs a numeric address and a port"),
        (b"[]", "needs a numeric address and a port"),
        (b'{"address": "10.0.0.1"}', "needs a numeric address and a port"),
        (b'{"address": "10.0.0.1", "port": "7443"}', "needs a numeric address and a port"),
        (b'{"address": "10.0.0.1", "port": 7443, "then": "GET /"}', "needs a numeric address and a port"),
        (b'{"address": "node-2.lan", "port": 7443}', "needs a numeric address and a port"),
        (b'{"address": "10.0.0.0/24", "port": 7443}', "needs a numeric address and a port"),
        (b'{"address": "127.0.0.1", "port": 7443}', "no address of another machine"),
        (b'{"address": "127.7.7.7", "port": 7443}', "no address of another machine"),
        (b'{"address": "::1", "port": 7443}', "no address of another machine"),
        (b'{"address": "::ffff:127.0.0.1", "port": 7443}', "no address of another machine"),
        (b'{"address": "0.0.0.0", "port": 7443}', "no address of another machine"),
        (b'{"address": "::", "port": 7443}', "no address of another machine"),
        (b'{"address": "224.0.0.1", "port": 7443}', "no address of another machine"),
        (b'{"address": "255.255.255.255", "port": 7443}', "no address of another machine"),
        (b'{"address": "10.0.0.1", "port": 22}', "port 22 is none that a tunnel listens on"),
        (b'{"address": "10.0.0.1", "port": 1023}', "port 1023 is none"),
        (b'{"address": "10.0.0.1", "port": 65536}', "port 65536 is none"),
        (b'{"address": "10.0.0.1", "port": -1}', "port -1 is none"),
    ],
)
def test_nothing_else_may(body: bytes, words: str) -> None:
    with pytest.raises(PeerError, match=words):
        probe.parse(body)


async def test_a_second_probe_is_refused_while_the_first_waits() -> None:
    prober = probe.Prober()
    with deaf_port() as port:
        first = asyncio.ensure_future(prober.probe(Target("127.0.0.1", port)))
        await asyncio.sleep(0)

        with pytest.raises(PeerError, match="another probe is under way"):
            await prober.probe(Target("127.0.0.1", port))

        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first


async def test_a_probe_that_was_given_up_makes_room(free_port: int) -> None:
    prober = probe.Prober()
    with deaf_port() as port, pytest.raises(TimeoutError):
        await asyncio.wait_for(prober.probe(Target("127.0.0.1", port)), 0.05)

    assert (await prober.probe(Target("127.0.0.1", free_port))).result == "refused"


async def test_probes_keep_a_distance(free_port: int) -> None:
    prober = probe.Prober()
    began = time.monotonic()

    for _ in range(3):
        await prober.probe(Target("127.0.0.1", free_port))

    assert time.monotonic() - began >= 2 * probe.INTERVAL_S
