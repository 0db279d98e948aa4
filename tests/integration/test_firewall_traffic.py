"""What the limits of the loaded rules do to real connections: a peer that asks for too much, and everybody else."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from firewall_machines import NFT, load, needs_nft, until
from namespace_sockets import connect, end_at_once, line, listener, outcome, passes
from network_namespaces import BRIDGE_ADDRESS, inside, ip, network

from rpcmesh.firewall import nft
from rpcmesh.firewall.policy import LIMITS, Policy

pytestmark = needs_nft

PORT, OTHER_PORT = 7443, 7444
LIMITS_OF_A_NODE = LIMITS["node"]
# (of the node, of its first peer, of its second), and their set's suffix.
FAMILIES = {
    "v4": ("10.77.0.2", BRIDGE_ADDRESS, "10.77.0.3"),
    "v6": ("fd77::2", "fd77::1", "fd77::3"),
}


@dataclass(frozen=True)
class Lab:
    """A node that listens, and two peers that its rules let in."""

    node: str
    address: str
    one: str
    one_address: str
    other: str
    peers: tuple[str, ...]
    family: str
    tunnel: socket.socket

    def rules(self) -> str:
        return nft.render(Policy(role="node", tls_port=PORT, peers=self.peers))

    def abusers(self) -> str:
        argv = inside(self.node, NFT, "list", "set", "inet", "rpcmesh", f"abuse_{self.family}")
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def connect_until_refused(self) -> int:
        """How many connections in quick succession got in before one did not."""
        for number in range(3 * LIMITS_OF_A_NODE.burst):
            if outcome(self.one, self.address, PORT) == "silent":
                return number
        raise AssertionError("nothing was refused")


def give_ipv6(namespace: str, card: str, address: str) -> None:
    try:
        ip("-n", namespace, "addr", "add", f"{address}/64", "dev", card, "nodad")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"IPv6 addresses cannot be given here: {error.stderr.decode().strip()}")


@contextlib.contextmanager
def lab_of(family: str) -> Iterator[Lab]:
    address, one_address, other_address = FAMILIES[family]
    with network() as net:
        node, _ = net.add()
        other, _ = net.add()
        if family == "v6":
            give_ipv6(node, "eth0", address)
            give_ipv6(net.hub, "br0", one_address)
            give_ipv6(other, "eth0", other_address)
        with listener(node, PORT) as tunnel, listener(node, OTHER_PORT):
            yield Lab(node, address, net.hub, one_address, other, (one_address, other_address), family, tunnel)


@pytest.fixture(params=["v4", "v6"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with lab_of(request.param) as made:
        yield made


@pytest.fixture
def lab_v4() -> Iterator[Lab]:
    with lab_of("v4") as made:
        yield made


def test_a_peer_that_connects_too_often_is_shut_out_alone(lab: Lab) -> None:
    load(lab.node, lab.rules())

    let_in = lab.connect_until_refused()

    assert let_in >= LIMITS_OF_A_NODE.burst
    assert lab.one_address in lab.abusers()
    assert outcome(lab.one, lab.address, PORT) == "silent"
    assert outcome(lab.one, lab.address, OTHER_PORT) == "connected"
    assert outcome(lab.other, lab.address, PORT) == "connected"


def test_a_peer_that_was_shut_out_is_let_in_again_when_its_time_is_over(lab: Lab) -> None:
    rules = lab.rules()
    assert "timeout 1m\n" in rules
    load(lab.node, rules.replace("timeout 1m\n", "timeout 2s\n"))

    lab.connect_until_refused()
    until(lambda: outcome(lab.one, lab.address, PORT) == "connected", "the peer's return")

    assert lab.one_address not in lab.abusers()


def test_what_an_abuser_had_open_ends_too(lab_v4: Lab) -> None:
    load(lab_v4.node, lab_v4.rules())
    with line(lab_v4.one, lab_v4.address, lab_v4.tunnel) as before:
        assert before.carries()

        lab_v4.connect_until_refused()

        assert not passes(before.near, before.far)


def test_a_peer_has_only_so_many_connections_open_until_it_closes_one(lab_v4: Lab) -> None:
    few = 3
    rules = lab_v4.rules()
    usual = f"ct count over {LIMITS_OF_A_NODE.connections} "
    assert usual in rules
    load(lab_v4.node, rules.replace(usual, f"ct count over {few} "))

    with contextlib.ExitStack() as held:
        opened = [held.enter_context(connect(lab_v4.one, lab_v4.address, PORT)) for _ in range(few)]
        assert outcome(lab_v4.one, lab_v4.address, PORT) == "silent"
        assert outcome(lab_v4.other, lab_v4.address, PORT) == "connected"

        end_at_once(opened[0])

        until(lambda: outcome(lab_v4.one, lab_v4.address, PORT) == "connected", "room for one more")
