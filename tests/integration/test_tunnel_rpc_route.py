"""An RPC route lets one client at a time ask its worker, frame by checked frame, and shows it none of its numbers."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from rpc_worker import (
    CAPS,
    HELLO_REPLY,
    HELLO_REPLY_ZEROED,
    HELLO_REQUEST,
    TENSOR_BYTES,
    Buffer,
    Client,
    Command,
    Frame,
    Request,
    Thinker,
    Worker,
    assert_cut,
    frame,
    get_tensor,
    graph,
    greet,
    header,
    reply,
    set_tensor,
    sum_of,
    tensor,
    u32,
    u64,
)
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
HELLO_NOTED = Request(Command.HELLO, bytes(24))
ALIGNMENT_REQUEST = frame(Command.GET_ALIGNMENT, u32(0))
# What the worker is asked when a client has allocated its first buffer.
ALLOCATED = [Command.HELLO, Command.ALLOC_BUFFER, Command.BUFFER_GET_BASE, Command.BUFFER_CLEAR]


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
    def worker(self) -> Worker:
        return self.workers[GPU0]


@contextlib.contextmanager
def node_of(mesh: Mesh, *options: str, worker: Worker | None = None) -> Iterator[Node]:
    workers = {GPU0: worker or Worker(), GPU1: Worker()}
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


@pytest.mark.parametrize("piece_bytes", [1, 9, 10, 32, len(HELLO_REQUEST)])
def test_capabilities_are_zeroed_both_ways(node: Node, piece_bytes: int) -> None:
    with node.dial() as client:
        for start in range(0, len(HELLO_REQUEST), piece_bytes):
            client.sendall(HELLO_REQUEST[start : start + piece_bytes])
        assert receive(client, len(HELLO_REPLY)) == HELLO_REPLY_ZEROED
    assert node.worker.requests == [HELLO_NOTED]


def test_requests_right_behind_hello_are_neither_lost_nor_altered(node: Node) -> None:
    with node.dial() as connection:
        client = Client(connection)
        client.send(HELLO_REQUEST, frame(Command.DEVICE_COUNT), ALIGNMENT_REQUEST)
        assert client.answer() == HELLO_REPLY_ZEROED[8:]
        assert client.answer() == u32(1)
        assert client.answer() == u64(Worker.ALIGNMENT)
    noted = [HELLO_NOTED, Request(Command.DEVICE_COUNT, b""), Request(Command.GET_ALIGNMENT, u32(0))]
    assert node.worker.requests == noted


@pytest.mark.parametrize(
    "opening",
    [
        frame(Command.DEVICE_COUNT),
        frame(Command.FREE_BUFFER, bytes(8)),
        b"\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        frame(Command.HELLO, b""),
        frame(Command.HELLO, CAPS[:23]),
        frame(Command.HELLO, CAPS + b"\x00"),
        header(Command.HELLO, 2**63 + 24),
    ],
    ids=["device_count", "free_buffer", "unknown", "http", "empty_hello", "short_hello", "long_hello", "huge_hello"],
)
def test_whoever_does_not_begin_with_hello_never_reaches_the_worker(node: Node, opening: bytes) -> None:
    with node.dial() as client:
        client.sendall(opening)
        assert_cut(client)
    node.tunnel.wait_refused("hello_invalid")
    assert node.worker.sessions == []


@pytest.mark.parametrize("opening", [b"", HELLO_REQUEST[:-1]], ids=["nothing", "half_a_hello"])
def test_whoever_does_not_say_hello_in_time_is_refused(mesh: Mesh, opening: bytes) -> None:
    with node_of(mesh, "--handshake-timeout-s", "1") as node, node.dial() as client:
        client.sendall(opening)
        assert_cut(client)
        node.tunnel.wait_refused("hello_timeout")
        assert node.worker.sessions == []


MALFORMED: list[tuple[str, str, Frame]] = [
    ("unknown", "command_unknown", frame(18)),
    ("first_byte", "command_unknown", b"\xff"),
    ("hello_again", "hello_invalid", HELLO_REQUEST),
    ("short", "length_invalid", frame(Command.FREE_BUFFER, bytes(7))),
    ("long", "length_invalid", frame(Command.FREE_BUFFER, bytes(9))),
    ("not_empty", "length_invalid", frame(Command.DEVICE_COUNT, b"\x00")),
    ("no_tensor", "length_invalid", header(Command.SET_TENSOR, TENSOR_BYTES + 8)),
    ("huge_graph", "length_invalid", header(Command.GRAPH_COMPUTE, 256 * 2**20 + 1)),
    ("endless", "length_invalid", header(Command.SET_TENSOR, 2**64 - 1)),
    ("no_buffer", "buffer_unknown", frame(Command.FREE_BUFFER, u64(99))),
    ("workers_own_handle", "buffer_unknown", frame(Command.FREE_BUFFER, u64(Worker.HANDLE))),
    ("no_device", "device_unknown", frame(Command.GET_ALIGNMENT, u32(16))),
    ("beyond_the_end", "tensor_bounds", lambda buffer: set_tensor(buffer.bytes_at(), 1, bytes(buffer.size))),
    ("no_nodes", "graph_length", frame(Command.GRAPH_COMPUTE, bytes(316))),
    ("recompute", "recompute_without_graph", frame(Command.GRAPH_RECOMPUTE, u32(0))),
]


@pytest.mark.parametrize(("word", "bad"), [row[1:] for row in MALFORMED], ids=[row[0] for row in MALFORMED])
def test_a_malformed_frame_cuts_the_client_before_the_worker_sees_it(node: Node, word: str, bad: Frame) -> None:
    with node.dial() as connection:
        client = greet(connection)
        buffer = client.alloc(4096)
        client.send(frame(Command.INIT_TENSOR, buffer.bytes_at()))
        good = [*ALLOCATED, Command.INIT_TENSOR]
        eventually(lambda: node.worker.commands == good, "the good frames")
        client.send(bad if isinstance(bad, bytes) else bad(buffer))
        assert_cut(connection)
    assert node.tunnel.wait_closed() == "frame_invalid"
    assert node.tunnel.status().totals.refused == {word: 1}
    assert node.worker.commands == good


def test_a_refused_frame_is_logged_in_words(node: Node) -> None:
    double = graph([0xC0, 0xC0], [tensor(key=0xC0)])
    with node.dial() as connection:
        greet(connection).send(double)
        assert_cut(connection)
    line = eventually(lambda: node.tunnel.log("frame_refused"), "the line")[0]
    assert (line["reason"], line["detail"]) == ("graph_reference", "id 192 is listed twice")
    assert (line["peer"], line["route"], line["command"]) == (COORDINATOR, GPU0, Command.GRAPH_COMPUTE)


def test_a_buffer_is_cleared_and_its_handle_and_address_are_not_the_workers(node: Node) -> None:
    with node.dial() as connection:
        client = greet(connection)
        buffer = client.alloc(100)
        client.send(set_tensor(buffer.bytes_at(10), 5, b"bytes", cache=1))
        assert client.read(buffer) == bytes(15) + b"bytes" + bytes(80)
    real = Buffer(Worker.HANDLE, Worker.BASE, 100)
    assert buffer.handle != real.handle
    assert buffer.base != real.base
    assert node.worker.requests[1:] == [
        Request(Command.ALLOC_BUFFER, u32(0) + u64(100)),
        Request(Command.BUFFER_GET_BASE, u64(real.handle)),
        Request(Command.BUFFER_CLEAR, u64(real.handle) + b"\x00"),
        Request(Command.SET_TENSOR, set_tensor(real.bytes_at(10), 5, b"bytes")[9:]),
        Request(Command.GET_TENSOR, get_tensor(real.bytes_at(), 0, 100)[9:]),
    ]


def test_the_end_of_a_graph_is_asked_for_and_the_client_hears_nothing_of_it(node: Node) -> None:
    with node.dial() as connection:
        client = greet(connection)
        buffer = client.alloc(512)
        begin = set_tensor(buffer.bytes_at(), 0, b"begin")
        client.send(begin, sum_of(buffer), frame(Command.GRAPH_RECOMPUTE, u32(0)))
        assert client.read(buffer, 0, 5) == b"begin"
        assert client.ask(Command.GET_ALIGNMENT, u32(0)) == u64(Worker.ALIGNMENT)
    computed = [Command.GRAPH_COMPUTE, Command.DEVICE_COUNT, Command.GRAPH_RECOMPUTE, Command.DEVICE_COUNT]
    assert node.worker.commands[4:] == [Command.SET_TENSOR, *computed, Command.GET_TENSOR, Command.GET_ALIGNMENT]


def test_nothing_of_a_client_passes_while_it_is_owed_a_reply(mesh: Mesh) -> None:
    worker = Thinker()
    requests = frame(Command.DEVICE_COUNT) + ALIGNMENT_REQUEST * 9
    with node_of(mesh, worker=worker) as node, node.dial() as connection:
        client = greet(connection)
        client.send(requests)
        worker.answer_once_there_are(node.tunnel, len(HELLO_REQUEST + requests))
        assert client.answer() == u32(1)
        assert [client.answer() for _ in range(9)] == [u64(Worker.ALIGNMENT)] * 9
    assert worker.unread == [0]


def test_a_second_client_is_refused_while_the_first_is_there(mesh: Mesh) -> None:
    with node_of(mesh, "--lease-wait-ms", "100") as node, node.dial() as first:
        greet(first)
        with node.dial() as second:
            second.sendall(HELLO_REQUEST)
            assert_cut(second)
        node.tunnel.wait_refused("lease_busy")
        assert Client(first).ask(Command.DEVICE_COUNT) == u32(1)
        assert node.worker.sessions == [[HELLO_NOTED, Request(Command.DEVICE_COUNT, b"")]]


def test_a_second_client_has_the_worker_once_the_first_leaves(mesh: Mesh) -> None:
    with node_of(mesh, "--lease-wait-ms", "20000") as node, contextlib.closing(node.dial()) as first:
        greet(first)
        with node.dial() as second:
            second.sendall(HELLO_REQUEST)
            eventually(lambda: len(node.tunnel.status().sessions) == 2, "the second client waits")
            assert len(node.worker.sessions) == 1
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
    content = sample(6 * 2**20 + 13)
    sizes = itertools.cycle([1, 7, 8, 9, 10, 4095, 16_384, 16_385, 262_143, 262_145, 1_000_003])
    with node.dial() as connection:
        client = greet(connection)
        buffer = client.alloc(2 * len(content))
        first, second = buffer.bytes_at(0, len(content)), buffer.bytes_at(len(content))
        rest = set_tensor(first, 0, content) + frame(Command.DEVICE_COUNT) + set_tensor(second, 0, content)
        while rest:
            size = next(sizes)
            connection.sendall(rest[:size])
            rest = rest[size:]
        assert client.answer() == u32(1)
        assert client.read(buffer) == content * 2
    asked = [Command.SET_TENSOR, Command.DEVICE_COUNT, Command.SET_TENSOR, Command.GET_TENSOR]
    assert node.worker.commands[4:] == asked


@contextlib.contextmanager
def from_the_coordinator(node: Node) -> Iterator[socket.socket]:
    """A local client of an egress that leads to ``node``: unlike TLS sockets in Python it can close one half."""
    route = EgressRoute(node.mesh.path("local"), f"127.0.0.1:{node.tunnel.port}", GPU0, NODE)
    with node.mesh.egress([route], node.coordinator), dial_unix(route.listen) as client:
        yield client


def test_a_client_that_is_done_writing_still_hears_every_answer(node: Node) -> None:
    with from_the_coordinator(node) as connection:
        client = greet(connection)
        buffer = client.alloc(1000)
        pieces = [set_tensor(buffer.bytes_at(), at, bytes([at % 251])) for at in range(1000)]
        client.send(*pieces, *[get_tensor(buffer.bytes_at(), 0, 1000), frame(Command.DEVICE_COUNT)] * 3)
        connection.shutdown(socket.SHUT_WR)
        written = bytes(at % 251 for at in range(1000))
        assert [client.answer() for _ in range(6)] == [written, u32(1)] * 3
        assert connection.recv(1) == b""
    assert node.tunnel.wait_closed() == "peer_closed"
    assert len(node.worker.requests) == len(ALLOCATED) + 1006


def test_a_client_that_is_done_writing_hears_also_what_waited_in_the_tunnel(mesh: Mesh) -> None:
    worker = Thinker()
    worker.may_answer.set()
    with node_of(mesh, worker=worker) as node, from_the_coordinator(node) as connection:
        client = greet(connection)
        buffer = client.alloc(512)
        sent = node.tunnel.status().sessions[0].bytes_in
        worker.may_answer.clear()
        waiting = [
            frame(Command.DEVICE_COUNT),
            frame(Command.SET_TENSOR_HASH, buffer.bytes_at() + u64(0, 1)),
            sum_of(buffer),
            ALIGNMENT_REQUEST,
            frame(Command.ALLOC_BUFFER, u32(0) + u64(64)),
            frame(Command.BUFFER_GET_BASE, u64(buffer.handle)),
            ALIGNMENT_REQUEST,
        ]
        client.send(*waiting)
        connection.shutdown(socket.SHUT_WR)
        worker.answer_once_there_are(node.tunnel, sent + len(b"".join(waiting)))
        alignment = u64(Worker.ALIGNMENT)
        answers = [u32(1), b"\x00", alignment, u64(buffer.handle + 1, 64), u64(buffer.base), alignment]
        assert [client.answer() for _ in answers] == answers
        assert connection.recv(1) == b""
    assert node.tunnel.wait_closed() == "peer_closed"


def test_a_client_that_is_done_writing_after_an_alloc_hears_its_answer(node: Node) -> None:
    with from_the_coordinator(node) as connection:
        client = greet(connection)
        client.send(frame(Command.ALLOC_BUFFER, u32(0) + u64(64)))
        connection.shutdown(socket.SHUT_WR)
        assert client.answer()[8:] == u64(64)
        assert connection.recv(1) == b""
    assert node.tunnel.wait_closed() == "peer_closed"


def test_what_a_worker_said_before_it_left_arrives_before_the_end(mesh: Mesh) -> None:
    size = 3 * 2**20

    class Leaving(Worker):
        def send(self, connection: socket.socket, answer: bytes) -> None:
            super().send(connection, answer)
            if len(answer) > size:
                raise ConnectionError("enough")

    with node_of(mesh, worker=Leaving()) as node, from_the_coordinator(node) as connection:
        client = greet(connection)
        buffer = client.alloc(size)
        client.send(set_tensor(buffer.bytes_at(), 0, sample(size)))
        assert client.read(buffer) == sample(size)
        assert connection.recv(1) == b""


def test_a_worker_that_says_what_nobody_asked_for_ends_the_session(mesh: Mesh) -> None:
    class Talker(Worker):
        def send(self, connection: socket.socket, answer: bytes) -> None:
            super().send(connection, answer * 2 if answer == reply(u32(1)) else answer)

    with node_of(mesh, worker=Talker()) as node, node.dial() as connection:
        greet(connection).send(frame(Command.DEVICE_COUNT))
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert receive(connection, 24) in (b"", reply(u32(1)))
        assert node.tunnel.wait_closed() == "reply_invalid"
        assert node.tunnel.status().totals.refused == {"reply_invalid": 1}


def test_a_worker_that_dies_ends_the_session(mesh: Mesh) -> None:
    class Dying(Worker):
        def __call__(self, connection: socket.socket) -> None:
            receive(connection, len(HELLO_REQUEST))
            self.send(connection, HELLO_REPLY)
            connection.recv(1, socket.MSG_PEEK)

    with node_of(mesh, worker=Dying()) as node, node.dial() as connection:
        greet(connection).send(frame(Command.DEVICE_COUNT))
        assert_cut(connection)
        assert node.tunnel.wait_closed() == "local_closed"
        eventually(lambda: node.tunnel.status().sessions == (), "the session is off the list")
