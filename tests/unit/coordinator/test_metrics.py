"""The figures are those of the status document, in the format that monitoring systems read."""

from __future__ import annotations

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from test_cluster_state import agent

from rpcmesh.coordinator import metrics
from rpcmesh.coordinator.failover import Stage, Tally
from rpcmesh.coordinator.nodes import Node, NodeState
from rpcmesh.coordinator.report import StatusReport, report
from rpcmesh.coordinator.state import (
    Cluster,
)
from rpcmesh.firewall.watch import FirewallStatus, State
from rpcmesh.gateway.request_queue import REASONS, Figures

DRIFT = FirewallStatus(State.DRIFT, "changed", drifts=2)
VERIFIED = FirewallStatus(State.VERIFIED)


def reported() -> StatusReport:
    says = msgspec.structs.replace(agent("a", w0="ready"), firewall=DRIFT)
    cluster = Cluster(
        {"a": Node("a", "10.0.0.1:7443", NodeState.UP, "", says), "b": Node("b", "10.0.0.2:7443")},
        failover_seconds={"loaded": Tally(2, 3.5)},
    )
    return report(
        cluster,
        None,
        mesh="m",
        version="1",
        build_id="b",
        endpoint="",
        uptime_s=1.0,
        reason=None,
        firewall=VERIFIED,
        requests=Figures(running=3, waiting=2, refused={"queue_full": 4}),
    )


def figures() -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(metrics.render(reported()).decode())
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_the_figures_are_those_of_the_report() -> None:
    assert figures() == {
        ("rpcmesh_ready",): 1,
        ("rpcmesh_node_up", "a"): 1,
        ("rpcmesh_node_up", "b"): 0,
        ("rpcmesh_node_drained", "a"): 0,
        ("rpcmesh_node_drained", "b"): 0,
        ("rpcmesh_num_requests_running",): 3,
        ("rpcmesh_num_requests_waiting",): 2,
        **{("rpcmesh_requests_refused_total", reason): 0 for reason in REASONS},
        ("rpcmesh_requests_refused_total", "queue_full"): 4,
        **{(f"rpcmesh_failover_seconds_{part}", stage): 0 for part in ("count", "sum") for stage in Stage},
        ("rpcmesh_failover_seconds_count", "loaded"): 2,
        ("rpcmesh_failover_seconds_sum", "loaded"): 3.5,
        ("rpcmesh_firewall_verified", "_coordinator"): 1,
        ("rpcmesh_firewall_verified", "a"): 0,
        ("rpcmesh_firewall_drifts_total", "_coordinator"): 0,
        ("rpcmesh_firewall_drifts_total", "a"): 2,
    }
