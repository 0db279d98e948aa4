"""The stranger who tries: what he meets on machines of our own, and that nothing of him is left."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest
from firewall_machines import Machine, load, needs_nft, node, until
from namespace_sockets import in_network_of, listener
from network_namespaces import BRIDGE_ADDRESS, IP, network

from rpcmesh.errors import RpcmeshError
from rpcmesh.firewall import nft, probe
from rpcmesh.firewall.policy import Policy

pytestmark = needs_nft

PORT = 7443
POLICY = Policy(role="node", tls_port=PORT, peers=(BRIDGE_ADDRESS,))


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Nothing may be left on it after the test."""
    with network() as net, node(net, BRIDGE_ADDRESS) as made:
        before, strangers = links(made), namespaces_of_strangers()
        yield made
        assert links(made) == before
        # Somebody else's probe on this machine has its own end.
        until(lambda: namespaces_of_strangers() <= strangers, "the end of the stranger's network")


def links(machine: Machine) -> list[str]:
    done = subprocess.run([IP, "-n", machine.name, "-br", "address"], capture_output=True, text=True, check=True)
    return [line.split()[0] for line in done.stdout.splitlines()]


def namespaces_of_strangers() -> set[str]:
    done = subprocess.run([IP, "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in done.stdout.splitlines() if line.startswith("rpcmesh-")}


def tried(machine: Machine, address: str, policy: Policy = POLICY) -> str:
    return in_network_of(machine.name, lambda: probe.try_as_stranger(policy, address))


def test_verify_has_a_stranger_try_and_he_hears_nothing(machine: Machine) -> None:
    machine.firewall("apply")
    with listener(machine.name, PORT):
        verified = machine.firewall("verify")

    assert verified.returncode == 0
    assert verified.stdout == (
        "nft rules: loaded, and as they are meant\n"
        f"probe: a stranger's connection to {machine.address} port {PORT} got no answer\n"
    )


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_a_service_that_listens_everywhere_is_tried_at_the_strangers_link(machine: Machine, address: str) -> None:
    if ":" in address and not socket.has_dualstack_ipv6():
        pytest.skip("there is no IPv6 here")
    with listener(machine.name, PORT):
        with pytest.raises(RpcmeshError, match="was let in"):
            tried(machine, address)

        load(machine.name, nft.render(POLICY))

        assert tried(machine, address).endswith("got no answer")


def test_a_stranger_who_is_let_in_is_an_error(machine: Machine) -> None:
    with listener(machine.name, PORT), pytest.raises(RpcmeshError, match="was let in") as caught:
        tried(machine, machine.address)

    assert caught.value.hint is not None
    assert "nft list ruleset" in caught.value.hint


def test_a_stranger_who_is_refused_aloud_is_an_error(machine: Machine) -> None:
    with pytest.raises(RpcmeshError, match="was answered"):
        tried(machine, machine.address)


def test_where_strangers_are_peers_nobody_tries(machine: Machine) -> None:
    everywhere = Policy(role="node", tls_port=PORT, peers=("198.18.0.0/15",))

    assert tried(machine, machine.address, everywhere).startswith("probe: none, for 198.18.77.2")
