"""A mesh whose machines have ``rpcmesh firewall keep`` beside them: a revoked node is cut off, and drift is noticed."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from firewall_machines import Machine, needs_nft, until
from namespace_sockets import in_network_of, line, listener, outcome
from network_namespaces import BRIDGE_ADDRESS, Network, network
from whole_mesh import node_in, short_home

from rpcmesh.coordinator import admin, founding
from rpcmesh.coordinator.report import StatusReport
from rpcmesh.firewall.watch import FirewallStatus, State
from rpcmesh.gateway import keys
from rpcmesh.native_build import Build

pytestmark = needs_nft

GATEWAY_PORT, TUNNEL_PORT, OTHER_PORT = 8443, 7443, 2222


@dataclass(frozen=True)
class Mesh:
    """The coordinator, and ``node-1`` that runs."""

    net: Network
    hub: Machine
    node: Machine
    key: str

    def report(self) -> StatusReport | None:
        try:
            return asyncio.run(admin.AdminClient(self.hub.home.socket(admin.SOCKET_NAME)).status())
        except admin.NotRunningError:
            return None

    def asked(self) -> StatusReport:
        report = self.report()
        assert report is not None
        return report

    def firewall_of(self, machine: Machine) -> FirewallStatus:
        if machine is self.hub:
            return self.asked().firewall
        agent = node_in(self.asked(), "node-1").agent
        return agent.firewall if agent else FirewallStatus()

    def join(self, machine: Machine, name: str) -> None:
        string = typed(self.hub, "token", "create", "--node", name).split()[0]
        typed(machine, "join", "-", stdin=string)

    def metrics(self, *, key: str) -> tuple[int, str]:
        def get() -> tuple[int, str]:
            trust = ssl.create_default_context(cafile=str(self.hub.home.authority / "ca.pem"))
            with contextlib.closing(http.client.HTTPSConnection(BRIDGE_ADDRESS, GATEWAY_PORT, context=trust)) as asking:
                asking.request("GET", "/metrics", headers={"Authorization": f"Bearer {key}"} if key else {})
                answer = asking.getresponse()
                return answer.status, answer.read().decode()

        return in_network_of(self.hub.name, get)

    def figure(self, name: str) -> float:
        """A metric's value; ``name`` with its labels."""
        _, text = self.metrics(key=self.key)
        return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[-1])


def typed(machine: Machine, *verb: str, stdin: str = "") -> str:
    done = machine.type(*verb, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def machine_at(net: Network, table: str, at: tuple[str, str]) -> Iterator[Machine]:
    with short_home() as home:
        yield Machine(home, at[0], at[1], table)


@pytest.fixture(scope="module")
def mesh(build: Build) -> Iterator[Mesh]:
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(network())
        hub = stack.enter_context(machine_at(net, "inet rpcmesh_coordinator", (net.hub, BRIDGE_ADDRESS)))
        node = stack.enter_context(machine_at(net, "inet rpcmesh", net.add()))
        typed(hub, "init", "--name", "lab", "--listen", f"{BRIDGE_ADDRESS}:{GATEWAY_PORT}")
        secret, made = keys.mint("test", time.time())
        with founding.open_mesh(hub.home) as opened:
            opened.store.add_key(made, founding.ACTOR, time.time())
        mesh = Mesh(net, hub, node, secret)
        stack.enter_context(hub.running("serve"))
        until(mesh.report, "the coordinator")
        mesh.join(node, "node-1")
        stack.enter_context(node.running("node", "run"))
        stack.enter_context(hub.keeping(RPCMESH_FIREWALL_ON_DRIFT="report"))
        stack.enter_context(node.keeping(RPCMESH_FIREWALL_ON_DRIFT="report"))
        for machine in (hub, node):
            until(lambda: mesh.firewall_of(machine).state is State.VERIFIED, "verified rules")  # noqa: B023
        yield mesh


def revoked(hub: Machine) -> str:
    return hub.nft("list", "set", *hub.table.split(), "revoked_v4")


def test_a_revoked_node_is_cut_off_until_it_joins_anew(mesh: Mesh) -> None:
    hub, net = mesh.hub, mesh.net
    at, elsewhere = net.add(), net.add()
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(machine_at(net, "inet rpcmesh", at))
        mesh.join(node, "node-2")
        tunnel = stack.enter_context(listener(at[0], TUNNEL_PORT))
        ssh = stack.enter_context(listener(at[0], OTHER_PORT))
        other_tunnel = stack.enter_context(listener(elsewhere[0], TUNNEL_PORT))
        to_tunnel = stack.enter_context(line(hub.name, at[1], tunnel))
        to_ssh = stack.enter_context(line(hub.name, at[1], ssh))
        to_other = stack.enter_context(line(hub.name, elsewhere[1], other_tunnel))
        assert to_tunnel.carries()

        typed(hub, "node", "revoke", "node-2")
        until(lambda: at[1] in revoked(hub), "the revoked address in the rules")

        assert to_tunnel.is_dead()
        assert outcome(hub.name, at[1], TUNNEL_PORT) == "refused"  # by our own side, at once
        assert to_ssh.carries()
        assert to_other.carries()
        assert node_in(mesh.asked(), "node-1").state == "up"

        again = stack.enter_context(machine_at(net, "inet rpcmesh", at))
        mesh.join(again, "node-2")

        until(lambda: outcome(hub.name, at[1], TUNNEL_PORT) == "connected", "the way to the node that came back")


@pytest.mark.parametrize("who", ["the coordinator", "a node"])
def test_drift_is_seen_in_the_status_and_in_the_metrics(mesh: Mesh, who: str) -> None:
    machine, label = (mesh.hub, "_coordinator") if who == "the coordinator" else (mesh.node, "node-1")
    verified, drifts = (f'rpcmesh_firewall_{name}{{machine="{label}"}}' for name in ("verified", "drifts_total"))
    before = mesh.figure(verified), mesh.figure(drifts)

    machine.delete_rule("rpcmesh:deny")
    until(lambda: mesh.firewall_of(machine).state is State.DRIFT, "word of the drift")
    after = mesh.figure(verified), mesh.figure(drifts)
    status = json.loads(mesh.hub.type("status", "--json").stdout)  # its exit status is about the model
    machine.firewall("apply")
    until(lambda: mesh.firewall_of(machine).state is State.VERIFIED, "word of the repair")

    shown = status["firewall"] if machine is mesh.hub else status["nodes"][0]["agent"]["firewall"]
    assert before == (1, 0)
    assert after == (0, 1)
    assert (shown["state"], shown["drifts"]) == ("drift", 1)
    assert "drift" in shown["reason"]
    assert mesh.figure(verified) == 1


def test_metrics_need_a_key(mesh: Mesh) -> None:
    assert mesh.metrics(key="")[0] == 401
    assert mesh.metrics(key=mesh.key)[0] == 200
