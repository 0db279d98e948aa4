"""Machines with a firewall of their own, and the verbs that are typed on them. No test lives here."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from network_namespaces import Network, inside
from whole_mesh import RPCMESH, short_home

from rpcmesh import config
from rpcmesh.coordinator import founding
from rpcmesh.firewall import membership
from rpcmesh.firewall.loading import record_path
from rpcmesh.paths import Home
from rpcmesh.pki import identity, names, signing_request
from rpcmesh.pki.authority import Authority
from rpcmesh.pki.files import write_private
from rpcmesh.pki.revocation import Revocations

NFT = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin") or ""
needs_nft = pytest.mark.skipif(not NFT, reason="needs nft, from the package nftables")

LIMIT_S = 60
T = TypeVar("T")


def until(condition: Callable[[], T], what: str, limit_s: float = LIMIT_S) -> T:
    """Ask until the answer is true, and give it; fail saying what did not come."""
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come within {limit_s:.0f} s"
        time.sleep(0.02)
    return found


def load(namespace: str, rules: str) -> None:
    subprocess.run(inside(namespace, NFT, "-f", "-"), input=rules, text=True, capture_output=True, check=True)


@dataclass(frozen=True)
class Keep:
    """A running ``rpcmesh firewall keep``."""

    process: subprocess.Popen[bytes]
    log: Path

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it logged so far under this name."""
        lines = [json.loads(text) for text in self.log.read_text().splitlines() if text.startswith("{")]
        return [one for one in lines if one["event"] == name]

    def has_looked(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return bool(self.events("firewall_verified") or self.events("firewall_not_as_meant"))


@dataclass(frozen=True)
class Machine:
    """A namespace with a home of its own, where verbs are typed. ``settings`` are in the environment of each."""

    home: Home
    name: str
    address: str
    table: str
    settings: dict[str, str] = field(default_factory=dict)

    def argv(self, *verb: str) -> list[str]:
        return inside(self.name, *RPCMESH, "firewall", *verb)

    def env(self, **more: str) -> dict[str, str]:
        return {**os.environ, "RPCMESH_HOME": str(self.home.root), **self.settings, **more}

    def firewall(self, *verb: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return self.type("firewall", *verb, stdin=stdin, **more)

    def type(self, *verb: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            inside(self.name, *RPCMESH, *verb),
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

    def delete_rule(self, comment: str) -> None:
        """By hand, as somebody would who knows nothing of us."""
        listed = self.nft("--handle", "list", "chain", *self.table.split(), "input")
        rule = next(text for text in listed.splitlines() if f'comment "{comment}"' in text)
        self.nft("delete", "rule", *self.table.split(), "input", "handle", rule.split()[-1])

    @property
    def ruleset(self) -> str:
        return self.nft("--stateless", "list", "ruleset")

    @property
    def record(self) -> Path:
        return record_path(self.home.root)

    @contextlib.contextmanager
    def asking(self, within: str, **more: str) -> Iterator[subprocess.Popen[str]]:
        """``apply`` that has loaded the rules and now waits for Enter."""
        with subprocess.Popen(
            self.argv("apply", "--confirm-within", within),
            env=self.env(**more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        ) as apply:
            try:
                assert apply.stderr is not None
                assert "press Enter" in apply.stderr.readline()
                assert f"table {self.table}" in self.ruleset
                yield apply
            finally:
                apply.kill()

    @contextlib.contextmanager
    def running(self, *verb: str, **more: str) -> Iterator[Keep]:
        """A verb that stays. What it says goes to a file."""
        with tempfile.NamedTemporaryFile(prefix="rm-", suffix=".log") as log:
            argv = inside(self.name, *RPCMESH, *verb)
            with subprocess.Popen(argv, env=self.env(**more), stdout=log, stderr=log) as process:
                try:
                    yield Keep(process, Path(log.name))
                except BaseException:
                    sys.stderr.write(Path(log.name).read_text())  # shown with the test's failure
                    raise
                finally:
                    process.terminate()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(LIMIT_S)
                    process.kill()

    @contextlib.contextmanager
    def keeping(self, *homes: Home, **more: str) -> Iterator[Keep]:
        """``keep``, from its first look on; it looks every second unless told otherwise."""
        more = {"RPCMESH_FIREWALL_VERIFY_S": "1", **more}
        with self.running("firewall", "keep", *(str(home.root) for home in homes), **more) as keep:
            until(keep.has_looked, "keep's first look")
            yield keep


@contextlib.contextmanager
def node(net: Network, *peers: str, port: int = config.TUNNEL_PORT) -> Iterator[Machine]:
    """A joined node, of which no service runs. It knows ``peers`` as its coordinator's addresses."""
    name, address = net.add()
    with short_home() as home:
        make_node_home(home, f"{address}:{port}")
        membership.write(home.root, membership.Membership(peers=peers))
        yield Machine(home, name, address, "inet rpcmesh")


def make_node_home(home: Home, listen: str) -> None:
    """The home of ``node-1``, with an identity that an authority signed which is not kept."""
    with tempfile.TemporaryDirectory(prefix="rm-") as root:
        authority = Authority.create(Path(root) / "authority", "lab", time.time())
    key, csr = signing_request.new_key_and_csr()
    leaf = authority.sign_csr(csr, names.node_uri("lab", "node-1"), time.time())
    no_revocations = authority.sign_revocations(Revocations(1, time.time(), ()))
    identity.install(home.identity, key, leaf.pem, authority.ca_pem, no_revocations)
    settings = config.Config(mesh=config.Mesh(name="lab"), node=config.Node(name="node-1", listen=listen))
    write_private(home.config, config.render(settings).encode())


def make_coordinator_home(home: Home, listen: str) -> None:
    settings = config.Config(mesh=config.Mesh(name="lab"), coordinator=config.Coordinator(listen=listen))
    founding.found(home, settings, time.time())
