"""``rpcmesh firewall apply``, ``verify`` and ``remove`` on machines of our own: what gets in, and what is left."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from firewall_machines import LIMIT_S, Machine, needs_nft
from namespace_sockets import listening, reach
from network_namespaces import inside, network
from whole_mesh import RPCMESH, short_home

SETSID = shutil.which("setsid") or ""
SETPRIV = shutil.which("setpriv") or ""
pytestmark = needs_nft

PORT = 8443


@dataclass(frozen=True, kw_only=True)
class Coordinator(Machine):
    """With two others on its network."""

    client: str
    client_address: str
    stranger: str


@pytest.fixture
def machine() -> Iterator[Coordinator]:
    with network() as net, short_home() as home:
        name, address = net.add()
        client, client_address = net.add()
        stranger, _ = net.add()
        made = Coordinator(
            home=home,
            name=name,
            address=address,
            table="inet rpcmesh_coordinator",
            settings={"RPCMESH_FIREWALL_CLIENTS": client_address},
            client=client,
            client_address=client_address,
            stranger=stranger,
        )
        founding = inside(name, *RPCMESH, "init", "--name", "lab", "--listen", f"{address}:{PORT}")
        subprocess.run(founding, env=made.env(), check=True, capture_output=True, timeout=LIMIT_S)
        yield made


def test_applied_rules_let_the_client_in_and_keep_a_stranger_out(machine: Coordinator) -> None:
    with listening(machine.name, PORT):
        assert reach(machine.stranger, machine.address, PORT)

        applied = machine.firewall("apply")

        assert (applied.returncode, applied.stderr) == (0, "")
        assert reach(machine.client, machine.address, PORT)
        assert not reach(machine.stranger, machine.address, PORT)
        # The addresses that nft has seen meanwhile are no change of the rules.
        assert machine.client_address in machine.nft("list", "set", "inet", "rpcmesh_coordinator", "tries_v4")
        assert machine.firewall("verify").returncode == 0


def test_verify_says_that_nothing_is_loaded(machine: Coordinator) -> None:
    verified = machine.firewall("verify")

    assert verified.returncode == 1
    assert "not loaded" in verified.stderr


def test_the_record_is_for_its_owner_only(machine: Coordinator) -> None:
    machine.firewall("apply")

    assert stat.S_IMODE(machine.record.stat().st_mode) == 0o600


def test_a_rule_deleted_by_hand_is_drift(machine: Coordinator) -> None:
    machine.firewall("apply")
    machine.delete_rule("rpcmesh:deny")

    verified = machine.firewall("verify")

    assert verified.returncode == 1
    assert "drift" in verified.stderr


def test_a_stranger_added_to_the_peers_by_hand_is_drift(machine: Coordinator) -> None:
    machine.firewall("apply")
    machine.nft("add", "element", "inet", "rpcmesh_coordinator", "peers_v4", "{ 10.77.0.99 }")

    assert "drift" in machine.firewall("verify").stderr


def test_rules_of_older_settings_are_told_apart(machine: Coordinator) -> None:
    machine.firewall("apply")

    verified = machine.firewall("verify", RPCMESH_FIREWALL_INTERFACES="eth7")

    assert verified.returncode == 1
    assert "older settings" in verified.stderr


def test_older_addresses_are_told_apart(machine: Coordinator) -> None:
    machine.firewall("apply")

    verified = machine.firewall("verify", RPCMESH_FIREWALL_CLIENTS="10.77.0.99")

    assert verified.returncode == 1
    assert "older addresses" in verified.stderr


def test_without_an_answer_the_former_rules_come_back(machine: Coordinator) -> None:
    many = ",".join(["fd00::/64", *(f"10.88.{number}.0/25" for number in range(30))])
    machine.firewall("apply", RPCMESH_FIREWALL_CLIENTS=many, RPCMESH_FIREWALL_INTERFACES="eth0,eth1")
    machine.nft("add", "rule", "inet", "rpcmesh_coordinator", "input", "tcp", "dport", "99", "drop")
    former, former_record = machine.ruleset, machine.record.read_bytes()

    with machine.asking("2s") as apply:
        assert machine.ruleset != former
        assert apply.wait(LIMIT_S) == 1

    assert machine.ruleset == former
    assert machine.record.read_bytes() == former_record


def test_without_an_answer_to_the_first_rules_there_are_none(machine: Coordinator) -> None:
    with machine.asking("2s") as apply:
        assert apply.wait(LIMIT_S) == 1

    assert machine.ruleset == ""
    assert not machine.record.exists()


def test_enter_keeps_the_new_rules(machine: Coordinator) -> None:
    with machine.asking("60s") as apply:
        apply.communicate("\n", timeout=LIMIT_S)
        assert apply.returncode == 0

    assert machine.firewall("verify").returncode == 0


def test_a_closed_input_cannot_answer(machine: Coordinator) -> None:
    applied = machine.firewall("apply", "--confirm-within", "60s", stdin="")

    assert applied.returncode == 1
    assert machine.ruleset == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_apply_that_is_ended_brings_the_former_rules_back(machine: Coordinator, number: signal.Signals) -> None:
    with machine.asking("60s") as apply:
        apply.send_signal(number)
        _, said = apply.communicate(timeout=LIMIT_S)

    assert apply.returncode == 1
    assert "the former rules are back" in said
    assert machine.ruleset == ""


def test_an_apply_cannot_be_stopped_before_the_former_rules_are_back(machine: Coordinator) -> None:
    with machine.asking("2s") as apply:
        apply.send_signal(signal.SIGTSTP)
        assert apply.wait(LIMIT_S) == 1

    assert machine.ruleset == ""


@pytest.mark.skipif(not SETSID, reason="needs setsid, from util-linux")
def test_a_lost_terminal_brings_the_former_rules_back(machine: Coordinator) -> None:
    ours, theirs = pty.openpty()
    with contextlib.ExitStack() as open_ends:
        open_ends.callback(os.close, theirs)
        terminal = open_ends.enter_context(open(ours, "rb", buffering=0))  # noqa: PTH123 (a descriptor, not a path)
        os.write(ours, b"\n")  # typed ahead of the question: no answer to it
        with subprocess.Popen(
            [SETSID, "--ctty", *machine.argv("apply", "--confirm-within", "60s")],
            env=machine.env(),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        ) as apply:
            try:
                said = b""
                while b"press Enter" not in said:
                    said += terminal.read(4096)
                assert "table inet rpcmesh_coordinator" in machine.ruleset

                terminal.close()

                assert apply.wait(LIMIT_S) == 1
            finally:
                apply.kill()

    assert machine.ruleset == ""
    assert not machine.record.exists()


@pytest.mark.skipif(not SETPRIV, reason="needs setpriv, from util-linux")
def test_an_ordinary_user_is_told_the_command_for_root(machine: Coordinator) -> None:
    # The interpreter may lie where only root can read.
    nobody = [SETPRIV, "--reuid=65534", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    argv = [*nobody, *RPCMESH, "firewall", "apply"]

    as_nobody = subprocess.run(argv, env=machine.env(), capture_output=True, text=True, timeout=LIMIT_S, check=False)

    assert as_nobody.returncode == 1
    assert "needs root" in as_nobody.stderr
    assert f"sudo env RPCMESH_HOME={machine.home.root}" in as_nobody.stderr
    assert machine.ruleset == ""


def test_remove_leaves_no_trace(machine: Coordinator) -> None:
    machine.firewall("apply")

    removed = [machine.firewall("remove") for _ in range(2)]

    assert [(one.returncode, one.stdout) for one in removed] == [
        (0, "nft rules: removed\n"),
        (0, "nft rules: there were none\n"),
    ]
    assert machine.ruleset == ""
    assert not machine.record.exists()


def test_tables_of_others_stay(machine: Coordinator) -> None:
    machine.nft("add", "table", "inet", "other")
    others = machine.ruleset

    machine.firewall("apply")
    machine.firewall("remove")

    assert machine.ruleset == others
