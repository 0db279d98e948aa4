"""The rules as ``rpcmesh firewall`` prints them, and what real hosts can reach once nftables has loaded them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import whole_mesh
from firewall_machines import load, make_node_home, needs_nft
from namespace_sockets import listening, reach
from network_namespaces import BRIDGE_ADDRESS, network
from whole_mesh import run_cli, short_home

from rpcmesh.firewall import nft
from rpcmesh.firewall.policy import Policy
from rpcmesh.native_build import Build
from rpcmesh.paths import Home

PORT, OTHER_PORT = 7443, 7444


@needs_nft
def test_only_the_coordinator_reaches_the_tunnel_and_nothing_else_is_touched() -> None:
    with network() as net:
        node, address = net.add()
        stranger, _ = net.add()
        with listening(node, PORT, OTHER_PORT):
            assert reach(stranger, address, PORT)  # before there are rules

            rules = nft.render(Policy(role="node", tls_port=PORT, peers=(BRIDGE_ADDRESS,)))
            for _ in range(2):  # the second load replaces the first
                load(node, rules)
                assert reach(net.hub, address, PORT)
                assert reach(node, address, PORT)
                assert not reach(stranger, address, PORT)
                assert reach(stranger, address, OTHER_PORT)


@pytest.fixture
def coordinator(free_port: int) -> Iterator[Home]:
    with short_home() as home:
        assert run_cli(home, "init", "--name", "lab", "--listen", f"127.0.0.1:{free_port}").returncode == 0
        yield home


def test_a_coordinator_shows_rules_for_its_own_port(coordinator: Home, free_port: int) -> None:
    shown = {
        backend: run_cli(coordinator, "firewall", "show", "--backend", backend).stdout for backend in ("pf", "nft")
    }

    assert f'tls_port = "{free_port}"' in shown["pf"]
    assert f"tcp dport {free_port}" in shown["nft"]


def test_check_says_what_accepted_the_rules(coordinator: Home) -> None:
    checked = run_cli(coordinator, "firewall", "check", "--backend", "pf")

    assert checked.returncode == 0
    assert checked.stdout == "pf rules: our reader accepts them\n" or "pfctl accepts them" in checked.stdout


def test_clients_that_are_no_addresses_are_named(coordinator: Home) -> None:
    refused = run_cli(coordinator, "firewall", "show", RPCMESH_FIREWALL_CLIENTS="10.0.0.1/8")

    assert refused.returncode == 1
    assert "'10.0.0.1/8' is not an IP address or network" in refused.stderr
    assert "10.0.0.0/8" in refused.stderr


async def test_a_node_lets_in_who_admitted_it_until_its_config_says_otherwise(build: Build, smollm2: Path) -> None:
    async with whole_mesh.founded(build, smollm2, min_workers=1) as mesh:
        await mesh.join("node-1")
        home = mesh.node_home("node-1")

        learned = run_cli(home, "firewall", "show", "--backend", "nft")
        told = run_cli(home, "firewall", "show", "--backend", "nft", RPCMESH_FIREWALL_PEERS="192.168.1.10,fd00::10")

    assert "elements = { 127.0.0.1 }" in learned.stdout
    assert "elements = { 192.168.1.10 }" in told.stdout
    assert "elements = { fd00::10 }" in told.stdout
    assert "127.0.0.1" not in told.stdout


def test_a_node_that_knows_no_coordinator_must_be_told() -> None:
    with short_home() as home:
        make_node_home(home, "127.0.0.1:7443")

        refused = run_cli(home, "firewall", "show")

    assert refused.returncode == 1
    assert "[firewall] peers" in refused.stderr


def test_a_home_without_a_mesh_has_no_rules() -> None:
    with short_home() as home:
        refused = run_cli(home, "firewall", "show")

    assert refused.returncode == 1
    assert "belongs to no mesh" in refused.stderr
