"""The tunnel as a process: how it starts, refuses to start, carries bytes, bears crowds, and ends."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tunnel_harness import (
    COORDINATOR,
    NODE,
    PATIENCE_S,
    Mesh,
    Tunnel,
    client_tls,
    dial,
    dial_unix,
    echo,
    eventually,
    exchange,
    fill,
    founded,
    receive,
    running,
    sample,
    unix_server,
)

from rpcmesh.errors import RpcmeshError
from rpcmesh.pki import names
from rpcmesh.tunnel import command, routes
from rpcmesh.tunnel.routes import AGENT_ALPN, EgressRoute, IngressRoute, rpc_alpn

GPU0 = rpc_alpn("gpu0")
# Within which the tunnel must have ended, whoever is connected.
STOP_S = 2.0


@pytest.fixture
def mesh(tunnel_binary: Path) -> Iterator[Mesh]:
    with founded(tunnel_binary) as mesh, unix_server(mesh.path("echo"), echo):
        mesh.identity("node", mesh.leaf(NODE))
        mesh.identity("coordinator", mesh.leaf(COORDINATOR))
        yield mesh


def table(mesh: Mesh) -> list[IngressRoute]:
    return [IngressRoute(alpn, mesh.path("echo"), COORDINATOR) for alpn in (AGENT_ALPN, GPU0)]


def node(mesh: Mesh, *options: str) -> contextlib.AbstractContextManager[Tunnel]:
    return mesh.ingress(table(mesh), mesh.path("node"), *options)


def coordinator(mesh: Mesh, address: str, *options: str) -> contextlib.AbstractContextManager[Tunnel]:
    route = EgressRoute(mesh.path("alpha.sock"), address, AGENT_ALPN, NODE)
    return mesh.egress([route], mesh.path("coordinator"), *options)


def dial_as_coordinator(mesh: Mesh, tunnel: Tunnel, alpn: str = AGENT_ALPN) -> ssl.SSLSocket:
    return dial(tunnel.port, client_tls(mesh.path("coordinator"), alpn))


@contextlib.contextmanager
def strangers(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Connected, and silent."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)) for _ in range(count)
        ]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


TLS_FILES = ("--identity", "/nowhere", "--routes", "/nowhere", "--status", "/nowhere")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "the first argument must be ingress, egress or loopback"),
        (("sideways",), "the first argument must be ingress, egress or loopback"),
        (("ingress",), "--listen is required"),
        (("ingress", "--listen", "127.0.0.1:0"), "--identity is required"),
        (("ingress", "--listen"), "--listen needs a value"),
        (("ingress", "--listen", "127.0.0.1", *TLS_FILES), "--listen must be ADDR:PORT"),
        (("ingress", "--listen", "127.0.0.1:65536", *TLS_FILES), "--listen must be ADDR:PORT"),
        (("ingress", "--listen", "::1:7443", *TLS_FILES), "--listen must be ADDR:PORT"),
        (("egress", "--listen", "127.0.0.1:0"), "unknown option --listen"),
        (("egress", *TLS_FILES, "--insecure", "yes"), "unknown option --insecure"),
        (("egress", *TLS_FILES, "--max-connections", "0"), "--max-connections must be a number from 1 to 4096"),
        (("egress", *TLS_FILES, "--max-connections", "9x"), "--max-connections must be a number from 1 to 4096"),
        (("egress", *TLS_FILES, "--silence-timeout-s", "4294967299"), "--silence-timeout-s must be a number from"),
        (("loopback", "--listen", "0.0.0.0:0", "--to", "/x"), "0.0.0.0 is not a loopback address"),
        (("loopback", "--listen", "[::]:0", "--to", "/x"), ":: is not a loopback address"),
        (("loopback", "--listen", "192.0.2.1:0", "--to", "/x"), "192.0.2.1 is not a loopback address"),
        (("loopback", "--listen", "localhost:0", "--to", "/x"), "localhost is not a loopback address"),
    ],
)
def test_wrong_arguments_end_with_2_and_say_what_is_wrong(
    tunnel_binary: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    ended = run(str(tunnel_binary), *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert complaint in ended.stderr.splitlines()[0]
    assert "usage: rpcmesh-tunnel ingress" in ended.stderr


def test_version_and_help_are_answered(tunnel_binary: Path) -> None:
    version, usage = run(str(tunnel_binary), "--version"), run(str(tunnel_binary), "--help")
    assert (version.returncode, usage.returncode) == (0, 0)
    assert version.stdout.startswith("rpcmesh-tunnel ")
    assert usage.stdout.startswith("usage: rpcmesh-tunnel ingress")


def start_ingress(mesh: Mesh, listen: str = "127.0.0.1:0") -> subprocess.CompletedProcess[str]:
    """Of one that is expected not to start."""
    routes.write_ingress(mesh.path("second.routes"), table(mesh))
    files = {"routes": mesh.path("second.routes"), "status": mesh.path("second.sock")}
    return run(*command.ingress(mesh.binary, listen=listen, identity=mesh.path("node"), **files))


def test_a_bad_identity_ends_with_1(mesh: Mesh) -> None:
    (mesh.path("node") / "key.pem").chmod(0o640)
    ended = start_ingress(mesh)
    assert ended.returncode == 1
    assert "chmod 600" in ended.stderr
    assert not mesh.path("second.sock").exists()


def test_an_address_that_is_not_ours_ends_with_1(mesh: Mesh) -> None:
    ended = start_ingress(mesh, "192.0.2.1:7443")
    assert ended.returncode == 1
    assert "cannot listen on 192.0.2.1:7443" in ended.stderr


def test_a_busy_port_ends_with_3(mesh: Mesh) -> None:
    with node(mesh) as first:
        ended = start_ingress(mesh, f"127.0.0.1:{first.port}")
        assert ended.returncode == command.EXIT_ADDRESS_IN_USE == 3
        assert f"cannot listen on 127.0.0.1:{first.port}" in ended.stderr


def test_a_start_that_fails_leaves_no_sockets(mesh: Mesh) -> None:
    routes.write_egress(
        mesh.path("bad.routes"), [EgressRoute(mesh.path("alpha.sock"), "127.0.0.1:1", AGENT_ALPN, NODE)]
    )
    files = {"routes": mesh.path("bad.routes"), "status": mesh.path("nowhere") / "status.sock"}
    ended = run(*command.egress(mesh.binary, identity=mesh.path("coordinator"), **files))
    assert ended.returncode == 1
    assert "cannot make the status socket" in ended.stderr
    assert not mesh.path("alpha.sock").exists()


def test_a_file_in_a_sockets_place_is_left_alone(mesh: Mesh) -> None:
    mesh.path("second.sock").write_text("somebody's")
    ended = start_ingress(mesh)
    assert ended.returncode == 1
    assert mesh.path("second.sock").read_text() == "somebody's"


def test_a_killed_tunnels_sockets_do_not_hinder_the_next_one(mesh: Mesh) -> None:
    with contextlib.suppress(AssertionError), coordinator(mesh, "127.0.0.1:1") as killed:
        killed.process.kill()
        killed.process.wait()
    assert mesh.path("alpha.sock").exists()
    with coordinator(mesh, "127.0.0.1:1") as next_one:
        assert next_one.status().pid == next_one.process.pid


def test_all_sockets_are_for_their_owner_alone(mesh: Mesh) -> None:
    with node(mesh), coordinator(mesh, "127.0.0.1:1"):
        for name in ("ingress.sock", "egress.sock", "alpha.sock"):
            found = mesh.path(name).stat().st_mode
            assert (stat.S_ISSOCK(found), stat.S_IMODE(found)) == (True, 0o600)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_time_whoever_is_connected(mesh: Mesh, how: signal.Signals) -> None:
    with (
        node(mesh) as ingress,
        coordinator(mesh, f"127.0.0.1:{ingress.port}") as egress,
        dial_unix(mesh.path("alpha.sock")) as live,
        strangers(ingress.port, 3) as silent,
        dial_as_coordinator(mesh, ingress, GPU0) as greeting,
    ):
        assert exchange(live, b"hello") == b"hello"
        eventually(lambda: len(ingress.status().sessions) == 2, "the one that has not said hello is there, too")
        for tunnel in (ingress, egress):
            started = time.monotonic()
            tunnel.process.send_signal(how)
            assert tunnel.process.wait(PATIENCE_S) == 0
            assert time.monotonic() - started < STOP_S
            assert tunnel.log("stopped")
        assert not any(mesh.path(name).exists() for name in ("ingress.sock", "egress.sock", "alpha.sock"))
        for client in (live, greeting, *silent):
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                assert client.recv(1) == b""


def test_eight_mebibytes_go_there_and_back_and_both_sides_count_them(mesh: Mesh) -> None:
    text = sample(8 * 2**20)
    with (
        node(mesh) as ingress,
        coordinator(mesh, f"127.0.0.1:{ingress.port}") as egress,
        dial_unix(mesh.path("alpha.sock")) as client,
    ):
        for start in range(0, len(text), 2**16):
            piece = text[start : start + 2**16]
            assert exchange(client, piece) == piece
        there, here = ingress.status(), egress.status()
        for status in (there, here):
            [session] = status.sessions
            assert (session.bytes_in, session.bytes_out) == (len(text), len(text))
            assert (status.totals.bytes_in, status.totals.bytes_out) == (len(text), len(text))
        assert here.sessions[0].peer == NODE
        assert there.sessions[0].peer == COORDINATOR


def test_a_client_that_writes_without_reading_stalls_itself_alone(mesh: Mesh) -> None:
    with (
        node(mesh) as ingress,
        coordinator(mesh, f"127.0.0.1:{ingress.port}"),
        dial_unix(mesh.path("alpha.sock")) as greedy,
        dial_unix(mesh.path("alpha.sock")) as modest,
    ):
        sent = fill(greedy)
        assert exchange(modest, b"hello") == b"hello"
        assert receive(greedy, sent) == sample(sent)


def cpu_s(tunnel: Tunnel) -> float:
    used = psutil.Process(tunnel.process.pid).cpu_times()
    return used.user + used.system


def test_a_client_that_leaves_while_its_bytes_wait_for_a_busy_node_costs_no_time_and_loses_none(mesh: Mesh) -> None:
    at_last, arrived = threading.Event(), bytearray()

    def be_busy(connection: socket.socket) -> None:
        at_last.wait()
        while data := connection.recv(1 << 18):
            arrived.extend(data)

    routes_there = [IngressRoute(AGENT_ALPN, mesh.path("busy"), COORDINATOR)]
    with (
        unix_server(mesh.path("busy"), be_busy),
        mesh.ingress(routes_there, mesh.path("node")) as ingress,
        coordinator(mesh, f"127.0.0.1:{ingress.port}") as egress,
    ):
        try:
            with dial_unix(mesh.path("alpha.sock")) as client:
                sent = fill(client)
            before = cpu_s(ingress) + cpu_s(egress)
            time.sleep(1)
            assert cpu_s(ingress) + cpu_s(egress) - before < 0.5
        finally:
            at_last.set()
        eventually(lambda: len(arrived) == sent, "all that was sent")
        assert bytes(arrived) == sample(sent)


def test_a_node_that_is_not_there_is_counted_and_the_client_let_go(mesh: Mesh, free_port: int) -> None:
    with coordinator(mesh, f"127.0.0.1:{free_port}") as egress, dial_unix(mesh.path("alpha.sock")) as client:
        assert client.recv(1) == b""
        egress.wait_failed("peer_unreachable")
        assert egress.status().failing_routes == {"alpha": "peer_unreachable"}


def test_a_node_that_does_not_answer_is_counted_and_the_client_let_go(mesh: Mesh) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            coordinator(mesh, address, "--handshake-timeout-s", "1") as egress,
            dial_unix(mesh.path("alpha.sock")) as client,
        ):
            assert client.recv(1) == b""
            egress.wait_failed("handshake_timeout")


def test_another_node_in_the_nodes_place_gets_nothing(mesh: Mesh) -> None:
    mesh.identity("node", mesh.leaf(names.node_uri("m", "beta")))
    with (
        node(mesh) as impostor,
        coordinator(mesh, f"127.0.0.1:{impostor.port}") as egress,
        dial_unix(mesh.path("alpha.sock")) as client,
    ):
        with contextlib.suppress(BrokenPipeError):
            client.sendall(b"for alpha only")
        with contextlib.suppress(ConnectionError):
            assert client.recv(1) == b""
        egress.wait_failed("wrong_identity")
        assert impostor.status().totals.bytes_in == 0


def test_loopback_leads_plain_clients_of_this_machine_to_a_socket(mesh: Mesh) -> None:
    arguments = command.loopback(mesh.binary, listen="127.0.0.1:0", to=mesh.path("echo"))
    status = mesh.path("loopback.sock")
    with (
        running((*arguments, "--status", str(status)), status) as tunnel,
        socket.create_connection(("127.0.0.1", tunnel.port), timeout=PATIENCE_S) as client,
    ):
        assert exchange(client, b"hello") == b"hello"
        tunnel.process.send_signal(signal.SIGHUP)
        assert exchange(client, b"again") == b"again"
        [session] = tunnel.status().sessions
        assert session.route == "loopback"


def test_silent_strangers_make_room_for_the_coordinator(mesh: Mesh) -> None:
    with node(mesh, "--max-connections", "4") as tunnel, strangers(tunnel.port, 4) as silent:
        eventually(lambda: tunnel.status().totals.accepted == 4, "all four are in")
        with dial_as_coordinator(mesh, tunnel) as client:
            assert exchange(client, b"hello") == b"hello"
        tunnel.wait_failed("too_many_connections")
        assert tunnel.status().totals.handshake_failures == {"too_many_connections": 1}
        with contextlib.suppress(ConnectionError):
            assert silent[0].recv(1) == b""


def test_established_sessions_do_not_make_room(mesh: Mesh) -> None:
    with node(mesh, "--max-connections", "2") as tunnel, contextlib.ExitStack() as stack:
        live = [stack.enter_context(dial_as_coordinator(mesh, tunnel)) for _ in range(2)]
        for client in live:
            assert exchange(client, b"hello") == b"hello"
        with strangers(tunnel.port, 1) as [one_more], contextlib.suppress(ConnectionError):
            assert one_more.recv(1) == b""
        tunnel.wait_refused("too_many_connections")
        for client in live:
            assert exchange(client, b"still here") == b"still here"


def test_running_out_of_descriptors_neither_spins_nor_stops_the_service(mesh: Mesh) -> None:
    limited = mesh.path("limited")
    limited.write_text(f'#!/bin/sh\nulimit -n 40\nexec {mesh.binary} "$@"\n')
    limited.chmod(0o700)
    mesh.binary = limited

    def has_status() -> bool:
        with contextlib.suppress(RpcmeshError):
            return tunnel.status().pid == tunnel.process.pid
        return False

    with node(mesh) as tunnel, dial_as_coordinator(mesh, tunnel) as live:
        assert exchange(live, b"hello") == b"hello"
        port, process = tunnel.port, psutil.Process(tunnel.process.pid)
        with strangers(port, 60):
            eventually(lambda: process.num_fds() >= 38, "it has no descriptors left")
            before, watched_until = cpu_s(tunnel), time.monotonic() + 1
            while time.monotonic() < watched_until:
                assert exchange(live, b"still here") == b"still here"
                time.sleep(0.05)
            assert cpu_s(tunnel) - before < 0.5
        eventually(has_status, "it answers again")
        with dial(port, client_tls(mesh.path("coordinator"))) as client:
            assert exchange(client, b"hello") == b"hello"
        assert tunnel.status().totals.refused["too_many_connections"] > 0
