"""Root works on a home that an ordinary user can write: that user's files, and nothing of root's behind them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from firewall_machines import LIMIT_S, Machine, make_coordinator_home, needs_nft, node, until
from network_namespaces import BRIDGE_ADDRESS, inside, network
from whole_mesh import RPCMESH, short_home

from rpcmesh import config
from rpcmesh.pki.files import write_private

SETPRIV = shutil.which("setpriv") or ""
pytestmark = needs_nft

OWNER = 12345
SECRET = "root's own\n"


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A node whose home belongs to an ordinary user."""
    with network() as net, node(net, BRIDGE_ADDRESS) as made:
        give_to_owner(made)
        yield made


def give_to_owner(machine: Machine) -> None:
    root = machine.home.root
    for path in (root, *root.rglob("*")):
        os.chown(path, OWNER, OWNER, follow_symlinks=False)


def link_as_owner(machine: Machine, name: str, target: Path) -> None:
    link = machine.home.root / name
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    os.chown(link, OWNER, OWNER, follow_symlinks=False)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of root's where only root comes."""
    made = tmp_path / "secret"
    made.write_text(SECRET)
    return made


def test_the_record_and_the_lock_belong_to_the_owner(machine: Machine) -> None:
    applied = machine.firewall("apply")

    written = [machine.record, machine.home.root / "firewall.lock"]
    assert applied.returncode == 0
    assert [(path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) for path in written] == [(OWNER, 0o600)] * 2


def test_what_keep_saw_belongs_to_the_owner(machine: Machine) -> None:
    path = machine.home.root / "firewall-seen.json"
    with machine.keeping():
        until(path.exists, "what keep saw")
        seen = path.stat()

    assert (seen.st_uid, stat.S_IMODE(seen.st_mode)) == (OWNER, 0o600)


@pytest.mark.parametrize("name", ["firewall.json", "firewall.lock", "membership.json", "config.toml"])
@pytest.mark.parametrize("open_to_all", [True, False])
def test_a_link_to_a_file_of_roots_is_neither_followed_nor_overwritten(
    machine: Machine, secret: Path, name: str, open_to_all: bool
) -> None:
    if open_to_all:
        secret.parent.chmod(0o755)
        secret.chmod(0o666)
    link_as_owner(machine, name, secret)

    applied = machine.firewall("apply")

    assert applied.returncode == 1
    assert "Traceback" not in applied.stderr
    assert SECRET.strip() not in applied.stderr
    assert machine.ruleset == ""
    assert secret.read_text() == SECRET


@pytest.mark.skipif(not SETPRIV, reason="needs setpriv, from util-linux")
def test_what_only_a_group_of_roots_may_read_is_not_read(machine: Machine, secret: Path) -> None:
    secret.parent.chmod(0o755)
    secret.chmod(0o640)
    link_as_owner(machine, "config.toml", secret)
    # As root is in its groups after a login.
    argv = inside(machine.name, SETPRIV, "--groups=0", *RPCMESH, "firewall", "apply")

    applied = subprocess.run(argv, env=machine.env(), capture_output=True, text=True, timeout=LIMIT_S, check=False)

    assert applied.returncode == 1
    assert "Permission denied" in applied.stderr


def test_a_link_to_nothing_makes_no_file_there(machine: Machine, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    link_as_owner(machine, "firewall.json", tmp_path / "new")

    machine.firewall("apply")

    assert list(tmp_path.iterdir()) == []


def test_a_port_of_roots_is_closed_on_an_admins_word_only(machine: Machine) -> None:
    settings = config.Config(node=config.Node(name="node-1", listen=f"{machine.address}:80"))
    write_private(machine.home.config, config.render(settings).encode())
    give_to_owner(machine)

    with machine.keeping() as keep:
        refused = keep.events("firewall_not_as_meant")
        unasked = machine.ruleset
    applied = machine.firewall("apply")

    assert "port 80 is root's" in refused[0]["problem"]
    assert unasked == ""
    assert applied.returncode == 0
    assert "tcp dport 80 " in machine.ruleset


def test_a_home_that_its_owner_spoilt_does_not_end_the_keeping_of_others(machine: Machine, secret: Path) -> None:
    with short_home() as other:
        make_coordinator_home(other, f"{machine.address}:8443")
        with machine.keeping(machine.home, other) as keep:
            link_as_owner(machine, "membership.json", secret)
            until(lambda: keep.events("firewall_not_as_meant"), "word of the link")
            machine.home.identity.rename(machine.home.root / "former")
            link_as_owner(machine, "identity", secret.parent)
            machine.nft("delete", "table", "inet", "rpcmesh_coordinator")
            until(lambda: len(keep.events("firewall_not_as_meant")) == 2, "a look at the other home")

            first, second = keep.events("firewall_not_as_meant")

    assert (first["home"], "symbolic link" in first["problem"]) == (str(machine.home.root), True)
    assert (second["home"], "no longer loaded" in second["problem"]) == (str(other.root), True)
