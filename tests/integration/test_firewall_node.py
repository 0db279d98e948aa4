"""A node whose settings tie it to its firewall: when it does not start, and when its tunnel stops."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from firewall_machines import Machine, needs_nft, node, until
from namespace_sockets import outcome
from network_namespaces import BRIDGE_ADDRESS, Network, network

from rpcmesh.firewall import watch
from rpcmesh.native_build import Build

pytestmark = needs_nft

PORT = 7443


@pytest.fixture
def net() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def machine(net: Network, build: Build) -> Iterator[Machine]:
    with node(net, BRIDGE_ADDRESS) as made:
        yield made


def tunnel_is(machine: Machine, expected: str) -> None:
    """Asked from the node itself, whom no limit keeps from asking often."""
    until(lambda: outcome(machine.name, machine.address, PORT) == expected, f"a tunnel that is {expected}")


def test_a_node_that_requires_a_firewall_does_not_start_without_one(machine: Machine) -> None:
    ran = machine.type("node", "run", RPCMESH_NODE_FIREWALL="required")

    assert ran.returncode == 1
    assert "`rpcmesh firewall keep` does not run here" in ran.stderr
    assert "hint:" in ran.stderr


def test_a_node_that_requires_a_firewall_does_not_start_behind_another_one(machine: Machine) -> None:
    with machine.keeping(RPCMESH_FIREWALL_ON_DRIFT="report"):
        machine.delete_rule("rpcmesh:deny")
        until(lambda: problem(machine), "word of the drift")

        ran = machine.type("node", "run", RPCMESH_NODE_FIREWALL="required")

    assert ran.returncode == 1
    assert "drift" in ran.stderr


def test_a_node_that_requires_a_firewall_starts_behind_one(machine: Machine) -> None:
    with machine.keeping(), machine.running("node", "run", RPCMESH_NODE_FIREWALL="required"):
        tunnel_is(machine, "connected")


def test_a_tunnel_stops_while_the_rules_are_not_as_meant(net: Network, machine: Machine) -> None:
    stop = {"RPCMESH_FIREWALL_ON_DRIFT": "stop"}
    with machine.keeping(**stop), machine.running("node", "run", **stop) as run:
        tunnel_is(machine, "connected")

        machine.delete_rule("rpcmesh:deny")
        tunnel_is(machine, "refused")
        assert outcome(net.hub, machine.address, PORT) == "refused"
        assert run.process.poll() is None

        applied = machine.firewall("apply")
        assert applied.returncode == 0, applied.stderr
        tunnel_is(machine, "connected")
        assert outcome(net.hub, machine.address, PORT) == "connected"


def test_a_tunnel_stops_when_nobody_looks_any_more(machine: Machine) -> None:
    with machine.running("node", "run", RPCMESH_FIREWALL_ON_DRIFT="stop"):
        now = time.time()
        watch.write(machine.home.root, watch.Seen("", now, good_until=now + 4))
        tunnel_is(machine, "connected")

        tunnel_is(machine, "refused")


def problem(machine: Machine) -> str:
    seen = watch.read(machine.home.root)
    return seen.problem if seen else ""
