"""Whoever is not whom the route wants reaches nothing, learns nothing but an alert or a close, and is counted."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tunnel_harness import (
    COORDINATOR,
    DAY_S,
    NODE,
    PATIENCE_S,
    Leaf,
    Mesh,
    Tunnel,
    client_tls,
    dial,
    echo,
    exchange,
    founded,
    receive,
    unix_server,
)

from rpcmesh.pki import certificate, names
from rpcmesh.pki.authority import Authority
from rpcmesh.tunnel.routes import AGENT_ALPN, IngressRoute


class Guarded:
    """A node's ingress whose one route leads the coordinator to an echo, which notes who reached it."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.coordinator = mesh.leaf(COORDINATOR)
        self.node_identity = mesh.identity("node", mesh.leaf(NODE))
        self.reached: list[str] = []
        self.tunnel: Tunnel

    @contextlib.contextmanager
    def running(self, *options: str) -> Iterator[Guarded]:
        def note_and_echo(connection: socket.socket) -> None:
            self.reached.append("reached")
            echo(connection)

        route = IngressRoute(AGENT_ALPN, self.mesh.path("echo"), COORDINATOR)
        with (
            unix_server(route.socket, note_and_echo),
            self.mesh.ingress([route], self.node_identity, *options) as self.tunnel,
        ):
            yield self

    def assert_only_the_coordinator_gets_through(self) -> None:
        identity = self.mesh.identity("coordinator", self.coordinator)
        with dial(self.tunnel.port, client_tls(identity)) as client:
            assert exchange(client, b"hello") == b"hello"
            [session] = self.tunnel.status().sessions
            assert (session.route, session.peer, session.tls_version) == (AGENT_ALPN, COORDINATOR, "TLSv1.3")
        assert self.reached == ["reached"]


@pytest.fixture
def mesh(tunnel_binary: Path) -> Iterator[Mesh]:
    with founded(tunnel_binary) as mesh:
        yield mesh


@pytest.fixture
def guarded(mesh: Mesh) -> Iterator[Guarded]:
    with Guarded(mesh).running() as guarded:
        yield guarded


def assert_turned_away(guarded: Guarded, context: ssl.SSLContext) -> None:
    """In TLS 1.3 a client may be done before the server has looked at its certificate: it hears of it when it reads."""
    try:
        with dial(guarded.tunnel.port, context) as client:
            client.sendall(b"let me in")
            assert client.recv(100) == b""
    except (ssl.SSLError, ConnectionError):
        pass


def assert_failed_as(guarded: Guarded, reason: str) -> None:
    guarded.tunnel.wait_failed(reason)
    assert guarded.tunnel.status().totals.handshake_failures == {reason: 1}
    assert [line["reason"] for line in guarded.tunnel.log("handshake_failed")] == [reason]
    guarded.assert_only_the_coordinator_gets_through()


def test_the_coordinator_gets_through(guarded: Guarded) -> None:
    guarded.assert_only_the_coordinator_gets_through()


@pytest.mark.parametrize(
    "opening",
    [
        b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x0e" + (24).to_bytes(8, "little") + bytes(24),
        bytes(64),
        b"\x16\x03\x01\x00\x05hello",
    ],
    ids=["http", "ssh", "rpc_hello", "zeros", "almost_tls"],
)
def test_plaintext_is_refused(guarded: Guarded, opening: bytes) -> None:
    with socket.create_connection(("127.0.0.1", guarded.tunnel.port), timeout=PATIENCE_S) as client:
        client.sendall(opening)
        with contextlib.suppress(ConnectionError):
            answer = receive(client, 1000)
            # Nothing, or one TLS record of kind alert: a fatal one, two bytes long.
            assert answer == b"" or (answer[0] == 21 and answer[3:6] == b"\x00\x02\x02" and len(answer) == 7)
    assert_failed_as(guarded, "not_tls")


def test_tls_1_2_is_refused(guarded: Guarded) -> None:
    context = client_tls(guarded.mesh.identity("coordinator", guarded.coordinator))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert_turned_away(guarded, context)
    assert_failed_as(guarded, "tls_version")


def test_a_client_without_a_certificate_is_refused(guarded: Guarded) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(guarded.node_identity / "ca.pem")
    context.set_alpn_protocols([AGENT_ALPN])
    assert_turned_away(guarded, context)
    assert_failed_as(guarded, "no_certificate")


def of_another_mesh(mesh: Mesh) -> Leaf:
    """Same mesh name, same URI, another key."""
    foreign = Mesh(mesh.root, mesh.binary, Authority.create(mesh.path("foreign"), "m", time.time()))
    return foreign.leaf(COORDINATOR)


def signed_by_a_node(mesh: Mesh) -> Leaf:
    """A node's own key and leaf used as an authority, its leaf sent along as the chain."""
    node = mesh.leaf(NODE)
    forged = mesh.leaf_with_uris(COORDINATOR, issuer=node)
    return Leaf(forged.key_pem, forged.cert_pem + node.cert_pem, forged.serial)


def of_the_gateway(mesh: Mesh) -> Leaf:
    """The HTTPS endpoint's certificate: of this authority, but not a member's."""
    key = ec.generate_private_key(ec.SECP256R1())
    signed = mesh.authority.sign_gateway(key.public_key(), ("127.0.0.1",), time.time())
    return Leaf(certificate.key_pem(key), signed.pem, signed.serial)


WRONG_LEAVES: dict[str, tuple[Callable[[Mesh], Leaf], str]] = {
    "another_authority": (of_another_mesh, "untrusted_ca"),
    "forged_signature": (lambda mesh: mesh.leaf_with_uris(COORDINATOR, forged=True), "untrusted_ca"),
    "signed_by_a_node": (signed_by_a_node, "certificate_invalid"),
    "expired": (lambda mesh: mesh.leaf(COORDINATOR, ahead_s=-8 * DAY_S), "certificate_expired"),
    "not_yet_valid": (lambda mesh: mesh.leaf(COORDINATOR, ahead_s=DAY_S), "certificate_not_yet_valid"),
    "a_node": (lambda mesh: mesh.leaf(NODE), "wrong_identity"),
    "another_node": (lambda mesh: mesh.leaf(names.node_uri("m", "beta")), "wrong_identity"),
    "two_uris": (lambda mesh: mesh.leaf_with_uris(COORDINATOR, NODE), "wrong_identity"),
    "the_same_uri_twice": (lambda mesh: mesh.leaf_with_uris(COORDINATOR, COORDINATOR), "wrong_identity"),
    "no_uri": (lambda mesh: mesh.leaf_with_uris(), "wrong_identity"),
    "a_longer_uri": (lambda mesh: mesh.leaf_with_uris(COORDINATOR + "/x"), "wrong_identity"),
    "a_uri_with_nul": (lambda mesh: mesh.leaf_with_uris(COORDINATOR + "\0.evil"), "wrong_identity"),
    "the_gateway": (of_the_gateway, "certificate_invalid"),
}


@pytest.mark.parametrize("kind", WRONG_LEAVES)
def test_a_wrong_certificate_is_refused(guarded: Guarded, kind: str) -> None:
    make, reason = WRONG_LEAVES[kind]
    assert_turned_away(guarded, client_tls(guarded.mesh.identity("wrong", make(guarded.mesh))))
    assert_failed_as(guarded, reason)


def test_a_revoked_certificate_is_refused(mesh: Mesh) -> None:
    stolen = mesh.leaf(COORDINATOR)
    mesh.revoke(stolen.serial)
    with Guarded(mesh).running() as guarded:
        assert_turned_away(guarded, client_tls(mesh.identity("stolen", stolen)))
        assert_failed_as(guarded, "certificate_revoked")


@pytest.mark.parametrize("alpn", ["h2", "rpcmesh/agen", "rpcmesh/agent2", "rpcmesh/rpc/gpu0", None])
def test_an_unknown_alpn_or_none_is_refused(guarded: Guarded, alpn: str | None) -> None:
    assert_turned_away(guarded, client_tls(guarded.mesh.identity("coordinator", guarded.coordinator), alpn))
    assert_failed_as(guarded, "unknown_alpn")


@pytest.mark.parametrize("opening", [b"", b"\x16\x03\x01"], ids=["silent", "stopped_half_way"])
def test_a_handshake_that_does_not_go_on_is_ended_in_time(mesh: Mesh, opening: bytes) -> None:
    with Guarded(mesh).running("--handshake-timeout-s", "1") as guarded:
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", guarded.tunnel.port), timeout=PATIENCE_S) as client:
            client.sendall(opening)
            with contextlib.suppress(ConnectionError):
                assert client.recv(100) == b""
        assert time.monotonic() - started < 5
        assert_failed_as(guarded, "handshake_timeout")


def test_a_client_that_drips_its_hello_does_not_stretch_the_handshake(mesh: Mesh) -> None:
    with Guarded(mesh).running("--handshake-timeout-s", "1") as guarded:
        started = time.monotonic()
        with (
            socket.create_connection(("127.0.0.1", guarded.tunnel.port)) as client,
            contextlib.suppress(ConnectionError),
        ):
            client.settimeout(0.1)
            client.sendall(b"\x16\x03\x01\x10\x00")
            while time.monotonic() < started + PATIENCE_S:
                client.sendall(b"\x01")
                with contextlib.suppress(TimeoutError):
                    assert client.recv(100) == b""
                    break
        assert time.monotonic() - started < 5
        guarded.tunnel.wait_failed("handshake_timeout")
        guarded.assert_only_the_coordinator_gets_through()


def test_a_client_that_leaves_in_the_handshake_is_counted_too(guarded: Guarded) -> None:
    socket.create_connection(("127.0.0.1", guarded.tunnel.port)).close()
    assert_failed_as(guarded, "handshake_broken")


def test_a_client_that_distrusts_the_node_says_so_and_is_counted(guarded: Guarded) -> None:
    distrusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    distrusting.check_hostname = False
    distrusting.set_alpn_protocols([AGENT_ALPN])
    assert_turned_away(guarded, distrusting)
    assert_failed_as(guarded, "refused_by_peer")


def test_no_session_is_ever_resumed(guarded: Guarded) -> None:
    context = client_tls(guarded.mesh.identity("coordinator", guarded.coordinator))
    with dial(guarded.tunnel.port, context) as first:
        assert exchange(first, b"hello") == b"hello"
        session = first.session
        assert session is not None
        assert not session.has_ticket
    with dial(guarded.tunnel.port, context, session=session) as second:
        assert exchange(second, b"again") == b"again"
        assert not second.session_reused
