"""``rpcmesh firewall apply``, ``verify`` and ``remove`` on machines of our own: what gets in, and what is left."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from network_namespaces import inside, network
from whole_mesh import RPCMESH, short_home

from rpcmesh.firewall.loading import record_path
from rpcmesh.paths import Home

NFT = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin") or ""
SETSID = shutil.which("setsid") or ""
SETPRIV = shutil.which("setpriv") or ""
pytestmark = pytest.mark.skipif(not NFT, reason="needs nft, from the package nftables")

PORT = 8443
LIMIT_S = 60
# Listens and says so; a connection that is accepted gets one byte.
LISTEN = """
import socket, sys
with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as listener:
    print("listening", flush=True)
    while True:
        client, _ = listener.accept()
        client.sendall(b"!")
        client.close()
"""
REACH = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1) as there:
        print(there.recv(1).decode())
except OSError:
    print("-")
"""


@dataclass(frozen=True)
class Machine:
    """A coordinator in a namespace of its own, with two others on its network."""

    home: Home
    name: str
    address: str
    client: str
    client_address: str
    stranger: str

    def argv(self, *verb: str) -> list[str]:
        return inside(self.name, *RPCMESH, "firewall", *verb)

    def env(self, **more: str) -> dict[str, str]:
        clients = {"RPCMESH_FIREWALL_CLIENTS": self.client_address}
        return {**os.environ, "RPCMESH_HOME": str(self.home.root), **clients, **more}

    def firewall(self, *verb: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*verb),
            env=self.env(**more),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def nft(self, *arguments: str, stdin: str = "") -> str:
        argv = inside(self.name, NFT, *arguments)
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=True).stdout

    @property
    def ruleset(self) -> str:
        return self.nft("--stateless", "list", "ruleset")

    @property
    def record(self) -> Path:
        return record_path(self.home.root)

    @contextlib.contextmanager
    def asking(self, within: str) -> Iterator[subprocess.Popen[str]]:
        """``apply`` that has loaded the rules and now waits for Enter."""
        with subprocess.Popen(
            self.argv("apply", "--confirm-within", within),
            env=self.env(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        ) as apply:
            try:
                assert apply.stderr is not None
                assert "press Enter" in apply.stderr.readline()
                assert "table inet rpcmesh" in self.ruleset
                yield apply
            finally:
                apply.kill()


@pytest.fixture
def machine() -> Iterator[Machine]:
    with network() as net, short_home() as home:
        name, address = net.add()
        client, client_address = net.add()
        stranger, _ = net.add()
        made = Machine(home, name, address, client, client_address, stranger)
        founding = inside(name, *RPCMESH, "init", "--name", "lab", "--listen", f"{address}:{PORT}")
        subprocess.run(founding, env=made.env(), check=True, capture_output=True, timeout=LIMIT_S)
        yield made


def reach(namespace: str, address: str) -> bool:
    done = subprocess.run(
        inside(namespace, sys.executable, "-c", REACH, address, str(PORT)), capture_output=True, text=True, check=True
    )
    return done.stdout == "!\n"


def test_applied_rules_let_the_client_in_and_keep_a_stranger_out(machine: Machine) -> None:
    argv = inside(machine.name, sys.executable, "-c", LISTEN, str(PORT))
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as listener:
        try:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "listening\n"
            assert reach(machine.stranger, machine.address)

            applied = machine.firewall("apply")

            assert (applied.returncode, applied.stderr) == (0, "")
            assert reach(machine.client, machine.address)
            assert not reach(machine.stranger, machine.address)
            # The addresses that nft has seen meanwhile are no change of the rules.
            assert machine.client_address in machine.nft("list", "set", "inet", "rpcmesh", "tries_v4")
            assert machine.firewall("verify").returncode == 0
        finally:
            listener.kill()


def test_verify_says_that_nothing_is_loaded(machine: Machine) -> None:
    verified = machine.firewall("verify")

    assert verified.returncode == 1
    assert "not loaded" in verified.stderr


def test_the_record_is_for_its_owner_only(machine: Machine) -> None:
    machine.firewall("apply")

    assert stat.S_IMODE(machine.record.stat().st_mode) == 0o600


def test_a_rule_deleted_by_hand_is_drift(machine: Machine) -> None:
    machine.firewall("apply")
    listed = machine.nft("--handle", "list", "chain", "inet", "rpcmesh", "input")
    deny = next(line for line in listed.splitlines() if 'comment "rpcmesh:deny"' in line)
    machine.nft("delete", "rule", "inet", "rpcmesh", "input", "handle", deny.split()[-1])

    verified = machine.firewall("verify")

    assert verified.returncode == 1
    assert "drift" in verified.stderr


def test_a_stranger_added_to_the_peers_by_hand_is_drift(machine: Machine) -> None:
    machine.firewall("apply")
    machine.nft("add", "element", "inet", "rpcmesh", "peers_v4", "{ 10.77.0.99 }")

    assert "drift" in machine.firewall("verify").stderr


def test_rules_of_older_settings_are_told_apart(machine: Machine) -> None:
    machine.firewall("apply")

    verified = machine.firewall("verify", RPCMESH_FIREWALL_CLIENTS="10.77.0.99")

    assert verified.returncode == 1
    assert "older settings" in verified.stderr


def test_without_an_answer_the_former_rules_come_back(machine: Machine) -> None:
    many = ",".join(["fd00::/64", *(f"10.88.{number}.0/25" for number in range(30))])
    machine.firewall("apply", RPCMESH_FIREWALL_CLIENTS=many, RPCMESH_FIREWALL_INTERFACES="eth0,eth1")
    machine.nft("add", "rule", "inet", "rpcmesh", "input", "tcp", "dport", "99", "drop")
    former, former_record = machine.ruleset, machine.record.read_bytes()

    with machine.asking("2s") as apply:
        assert machine.ruleset != former
        assert apply.wait(LIMIT_S) == 1

    assert machine.ruleset == former
    assert machine.record.read_bytes() == former_record


def test_without_an_answer_to_the_first_rules_there_are_none(machine: Machine) -> None:
    with machine.asking("2s") as apply:
        assert apply.wait(LIMIT_S) == 1

    assert machine.ruleset == ""
    assert not machine.record.exists()


def test_enter_keeps_the_new_rules(machine: Machine) -> None:
    with machine.asking("60s") as apply:
        apply.communicate("\n", timeout=LIMIT_S)
        assert apply.returncode == 0

    assert machine.firewall("verify").returncode == 0


def test_a_closed_input_cannot_answer(machine: Machine) -> None:
    applied = machine.firewall("apply", "--confirm-within", "60s", stdin="")

    assert applied.returncode == 1
    assert machine.ruleset == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_apply_that_is_ended_brings_the_former_rules_back(machine: Machine, number: signal.Signals) -> None:
    with machine.asking("60s") as apply:
        apply.send_signal(number)
        _, said = apply.communicate(timeout=LIMIT_S)

    assert apply.returncode == 1
    assert "the former rules are back" in said
    assert machine.ruleset == ""


def test_an_apply_cannot_be_stopped_before_the_former_rules_are_back(machine: Machine) -> None:
    with machine.asking("2s") as apply:
        apply.send_signal(signal.SIGTSTP)
        assert apply.wait(LIMIT_S) == 1

    assert machine.ruleset == ""


@pytest.mark.skipif(not SETSID, reason="needs setsid, from util-linux")
def test_a_lost_terminal_brings_the_former_rules_back(machine: Machine) -> None:
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
                assert "table inet rpcmesh" in machine.ruleset

                terminal.close()

                assert apply.wait(LIMIT_S) == 1
            finally:
                apply.kill()

    assert machine.ruleset == ""
    assert not machine.record.exists()


@pytest.mark.skipif(not SETPRIV, reason="needs setpriv, from util-linux")
def test_an_ordinary_user_is_told_the_command_for_root(machine: Machine) -> None:
    # The interpreter may lie where only root can read.
    nobody = [SETPRIV, "--reuid=65534", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    argv = [*nobody, *RPCMESH, "firewall", "apply"]

    as_nobody = subprocess.run(argv, env=machine.env(), capture_output=True, text=True, timeout=LIMIT_S, check=False)

    assert as_nobody.returncode == 1
    assert "needs root" in as_nobody.stderr
    assert f"sudo env RPCMESH_HOME={machine.home.root}" in as_nobody.stderr
    assert machine.ruleset == ""


def test_remove_leaves_no_trace(machine: Machine) -> None:
    machine.firewall("apply")

    removed = [machine.firewall("remove") for _ in range(2)]

    assert [(one.returncode, one.stdout) for one in removed] == [
        (0, "nft rules: removed\n"),
        (0, "nft rules: there were none\n"),
    ]
    assert machine.ruleset == ""
    assert not machine.record.exists()


def test_tables_of_others_stay(machine: Machine) -> None:
    machine.nft("add", "table", "inet", "other")
    others = machine.ruleset

    machine.firewall("apply")
    machine.firewall("remove")

    assert machine.ruleset == others
