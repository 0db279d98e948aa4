"""``rpcmesh firewall keep`` on machines of our own: it loads, follows the mesh's addresses, and leaves admins alone."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from firewall_machines import LIMIT_S, Machine, make_coordinator_home, make_node_home, needs_nft, node, until
from namespace_sockets import line, listener, outcome
from network_namespaces import BRIDGE_ADDRESS, Network, network
from whole_mesh import short_home

from rpcmesh.firewall import membership, watch
from rpcmesh.firewall.membership import Membership

pytestmark = needs_nft

PORT = 7443


@pytest.fixture
def net() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def machine(net: Network) -> Iterator[Machine]:
    """A node whose coordinator is at the hub."""
    with node(net, BRIDGE_ADDRESS) as made:
        yield made


def rule_handles(machine: Machine) -> list[str]:
    """Each rule's number. The kernel gives new ones to rules that are loaded again."""
    return re.findall(r"# handle (\d+)", machine.nft("--handle", "list", "table", *machine.table.split()))


def peers(machine: Machine) -> str:
    return machine.nft("list", "set", *machine.table.split(), "peers_v4")


def says(machine: Machine, problem: str) -> bool:
    seen = watch.read(machine.home.root)
    return seen is not None and problem in seen.problem


def drifts(machine: Machine) -> int:
    seen = watch.read(machine.home.root)
    return seen.drifts if seen else 0


def seen_at(machine: Machine) -> float:
    seen = watch.read(machine.home.root)
    return seen.at if seen else 0.0


def is_verified(machine: Machine) -> bool:
    seen = watch.read(machine.home.root)
    return seen is not None and not seen.problem


def test_keep_loads_the_rules_tells_systemd_and_leaves_them_when_it_ends(machine: Machine, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(LIMIT_S)
        with machine.running("firewall", "keep", NOTIFY_SOCKET=str(address)) as keep:
            ready = systemd.recv(64)
            loaded = machine.ruleset

            keep.process.send_signal(signal.SIGTERM)
            status = keep.process.wait(LIMIT_S)

    assert ready == b"READY=1"
    assert f"table {machine.table}" in loaded
    assert status == 0
    assert machine.ruleset == loaded
    assert machine.firewall("verify", "--no-probe").returncode == 0


def test_a_home_without_a_mesh_is_waited_for(net: Network) -> None:
    name, address = net.add()
    with short_home() as home:
        machine = Machine(home, name, address, "inet rpcmesh", {"RPCMESH_FIREWALL_PEERS": BRIDGE_ADDRESS})
        with machine.running("firewall", "keep") as keep:
            until(lambda: keep.events("firewall_waits"), "word that keep waits")
            before = machine.ruleset

            make_node_home(home, f"{address}:{PORT}")
            until(lambda: keep.events("firewall_verified"), "the first rules")

        assert before == ""
        assert BRIDGE_ADDRESS in peers(machine)


def test_a_machine_of_both_roles_has_a_table_for_each(machine: Machine) -> None:
    with short_home() as home:
        make_coordinator_home(home, f"{machine.address}:8443")
        coordinator = Machine(home, machine.name, machine.address, "inet rpcmesh_coordinator")
        with machine.keeping(machine.home, home):
            until(lambda: is_verified(machine) and is_verified(coordinator), "both homes' rules")
        both = machine.nft("list", "tables")

        removed = coordinator.firewall("remove")

        assert sorted(both.splitlines()) == ["table inet rpcmesh", "table inet rpcmesh_coordinator"]
        assert removed.returncode == 0
        assert machine.nft("list", "tables") == "table inet rpcmesh\n"
        assert machine.firewall("verify", "--no-probe").returncode == 0


def test_new_addresses_come_in_force_without_a_reload(machine: Machine) -> None:
    with machine.keeping():
        before = rule_handles(machine)

        membership.write(machine.home.root, Membership(peers=("10.77.0.98", "10.77.0.99")))
        until(lambda: "10.77.0.98" in peers(machine), "the new addresses")

        assert BRIDGE_ADDRESS not in re.findall(r"[\d.]+", peers(machine))
        assert rule_handles(machine) == before
        until(lambda: is_verified(machine), "keep's approval of the new rules")
    assert machine.firewall("verify", "--no-probe").returncode == 0


def test_what_an_address_that_left_had_open_ends_and_the_rest_goes_on(net: Network, machine: Machine) -> None:
    other, other_address = net.add()
    membership.write(machine.home.root, Membership(peers=(BRIDGE_ADDRESS, other_address)))
    with (
        machine.keeping(),
        listener(machine.name, PORT) as tunnel,
        line(net.hub, machine.address, tunnel) as leaving,
        line(other, machine.address, tunnel) as staying,
    ):
        assert leaving.carries()
        assert staying.carries()

        membership.write(machine.home.root, Membership(peers=(other_address,)))
        until(lambda: BRIDGE_ADDRESS not in re.findall(r"[\d.]+", peers(machine)), "the address's leave")

        assert leaving.is_dead()
        assert outcome(net.hub, machine.address, PORT) == "silent"
        assert staying.carries()


def test_keep_that_is_ended_while_addresses_change_ends_with_the_change_done(machine: Machine) -> None:
    with machine.keeping() as keep:
        membership.write(machine.home.root, Membership(peers=("10.77.0.99",)))
        until(lambda: "10.77.0.99" in peers(machine), "the new address")
        keep.process.send_signal(signal.SIGTERM)

        assert keep.process.wait(LIMIT_S) == 0

    assert machine.firewall("verify", "--no-probe").returncode == 0


def test_what_was_open_before_the_first_rules_goes_on(net: Network, machine: Machine) -> None:
    with listener(machine.name, PORT) as tunnel, line(net.hub, machine.address, tunnel) as former, machine.keeping():
        assert former.carries()


def test_drift_is_told_and_left_to_an_admin_where_the_settings_say_so(machine: Machine) -> None:
    with machine.keeping(RPCMESH_FIREWALL_ON_DRIFT="report") as keep:
        machine.delete_rule("rpcmesh:deny")
        drifted = machine.ruleset

        until(lambda: keep.events("firewall_not_as_meant"), "word of the drift")
        assert "drift" in keep.events("firewall_not_as_meant")[0]["problem"]
        assert machine.ruleset == drifted

        machine.firewall("apply")
        until(lambda: is_verified(machine), "keep's approval")


def test_drift_is_told_and_repaired(machine: Machine) -> None:
    with machine.keeping() as keep:
        meant = machine.ruleset
        machine.delete_rule("rpcmesh:deny")

        until(lambda: machine.ruleset == meant, "the repair")

        until(lambda: len(keep.events("firewall_loaded")) == 2, "word of the repair")
        assert "drift" in keep.events("firewall_loaded")[1]["because"]
        assert "drift" in keep.events("firewall_not_as_meant")[0]["problem"]
        until(lambda: drifts(machine) == 1, "a look that counts it")


def test_rules_that_somebody_flushed_come_back(machine: Machine) -> None:
    with machine.keeping():
        meant = machine.ruleset
        machine.nft("flush", "ruleset")

        until(lambda: machine.ruleset == meant, "the rules")


def test_rules_that_an_admin_removed_stay_away(machine: Machine) -> None:
    with machine.keeping() as keep:
        assert machine.firewall("remove").returncode == 0

        until(lambda: says(machine, "not loaded"), "word of it")
        looked_at = seen_at(machine)
        until(lambda: seen_at(machine) > looked_at, "another look")
        assert machine.ruleset == ""
        assert len(keep.events("firewall_loaded")) == 1


def test_an_apply_that_waits_for_enter_is_left_alone(machine: Machine) -> None:
    with machine.keeping() as keep:
        former = machine.ruleset
        with machine.asking("60s", RPCMESH_FIREWALL_INTERFACES="eth0") as apply:
            tried = machine.ruleset
            until(lambda: says(machine, "older settings"), "a look at the rules that are tried")
            second = machine.firewall("apply")

            assert machine.ruleset == tried != former
            apply.communicate("", timeout=LIMIT_S)  # nobody is left who could answer
            assert apply.returncode == 1

        assert second.returncode == 1
        assert "another `rpcmesh firewall` command" in second.stderr
        assert machine.ruleset == former
        until(lambda: is_verified(machine), "keep's approval")
        assert len(keep.events("firewall_loaded")) == 1
