"""An RPC route lets one client at a time speak well-formed RPC to its worker; only capability bytes are altered."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from tunnel_harness import (
    COORDINATOR,
    NODE,
    Mesh,
    Tunnel,
    client_tls,
    dial,
    dial_unix,
    eventually,
    founded,
    receive,
    sample,
    unix_server,
)

from rpcmesh.tunnel.routes import EgressRoute, IngressRoute, rpc_alpn

GPU0, GPU1 = rpc_alpn("gpu0"), rpc_alpn("gpu1")
CAPS = bytes(range(1, 25))
TENSOR_BYTES = 296
FREE_BUFFER, SET_TENSOR, GRAPH_COMPUTE, HELLO, DEVICE_COUNT = 4, 6, 10, 14, 15


def frame(command: int, payload: bytes) -> bytes:
    return bytes([command]) + len(payload).to_bytes(8, "little") + payload


def header(command: int, length: int) -> bytes:
    return bytes([command]) + length.to_bytes(8, "little")


HELLO_REQUEST = frame(HELLO, CAPS)
HELLO_ZEROED = frame(HELLO, bytes(24))
HELLO_REPLY = (28).to_bytes(8, "little") + b"\x07\x00\x00\x00" + CAPS
HELLO_REPLY_ZEROED = HELLO_REPLY[:12] + bytes(24)


class Worker:
    """Notes what each connection brings, answers its HELLO with capabilities, and says how much came when it ends."""

    def __init__(self) -> None:
        self.received: list[bytearray] = []

    def __call__(self, connection: socket.socket) -> None:
        mine = bytearray()
        self.received.append(mine)
        mine += receive(connection, len(HELLO_REQUEST))
        # Byte by byte: the capabilities are to be found across any split.
        for byte in HELLO_REPLY:
            connection.send(bytes([byte]))
        while data := connection.recv(1 << 18):
            mine += data
        connection.sendall(b"%d bytes came" % len(mine))


class Node:
    """An ingress with two workers, and the coordinator's certificate."""

    def __init__(self, mesh: Mesh, tunnel: Tunnel, workers: dict[str, Worker]) -> None:
        self.mesh = mesh
        self.tunnel = tunnel
        self.workers = workers
        self.coordinator = mesh.identity("coordinator", mesh.leaf(COORDINATOR))

    def dial(self, alpn: str = GPU0) -> ssl.SSLSocket:
        return dial(self.tunnel.port, client_tls(self.coordinator, alpn))

    @property
    def received(self) -> list[bytearray]:
        return self.workers[GPU0].received


@contextlib.contextmanager
def node_of(mesh: Mesh, *options: str) -> Iterator[Node]:
    workers = {GPU0: Worker(), GPU1: Worker()}
    table = [IngressRoute(alpn, mesh.path(alpn[-4:]), COORDINATOR) for alpn in workers]
    with contextlib.ExitStack() as stack:
        for route in table:
            stack.enter_context(unix_server(route.socket, workers[route.alpn]))
        tunnel = stack.enter_context(mesh.ingress(table, mesh.identity("node", mesh.leaf(NODE)), *options))
        yield Node(mesh, tunnel, workers)


@pytest.fixture
def mesh(tunnel_binary: Path) -> Iterator[Mesh]:
    with founded(tunnel_binary) as mesh:
        yield mesh


@pytest.fixture
def node(mesh: Mesh) -> Iterator[Node]:
    with node_of(mesh) as node:
        yield node


def assert_cut(client: socket.socket) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        assert client.recv(100) == b""


def greet(client: socket.socket) -> None:
    client.sendall(HELLO_REQUEST)
    assert receive(client, len(HELLO_REPLY)) == HELLO_REPLY_ZEROED


@pytest.mark.parametrize("piece_bytes", [1, 9, 10, 32, len(HELLO_REQUEST)])
def test_capabilities_are_zeroed_both_ways(node: Node, piece_bytes: int) -> None:
    with node.dial() as client:
        for start in range(0, len(HELLO_REQUEST), piece_bytes):
            client.sendall(HELLO_REQUEST[start : start + piece_bytes])
        assert receive(client, len(HELLO_REPLY)) == HELLO_REPLY_ZEROED
    assert node.received == [HELLO_ZEROED]


def test_a_request_right_behind_hello_is_neither_lost_nor_altered(node: Node) -> None:
    requests = frame(DEVICE_COUNT, b"") + frame(FREE_BUFFER, CAPS[:8])
    with node.dial() as client:
        client.sendall(HELLO_REQUEST + requests)
        eventually(lambda: node.received and node.received[0] == HELLO_ZEROED + requests, "both requests")


@pytest.mark.parametrize(
    "opening",
    [
        frame(DEVICE_COUNT, b""),
        frame(FREE_BUFFER, bytes(8)),
        b"\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        frame(HELLO, b""),
        frame(HELLO, CAPS[:23]),
        frame(HELLO, CAPS + b"\x00"),
        header(HELLO, 2**63 + 24),
    ],
    ids=["device_count", "free_buffer", "unknown", "http", "empty_hello", "short_hello", "long_hello", "huge_hello"],
)
def test_whoever_does_not_begin_with_hello_never_reaches_the_worker(node: Node, opening: bytes) -> None:
    with node.dial() as client:
        client.sendall(opening)
        assert_cut(client)
    node.tunnel.wait_refused("hello_invalid")
    assert node.received == []


@pytest.mark.parametrize("opening", [b"", HELLO_REQUEST[:-1]], ids=["nothing", "half_a_hello"])
def test_whoever_does_not_say_hello_in_time_is_refused(mesh: Mesh, opening: bytes) -> None:
    with node_of(mesh, "--handshake-timeout-s", "1") as node, node.dial() as client:
        client.sendall(opening)
        assert_cut(client)
        node.tunnel.wait_refused("hello_timeout")
        assert node.received == []


@pytest.mark.parametrize(
    "bad",
    [
        frame(18, b""),
        b"\xff",
        HELLO_REQUEST,
        frame(FREE_BUFFER, bytes(7)),
        frame(FREE_BUFFER, bytes(9)),
        frame(DEVICE_COUNT, b"\x00"),
        header(SET_TENSOR, TENSOR_BYTES + 8),
        header(GRAPH_COMPUTE, 256 * 2**20 + 1),
        header(SET_TENSOR, 2**64 - 1),
    ],
    ids=["unknown", "first_byte", "hello_again", "short", "long", "not_empty", "no_tensor", "huge_graph", "endless"],
)
def test_a_malformed_frame_cuts_the_client_before_the_worker_sees_it(node: Node, bad: bytes) -> None:
    good = frame(FREE_BUFFER, bytes(8))
    with node.dial() as client:
        greet(client)
        client.sendall(good)
        eventually(lambda: node.received[0] == HELLO_ZEROED + good, "the good frame")
        client.sendall(bad)
        assert_cut(client)
    assert node.tunnel.wait_closed() == "frame_invalid"
    assert node.tunnel.status().totals.refused == {"frame_invalid": 1}
    assert node.received == [HELLO_ZEROED + good]


def test_a_second_client_is_refused_while_the_first_is_there(mesh: Mesh) -> None:
    with node_of(mesh, "--lease-wait-ms", "100") as node, node.dial() as first:
        greet(first)
        with node.dial() as second:
            second.sendall(HELLO_REQUEST)
            assert_cut(second)
        node.tunnel.wait_refused("lease_busy")
        request = frame(DEVICE_COUNT, b"")
        first.sendall(request)
        eventually(lambda: node.received == [HELLO_ZEROED + request], "the first client's request, and nobody else's")


def test_a_second_client_has_the_worker_once_the_first_leaves(mesh: Mesh) -> None:
    with node_of(mesh, "--lease-wait-ms", "20000") as node, contextlib.closing(node.dial()) as first:
        greet(first)
        with node.dial() as second:
            second.sendall(HELLO_REQUEST)
            eventually(lambda: len(node.tunnel.status().sessions) == 2, "the second client waits")
            assert len(node.received) == 1
            first.close()
            assert receive(second, len(HELLO_REPLY)) == HELLO_REPLY_ZEROED


def test_each_worker_has_a_lease_of_its_own(mesh: Mesh) -> None:
    with node_of(mesh, "--lease-wait-ms", "0") as node, node.dial(GPU0) as first, node.dial(GPU1) as second:
        greet(first)
        greet(second)
        assert {session.route for session in node.tunnel.status().sessions} == {GPU0, GPU1}


def test_a_worker_that_is_not_there_is_counted_and_its_lease_is_free_again(mesh: Mesh) -> None:
    route = IngressRoute(GPU0, mesh.path("gpu0"), COORDINATOR)
    with mesh.ingress([route], mesh.identity("node", mesh.leaf(NODE)), "--lease-wait-ms", "0") as tunnel:
        node = Node(mesh, tunnel, {})
        for attempt in (1, 2):
            with node.dial() as client:
                client.sendall(HELLO_REQUEST)
                assert_cut(client)
            tunnel.wait_refused("worker_unreachable", attempt)
        with unix_server(route.socket, Worker()), node.dial() as client:
            greet(client)


def test_a_large_tensor_arrives_intact_whatever_its_pieces(node: Node) -> None:
    tensor = frame(SET_TENSOR, sample(TENSOR_BYTES + 9 + 6 * 2**20 + 13))
    sizes = itertools.cycle([1, 7, 8, 9, 10, 4095, 16_384, 16_385, 262_143, 262_145, 1_000_003])
    requests = tensor + frame(DEVICE_COUNT, b"") + tensor
    with node.dial() as client:
        greet(client)
        rest = memoryview(requests)
        while rest:
            size = next(sizes)
            client.sendall(rest[:size])
            rest = rest[size:]
        eventually(lambda: len(node.received[0]) == len(HELLO_REQUEST + requests), "every byte")
    assert hashlib.sha256(node.received[0]).digest() == hashlib.sha256(HELLO_ZEROED + requests).digest()


@contextlib.contextmanager
def from_the_coordinator(node: Node) -> Iterator[socket.socket]:
    """A local client of an egress that leads to ``node``: unlike TLS sockets in Python it can close one half."""
    route = EgressRoute(node.mesh.path("local"), f"127.0.0.1:{node.tunnel.port}", GPU0, NODE)
    with node.mesh.egress([route], node.coordinator), dial_unix(route.listen) as client:
        yield client


def test_a_client_that_is_done_writing_still_hears_the_last_answer(node: Node) -> None:
    requests = frame(FREE_BUFFER, bytes(8)) * 1000
    with from_the_coordinator(node) as client:
        greet(client)
        client.sendall(requests)
        client.shutdown(socket.SHUT_WR)
        answer = b"%d bytes came" % len(HELLO_REQUEST + requests)
        assert receive(client, len(answer) + 1) == answer
    assert node.tunnel.wait_closed() == "peer_closed"


def test_what_a_worker_said_before_it_left_arrives_before_the_end(mesh: Mesh) -> None:
    last_words = sample(3 * 2**20)

    def leave_after_speaking(connection: socket.socket) -> None:
        receive(connection, len(HELLO_REQUEST))
        connection.sendall(HELLO_REPLY + last_words)

    route = IngressRoute(GPU0, mesh.path("gpu0"), COORDINATOR)
    with (
        unix_server(route.socket, leave_after_speaking),
        mesh.ingress([route], mesh.identity("node", mesh.leaf(NODE))) as tunnel,
        from_the_coordinator(Node(mesh, tunnel, {})) as client,
    ):
        greet(client)
        assert receive(client, len(last_words) + 1) == last_words


def test_a_worker_that_dies_ends_the_session(mesh: Mesh) -> None:
    def die_with_a_request_unread(connection: socket.socket) -> None:
        receive(connection, len(HELLO_REQUEST))
        connection.sendall(HELLO_REPLY)
        connection.recv(1, socket.MSG_PEEK)

    route = IngressRoute(GPU0, mesh.path("gpu0"), COORDINATOR)
    with (
        unix_server(route.socket, die_with_a_request_unread),
        mesh.ingress([route], mesh.identity("node", mesh.leaf(NODE))) as tunnel,
        Node(mesh, tunnel, {}).dial() as client,
    ):
        greet(client)
        client.sendall(frame(FREE_BUFFER, bytes(8)))
        assert_cut(client)
        assert tunnel.wait_closed() == "local_closed"
        eventually(lambda: tunnel.status().sessions == (), "the session is off the list")
