"""The status document says what the state says, nothing more and nothing less, and its fields keep their names."""

from __future__ import annotations

import json

import msgspec
import pytest
from test_cluster_state import LOADED, agent

from rpcmesh.coordinator.nodes import Node, NodeState
from rpcmesh.coordinator.report import LinkReport, StatusReport, report
from rpcmesh.coordinator.state import (
    Cluster,
    Model,
    ModelState,
)
from rpcmesh.engine.messages import DeviceLayers
from rpcmesh.firewall.watch import FirewallStatus, State
from rpcmesh.gateway.request_queue import Figures
from rpcmesh.tunnel.status import Session, Totals, TunnelStatus

PLACED = (
    DeviceLayers("a", "w0", "RPC0", (0,), output=False, weight_bytes=100),
    DeviceLayers(None, None, "CPU", (1,), output=True, weight_bytes=200),
)
DRIFTED = FirewallStatus(State.DRIFT, "somebody changed them", drifts=2)
READY = Model("tiny", ModelState.READY, progress=1.0, loaded=msgspec.structs.replace(LOADED, placement=PLACED))


def tunnel(*sessions: Session) -> TunnelStatus:
    return TunnelStatus("egress", "1", 7, "", 3.0, 0, None, sessions, Totals())


def reported(cluster: Cluster, seen: TunnelStatus | None = None, reason: str | None = None) -> StatusReport:
    return report(
        cluster,
        seen,
        mesh="home",
        version="1.2.3",
        build_id="b1",
        endpoint="https://10.0.0.1:8443/v1",
        uptime_s=12.5,
        reason=reason,
        firewall=DRIFTED,
        requests=Figures(running=2, waiting=1, refused={"overloaded": 3}),
    )


def test_it_names_the_mesh_and_its_endpoint() -> None:
    found = reported(Cluster())
    assert (found.mesh, found.version, found.build_id) == ("home", "1.2.3", "b1")
    assert (found.endpoint, found.uptime_s) == ("https://10.0.0.1:8443/v1", 12.5)
    assert found.firewall == DRIFTED


@pytest.mark.parametrize(("reason", "ready"), [(None, True), ("loading", False)])
def test_it_is_ready_when_nothing_speaks_against_it(reason: str | None, ready: bool) -> None:
    found = reported(Cluster(model=READY), reason=reason)
    assert (found.ready, found.reason) == (ready, reason)


def test_a_loaded_model_says_where_its_layers_lie() -> None:
    model = reported(Cluster(model=READY)).model
    assert (model.name, model.state, model.progress) == ("tiny", "ready", 1.0)
    assert model.n_ctx == LOADED.n_ctx
    assert model.placement == PLACED


@pytest.mark.parametrize(
    "model",
    [
        Model(),
        Model("tiny", ModelState.WAITING, "node a left"),
        Model("tiny", ModelState.LOADING, progress=0.25),
        Model("tiny", ModelState.FAILED, "no memory"),
    ],
    ids=lambda model: model.state.value,
)
def test_a_model_that_is_not_loaded_lies_nowhere(model: Model) -> None:
    found = reported(Cluster(model=model)).model
    assert (found.name, found.state, found.reason) == (model.name, model.state.value, model.reason)
    assert (found.progress, found.n_ctx, found.placement) == (model.progress, 0, ())


def test_every_node_is_listed_by_name_with_its_last_word() -> None:
    said = agent("a", w0="ready", guest="starting")
    nodes = [
        Node("c", "10.0.0.3:7443", NodeState.REVOKED, "revoked"),
        Node("b", "10.0.0.2:7443", NodeState.DOWN, "no answer", agent("b")),
        Node("a", "10.0.0.1:7443", NodeState.UP, "", said),
        Node("d", "10.0.0.4:7443"),
        Node("e", "10.0.0.5:7443", NodeState.DOWN, "no answer", drained=True),
    ]
    found = reported(Cluster({node.name: node for node in nodes})).nodes
    assert [(node.name, node.address, node.state, node.reason) for node in found] == [
        ("a", "10.0.0.1:7443", "up", ""),
        ("b", "10.0.0.2:7443", "down", "no answer"),
        ("c", "10.0.0.3:7443", "revoked", "revoked"),
        ("d", "10.0.0.4:7443", "unseen", ""),
        ("e", "10.0.0.5:7443", "drained", "no answer"),
    ]
    assert [node.agent for node in found] == [said, agent("b"), None, None, None]


def test_a_node_that_is_held_out_says_for_how_long() -> None:
    flaps = Node("a", "10.0.0.1:7443", NodeState.UP, "", agent("a", w0="ready"), losses=(0.0, 0.0, 0.0))
    (found,) = reported(Cluster({"a": flaps})).nodes
    assert (found.state, found.reason) == ("up", "held out 10 s more: lost 3 times in 0 s")


def test_links_are_the_tunnels_sessions() -> None:
    session = Session(3, "a.w0", "spiffe://home/node/a", "10.0.0.1:7443", "TLSv1.3", "TLS_AES_256", 9.0, 11, 22)
    assert reported(Cluster(), tunnel(session)).links == (
        LinkReport("a.w0", "spiffe://home/node/a", "TLSv1.3", "TLS_AES_256", bytes_in=11, bytes_out=22),
    )


@pytest.mark.parametrize("seen", [None, tunnel()], ids=["tunnel does not answer", "no session"])
def test_without_sessions_there_are_no_links(seen: TunnelStatus | None) -> None:
    assert reported(Cluster(), seen).links == ()


def test_the_document_keeps_its_field_names() -> None:
    """Scripts read it: a renamed field breaks them."""
    session = Session(3, "a.w0", "p", "r", "TLSv1.3", "c", 9.0, 11, 22)
    cluster = Cluster({"a": Node("a", "10.0.0.1:7443", NodeState.UP, "", agent("a", w0="ready"))}, READY)
    found = json.loads(msgspec.json.encode(reported(cluster, tunnel(session))))
    assert list(found) == (
        [
            "mesh",
            "version",
            "build_id",
            "endpoint",
            "uptime_s",
            "ready",
            "reason",
            "model",
            "nodes",
            "links",
            "firewall",
            "failovers",
            "failover_seconds",
            "requests",
        ]
    )
    assert found["requests"] == {"running": 2, "waiting": 1, "refused": {"overloaded": 3}}
    assert list(found["model"]) == ["name", "state", "reason", "progress", "n_ctx", "placement", "wanted"]
    assert list(found["model"]["placement"][0]) == ["node", "worker", "device", "layers", "output", "weight_bytes"]
    assert list(found["nodes"][0]) == ["name", "address", "state", "reason", "agent"]
    assert list(found["links"][0]) == ["route", "peer", "tls_version", "cipher", "bytes_in", "bytes_out"]


def test_the_document_reads_back_as_it_was() -> None:
    cluster = Cluster({"a": Node("a", "10.0.0.1:7443", NodeState.UP, "", agent("a", w0="ready"))}, READY)
    written = reported(cluster, reason="loading")
    assert msgspec.json.decode(msgspec.json.encode(written), type=StatusReport) == written
