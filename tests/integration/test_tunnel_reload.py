"""SIGHUP puts new files in force for what comes next, cuts who must no longer be there, and touches nobody else."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
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
    founded,
    sample,
    unix_server,
)

from rpcmesh.pki import files, identity, names
from rpcmesh.pki.authority import Authority
from rpcmesh.pki.certificate import serial_hex
from rpcmesh.pki.revocation import Revocations
from rpcmesh.tunnel import routes
from rpcmesh.tunnel.routes import AGENT_ALPN, EgressRoute, IngressRoute

OTHER_ALPN = "other"
BETA = names.node_uri("m", "beta")
# Within which a revoked peer must be gone.
CUT_S = 1.0


class Side:
    """An ingress that leads the coordinator and, on another route, node beta to an echo."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.identity = mesh.identity("node", mesh.leaf(NODE))
        self.leaf = mesh.leaf(COORDINATOR)
        self.coordinator = mesh.identity("coordinator", self.leaf)
        self.beta = mesh.identity("beta", mesh.leaf(BETA))
        self.table = [
            IngressRoute(AGENT_ALPN, mesh.path("echo"), COORDINATOR),
            IngressRoute(OTHER_ALPN, mesh.path("echo"), BETA),
        ]
        self.tunnel: Tunnel

    @contextlib.contextmanager
    def running(self) -> Iterator[Side]:
        with (
            unix_server(self.mesh.path("echo"), echo),
            self.mesh.ingress(self.table, self.identity) as self.tunnel,
        ):
            yield self

    def dial(self) -> ssl.SSLSocket:
        return dial(self.tunnel.port, client_tls(self.coordinator))

    def dial_as_beta(self) -> ssl.SSLSocket:
        return dial(self.tunnel.port, client_tls(self.beta, OTHER_ALPN))


@pytest.fixture
def mesh(tunnel_binary: Path) -> Iterator[Mesh]:
    with founded(tunnel_binary) as mesh:
        yield mesh


@pytest.fixture
def side(mesh: Mesh) -> Iterator[Side]:
    with Side(mesh).running() as side:
        yield side


def is_alive(client: socket.socket) -> bool:
    return exchange(client, b"still there?") == b"still there?"


def seconds_until_cut(client: socket.socket) -> float:
    started = time.monotonic()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        assert client.recv(1) == b""
    return time.monotonic() - started


def serial_of(client: ssl.SSLSocket) -> str:
    return serial_hex(x509.load_der_x509_certificate(client.getpeercert(binary_form=True) or b"").serial_number)


def renew(mesh: Mesh, directory: Path) -> str:
    csr = identity.begin_renewal(directory)
    return identity.finish_renewal(directory, mesh.authority.sign_csr(csr, NODE, time.time()).pem).serial


@contextlib.contextmanager
def traffic(client: socket.socket) -> Iterator[None]:
    """Sends without a pause and checks each byte that comes back, until the block is left."""
    over = threading.Event()
    data = sample(400_000)
    faults: list[str] = []
    rounds = itertools.count()

    def run() -> None:
        while not over.is_set() and not faults:
            try:
                if exchange(client, data) != data:
                    faults.append("other bytes came back")
            except OSError as error:
                faults.append(repr(error))
            next(rounds)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert faults == []
    assert next(rounds) > 1


def test_a_renewed_certificate_is_shown_to_the_next_client_and_does_not_touch_the_live_one(side: Side) -> None:
    with side.dial() as live:
        before = serial_of(live)
        with traffic(live):
            for count in range(1, 6):
                renewed = renew(side.mesh, side.identity)
                assert renewed != before
                after = side.tunnel.reload()
                assert (after.reloads, after.last_reload_error) == (count, None)
                with side.dial() as fresh:
                    assert serial_of(fresh) == renewed
                    assert is_alive(fresh)
        assert is_alive(live)


def remove_certificate(side: Side) -> None:
    (side.identity / "cert.pem").unlink()


def exchange_key(side: Side) -> None:
    files.write_private(side.identity / "key.pem", side.mesh.leaf(NODE).key_pem)


def open_key(side: Side) -> None:
    (side.identity / "key.pem").chmod(0o644)


def garble_authority(side: Side) -> None:
    files.write_private(side.identity / "ca.pem", b"no certificate\n")


def garble_routes(side: Side) -> None:
    files.write_private(side.mesh.path("ingress.routes"), b"garbage\n")


def repeat_route(side: Side) -> None:
    path = side.mesh.path("ingress.routes")
    files.write_private(path, path.read_bytes() * 2)


def remove_routes(side: Side) -> None:
    side.mesh.path("ingress.routes").unlink()


def remove_list(side: Side) -> None:
    (side.identity / "revoked.pem").unlink()


def sign_list_elsewhere(side: Side) -> None:
    foreign = Authority.create(side.mesh.path("foreign"), "m", time.time())
    newer = Revocations(side.mesh.revocations.number + 1, time.time())
    files.write_private(side.identity / "revoked.pem", foreign.sign_revocations(newer))


def bring_back_old_list(side: Side) -> None:
    older = Revocations(side.mesh.revocations.number - 1, time.time())
    files.write_private(side.identity / "revoked.pem", side.mesh.authority.sign_revocations(older))


def name_two(side: Side) -> None:
    side.mesh.identity("node", side.mesh.leaf_with_uris(NODE, COORDINATOR))


BAD_FILES: dict[Callable[[Side], None], str] = {
    remove_certificate: "cert.pem",
    exchange_key: "are not a pair",
    open_key: "can be read by others",
    garble_authority: "ca.pem is not a certificate",
    garble_routes: "routes line 1: want ALPN PATH PEER",
    repeat_route: "routes line 3: the route is there twice",
    remove_routes: "ingress.routes cannot be read",
    remove_list: "revoked.pem is not a revocation list",
    sign_list_elsewhere: "is not signed by this mesh's authority",
    bring_back_old_list: "number went back from 5 to 4",
    name_two: "does not have exactly one URI name",
}


@pytest.mark.parametrize("spoil", BAD_FILES, ids=lambda spoil: spoil.__name__)
def test_bad_new_files_leave_the_old_ones_in_force(mesh: Mesh, spoil: Callable[[Side], None]) -> None:
    mesh.revocations = Revocations(5, time.time() - 600)
    with Side(mesh).running() as side, side.dial() as live:
        before = serial_of(live)
        keep = {path: path.read_bytes() for path in [*side.identity.iterdir(), mesh.path("ingress.routes")]}
        spoil(side)

        refused = side.tunnel.reload()
        assert (refused.reloads, refused.crl_number) == (0, 5)
        assert BAD_FILES[spoil] in (refused.last_reload_error or "")
        assert [line["reason"] for line in side.tunnel.log("reload_failed")] == [refused.last_reload_error]
        with side.dial() as fresh:
            assert serial_of(fresh) == before
            assert is_alive(fresh)
        assert is_alive(live)

        for path, content in keep.items():
            files.write_private(path, content)
        repaired = side.tunnel.reload()
        assert (repaired.reloads, repaired.last_reload_error) == (1, None)
        assert is_alive(live)


def test_a_revoked_peer_is_cut_at_once_and_not_let_in_again(side: Side) -> None:
    with side.dial() as revoked, side.dial_as_beta() as bystander:
        assert is_alive(revoked)
        assert is_alive(bystander)
        side.mesh.revoke(side.leaf.serial, side.identity)
        side.tunnel.reload()
        assert seconds_until_cut(revoked) < CUT_S
        assert side.tunnel.wait_closed() == "revoked"
        with contextlib.suppress(ConnectionError, ssl.SSLError), side.dial() as again:
            assert again.recv(1) == b""
        side.tunnel.wait_failed("certificate_revoked")
        assert is_alive(bystander)


def test_a_revocation_also_holds_for_a_handshake_that_had_begun(side: Side) -> None:
    """It was accepted with the old list; what counts is the list at the handshake's end."""
    context = client_tls(side.coordinator)
    with socket.create_connection(("127.0.0.1", side.tunnel.port), timeout=PATIENCE_S) as raw:
        eventually(lambda: side.tunnel.status().totals.accepted == 1, "the connection is accepted")
        side.mesh.revoke(side.leaf.serial, side.identity)
        side.tunnel.reload()
        ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(theirs, ours)
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        raw.sendall(ours.read())
        while True:
            theirs.write(raw.recv(1 << 16))
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                continue
        # In one piece with the handshake's last message, so that it is there before anybody could cut the session.
        tls.write(b"too late")
        raw.sendall(ours.read())
        with contextlib.suppress(ConnectionError):
            assert raw.recv(1 << 16) == b""
    side.tunnel.wait_refused("revoked")
    assert side.tunnel.status().totals.bytes_in == 0


def test_a_removed_route_cuts_its_sessions_and_no_others(side: Side) -> None:
    with side.dial() as stays, side.dial_as_beta() as goes:
        assert is_alive(stays)
        assert is_alive(goes)
        routes.write_ingress(side.mesh.path("ingress.routes"), side.table[:1])
        side.tunnel.reload()
        assert seconds_until_cut(goes) < CUT_S
        assert side.tunnel.wait_closed() == "route_removed"
        with contextlib.suppress(ConnectionError, ssl.SSLError), side.dial_as_beta() as again:
            assert again.recv(1) == b""
        side.tunnel.wait_failed("unknown_alpn")
        assert is_alive(stays)


def test_a_route_that_is_given_to_another_peer_cuts_the_former_one(side: Side) -> None:
    with side.dial_as_beta() as former:
        assert is_alive(former)
        table = [side.table[0], IngressRoute(OTHER_ALPN, side.mesh.path("echo"), COORDINATOR)]
        routes.write_ingress(side.mesh.path("ingress.routes"), table)
        side.tunnel.reload()
        assert seconds_until_cut(former) < CUT_S
    with dial(side.tunnel.port, client_tls(side.coordinator, OTHER_ALPN)) as latter:
        assert is_alive(latter)


@pytest.fixture
def egress_routes(side: Side) -> list[EgressRoute]:
    """Two sockets of the coordinator's egress that lead to one node."""
    address = f"127.0.0.1:{side.tunnel.port}"
    return [EgressRoute(side.mesh.path(f"{name}.agent.sock"), address, AGENT_ALPN, NODE) for name in ("alpha", "twin")]


def test_an_egress_cuts_a_revoked_node_and_does_not_dial_it_again(side: Side, egress_routes: list[EgressRoute]) -> None:
    with side.mesh.egress(egress_routes, side.coordinator) as egress:
        with dial_unix(egress_routes[0].listen) as live:
            assert is_alive(live)
            side.mesh.revoke(identity.load(side.identity).serial, side.coordinator)
            egress.reload()
            assert seconds_until_cut(live) < CUT_S
            assert egress.wait_closed() == "revoked"
        with dial_unix(egress_routes[0].listen) as again:
            assert again.recv(1) == b""
        egress.wait_failed("certificate_revoked")


def test_egress_sockets_come_and_go_with_their_routes(side: Side, egress_routes: list[EgressRoute]) -> None:
    alpha, twin = egress_routes
    with side.mesh.egress([alpha], side.coordinator) as egress, dial_unix(alpha.listen) as live:
        assert is_alive(live)
        assert not twin.listen.exists()

        routes.write_egress(side.mesh.path("egress.routes"), [alpha, twin])
        egress.reload()
        with dial_unix(twin.listen) as second:
            assert is_alive(second)
            assert is_alive(live)

            routes.write_egress(side.mesh.path("egress.routes"), [alpha])
            egress.reload()
            assert seconds_until_cut(second) < CUT_S
            assert not twin.listen.exists()
        assert is_alive(live)
        with dial_unix(alpha.listen) as third:
            assert is_alive(third)


def test_a_route_whose_socket_moves_is_served_at_its_new_place_only(
    side: Side, egress_routes: list[EgressRoute]
) -> None:
    before = egress_routes[0]
    side.mesh.path("moved").mkdir(mode=0o700)
    after = EgressRoute(side.mesh.path("moved") / before.listen.name, before.address, before.alpn, before.peer)
    with side.mesh.egress([before], side.coordinator) as egress:
        routes.write_egress(side.mesh.path("egress.routes"), [after])
        egress.reload()
        assert not before.listen.exists()
        with dial_unix(after.listen) as client:
            assert is_alive(client)


def test_an_egress_that_cannot_make_a_new_socket_keeps_all_old_ones(
    side: Side, egress_routes: list[EgressRoute]
) -> None:
    alpha, twin = egress_routes
    nowhere = EgressRoute(side.mesh.path("nowhere") / "x.sock", twin.address, twin.alpn, twin.peer)
    with side.mesh.egress([alpha], side.coordinator) as egress, dial_unix(alpha.listen) as live:
        routes.write_egress(side.mesh.path("egress.routes"), [twin, nowhere])
        refused = egress.reload()
        assert "cannot listen on" in (refused.last_reload_error or "")
        assert is_alive(live)
        assert not twin.listen.exists()
        with dial_unix(alpha.listen) as client:
            assert is_alive(client)
