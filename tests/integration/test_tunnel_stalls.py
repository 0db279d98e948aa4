"""Who keeps whom waiting on an RPC route: a client that stalls is cut, a worker that does is named."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_worker import PRODUCTS_BYTES, products, real_worker
from rpc_worker import (
    HELLO_REPLY,
    HELLO_REPLY_ZEROED,
    HELLO_REQUEST,
    Buffer,
    Client,
    Command,
    Thinker,
    Worker,
    assert_cut,
    frame,
    get_tensor,
    graph,
    greet,
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
    eventually,
    founded,
    receive,
    unix_server,
)

from rpcmesh.native_build import Build
from rpcmesh.tunnel.routes import IngressRoute, rpc_alpn

GPU0 = rpc_alpn("gpu0")
# Longer than the limit of a second that most tests here set, and the tunnel's own half second.
OVER_A_SECOND_S = 2.2
LARGE = 32 << 20


class Site:
    """An ingress whose worker is at ``path``, if somebody runs one there."""

    def __init__(self, mesh: Mesh, tunnel: Tunnel, identity: Path) -> None:
        self.path = mesh.path("gpu0")
        self.tunnel = tunnel
        self._port = tunnel.port
        self._tls = client_tls(identity, GPU0)

    def dial(self) -> socket.socket:
        return dial(self._port, self._tls)

    @contextlib.contextmanager
    def session(self) -> Iterator[Client]:
        with self.dial() as connection:
            yield greet(connection)

    def serves_the_next(self) -> None:
        with self.session() as client:
            buffer = client.alloc(512)
            client.send(set_tensor(buffer.bytes_at(), 0, b"next"))
            assert client.read(buffer, 0, 4) == b"next"


@contextlib.contextmanager
def site(binary: Path, *options: str) -> Iterator[Site]:
    with founded(binary) as mesh:
        table = [IngressRoute(GPU0, mesh.path("gpu0"), COORDINATOR)]
        with mesh.ingress(table, mesh.identity("node", mesh.leaf(NODE)), *options) as tunnel:
            yield Site(mesh, tunnel, mesh.identity("coordinator", mesh.leaf(COORDINATOR)))


HALVES: dict[str, Callable[[Buffer], bytes]] = {
    "header": lambda buffer: frame(Command.DEVICE_COUNT)[:5],
    "head": lambda buffer: set_tensor(buffer.bytes_at(), 0, b"")[:100],
    "payload": lambda buffer: set_tensor(buffer.bytes_at(), 0, bytes(buffer.size))[:-1],
    "graph": lambda buffer: sum_of(buffer)[:-1],
    "behind_a_whole_frame": lambda buffer: sum_of(buffer) + sum_of(buffer)[:300],
}


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES.keys())
def test_half_a_frame_does_not_keep_the_worker(
    build: Build, tunnel_binary: Path, half: Callable[[Buffer], bytes]
) -> None:
    with site(tunnel_binary, "--stall-timeout-s", "1") as place, real_worker(build, place.path) as worker:
        with place.session() as client:
            client.send(half(client.alloc(512)))
            assert_cut(client.connection)
        assert place.tunnel.wait_closed() == "peer_stalled"
        assert place.tunnel.status().totals.refused == {"peer_stalled": 1}
        place.serves_the_next()
        assert worker.poll() is None
        assert place.tunnel.log("worker_stuck") == []


def test_a_client_that_does_not_read_its_answers_is_cut(build: Build, tunnel_binary: Path) -> None:
    with site(tunnel_binary, "--stall-timeout-s", "1") as place, real_worker(build, place.path) as worker:
        with place.session() as client:
            buffer = client.alloc(LARGE)
            client.send(get_tensor(buffer.bytes_at(), 0, buffer.size))
            assert place.tunnel.wait_closed() == "peer_stalled"
            place.serves_the_next()
        assert worker.poll() is None


def test_a_client_that_is_idle_between_two_frames_is_not_cut(tunnel_binary: Path) -> None:
    with (
        site(tunnel_binary, "--stall-timeout-s", "1", "--compute-timeout-s", "1") as place,
        unix_server(place.path, Worker()),
        place.session() as client,
    ):
        time.sleep(OVER_A_SECOND_S)
        assert client.ask(Command.DEVICE_COUNT) == u32(1)


def test_a_slow_reader_that_goes_on_reading_is_not_cut(tunnel_binary: Path) -> None:
    with (
        site(tunnel_binary, "--stall-timeout-s", "2", "--compute-timeout-s", "1") as place,
        unix_server(place.path, Worker()),
        place.session() as client,
    ):
        buffer = client.alloc(LARGE)
        client.send(get_tensor(buffer.bytes_at(), 0, LARGE))
        length = receive(client.connection, 8)
        for _ in range(8):
            assert len(receive(client.connection, LARGE // 8)) == LARGE // 8
            time.sleep(0.4)
        assert length == u64(LARGE)
        assert client.ask(Command.DEVICE_COUNT) == u32(1)


@pytest.mark.parametrize("awaited", ["a_reply", "the_end_of_a_graph"])
def test_the_time_that_a_worker_takes_is_not_its_clients(tunnel_binary: Path, awaited: str) -> None:
    worker = Thinker()
    next_one = frame(Command.GET_ALIGNMENT, u32(0))
    with (
        site(tunnel_binary, "--stall-timeout-s", "1") as place,
        unix_server(place.path, worker),
        place.session() as client,
    ):
        asked = frame(Command.DEVICE_COUNT) if awaited == "a_reply" else sum_of(client.alloc(512))
        client.send(asked, next_one[:5])
        assert worker.thinks.wait(10)
        time.sleep(OVER_A_SECOND_S)
        worker.may_answer.set()
        client.send(next_one[5:])
        assert awaited != "a_reply" or client.answer() == u32(1)
        assert client.answer() == u64(Worker.ALIGNMENT)


def test_a_worker_that_computes_for_too_long_is_named_and_ends_the_session(build: Build, tunnel_binary: Path) -> None:
    with site(tunnel_binary, "--compute-timeout-s", "1") as place, real_worker(build, place.path) as worker:
        with place.session() as client:
            client.send(products(client.alloc(PRODUCTS_BYTES), 2000))
            assert_cut(client.connection)
        (stuck,) = eventually(lambda: place.tunnel.log("worker_stuck"), "the worker is called stuck")
        assert (stuck["route"], stuck["peer"]) == (GPU0, COORDINATOR)
        assert (stuck["reason"], stuck["command"]) == ("compute_timeout", "GRAPH_COMPUTE")
        assert stuck["graph"] == {"device": 0, "nodes": 2000, "tensors": 2002, "ops": {"MUL_MAT": 2000}}
        assert place.tunnel.status().totals.refused == {"compute_timeout": 1}
        worker.kill()
        assert place.tunnel.wait_closed() == "compute_timeout"
        with real_worker(build, place.path):
            place.serves_the_next()


def test_a_worker_that_never_answers_a_hello_is_named(tunnel_binary: Path) -> None:
    def silent(connection: socket.socket) -> None:
        while connection.recv(1 << 16):
            pass

    with site(tunnel_binary, "--compute-timeout-s", "1") as place, unix_server(place.path, silent):
        with place.dial() as connection:
            connection.sendall(HELLO_REQUEST)
            assert_cut(connection)
        (stuck,) = eventually(lambda: place.tunnel.log("worker_stuck"), "the worker is called stuck")
        assert (stuck["reason"], stuck["command"]) == ("compute_timeout", "HELLO")
        assert "graph" not in stuck


def test_each_answer_gives_a_worker_its_time_anew(tunnel_binary: Path) -> None:
    class Slow(Worker):
        def send(self, connection: socket.socket, answer: bytes) -> None:
            if len(answer) != len(HELLO_REPLY):
                time.sleep(0.8)
            super().send(connection, answer)

    with (
        site(tunnel_binary, "--compute-timeout-s", "2") as place,
        unix_server(place.path, Slow()),
        place.session() as client,
    ):
        assert [client.ask(Command.DEVICE_COUNT) for _ in range(4)] == [u32(1)] * 4


def test_a_worker_that_computes_on_for_a_client_that_left_is_named_and_not_lent(
    build: Build, tunnel_binary: Path
) -> None:
    with (
        site(tunnel_binary, "--reset-after-ms", "300", "--lease-wait-ms", "30000") as place,
        real_worker(build, place.path) as worker,
    ):
        with place.session() as client:
            client.send(products(client.alloc(PRODUCTS_BYTES), 2000))
            eventually(lambda: place.tunnel.status().sessions[0].bytes_in > 2000 * 296, "all of the graph")
        (stuck,) = eventually(lambda: place.tunnel.log("worker_stuck"), "the worker is called stuck")
        assert (stuck["reason"], stuck["command"]) == ("peer_closed", "GRAPH_COMPUTE")
        assert stuck["graph"]["ops"] == {"MUL_MAT": 2000}
        with place.dial() as connection:
            connection.sendall(HELLO_REQUEST)
            worker.kill()
            worker.wait()
            with real_worker(build, place.path):
                assert receive(connection, len(HELLO_REPLY)) == HELLO_REPLY_ZEROED


def test_a_worker_that_is_just_being_started_is_waited_for(tunnel_binary: Path) -> None:
    with site(tunnel_binary, "--lease-wait-ms", "30000") as place, place.dial() as connection:
        connection.sendall(HELLO_REQUEST)
        eventually(lambda: place.tunnel.status().sessions != (), "the session is there")
        with unix_server(place.path, Worker()):
            assert receive(connection, len(HELLO_REPLY)) == HELLO_REPLY_ZEROED


def test_a_worker_that_dies_takes_its_last_command_and_graph_into_the_log(build: Build, tunnel_binary: Path) -> None:
    with site(tunnel_binary) as place, real_worker(build, place.path) as worker, place.session() as client:
        client.send(products(client.alloc(PRODUCTS_BYTES), 2000))
        eventually(lambda: place.tunnel.status().sessions[0].bytes_in > 2000 * 296, "all of the graph")
        worker.kill()
        assert_cut(client.connection)
        (lost,) = eventually(lambda: place.tunnel.log("worker_lost"), "the worker is missed")
        assert (lost["route"], lost["peer"], lost["command"]) == (GPU0, COORDINATOR, "GRAPH_COMPUTE")
        assert lost["graph"] == {"device": 0, "nodes": 2000, "tensors": 2002, "ops": {"MUL_MAT": 2000}}
        assert place.tunnel.wait_closed() == "local_closed"
        assert place.tunnel.log("worker_stuck") == []


def test_a_client_that_leaves_in_order_leaves_nothing_in_the_log(build: Build, tunnel_binary: Path) -> None:
    with site(tunnel_binary) as place, real_worker(build, place.path):
        for _ in range(5):
            place.serves_the_next()
        eventually(lambda: len(place.tunnel.log("session_closed")) == 5, "five ends")
        assert {line["level"] for line in place.tunnel.log()} == {"info"}


SILU_BACK, CUSTOM = 23, 95


def of_op(op: int, buffer: Buffer) -> bytes:
    """A graph of one node of ``op``."""
    source, result = (
        tensor(key=key, buffer=buffer.handle, data=buffer.base, op=kind, src=src)
        for key, kind, src in ((1, 0, ()), (2, op, (1,)))
    )
    return graph([2], [source, result])


@pytest.mark.parametrize(
    ("op", "options", "passes"),
    [
        (SILU_BACK, (), False),
        (SILU_BACK, ("--allow-op", "SILU_BACK"), True),
        (SILU_BACK, ("--allow-op", "OPT_STEP_SGD"), False),
        (CUSTOM, ("--allow-op", "CUSTOM"), False),
    ],
    ids=["not_allowed", "allowed", "another_is_allowed", "function_pointer"],
)
def test_an_op_without_a_rule_passes_where_it_is_allowed_by_name(
    tunnel_binary: Path, op: int, options: tuple[str, ...], passes: bool
) -> None:
    worker = Worker()
    with site(tunnel_binary, *options) as place, unix_server(place.path, worker), place.session() as client:
        client.send(of_op(op, client.alloc(512)))
        if passes:
            assert client.ask(Command.DEVICE_COUNT) == u32(1)
            assert Command.GRAPH_COMPUTE in worker.commands
        else:
            assert_cut(client.connection)
            refusal = place.tunnel.status().totals.last_refusal
            assert refusal is not None
            assert (refusal.reason, refusal.route) == ("op_forbidden", GPU0)
            assert refusal.detail
            assert Command.GRAPH_COMPUTE not in worker.commands
