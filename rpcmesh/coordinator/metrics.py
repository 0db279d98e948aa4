"""What a monitoring system reads: each figure is taken from the status document when it is asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily

from rpcmesh.coordinator.failover import Stage, Tally
from rpcmesh.coordinator.report import StatusReport
from rpcmesh.coordinator.said import DRAINED, DRAINING
from rpcmesh.firewall.watch import FirewallStatus, State
from rpcmesh.gateway.request_queue import REASONS, Figures

# The machine label of the coordinator's own firewall. No node can have this name: it is no DNS label.
COORDINATOR = "_coordinator"


def render(report: StatusReport) -> bytes:
    """``report`` in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(report))
    return generate_latest(registry)


def route(status: Callable[[], Awaitable[StatusReport]]) -> web.RouteDef:
    """``GET /metrics``. The gateway asks for a key there."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=render(await status()), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return web.get("/metrics", metrics)


class _Figures:
    def __init__(self, report: StatusReport) -> None:
        self._report = report

    def collect(self) -> Iterable[Metric]:
        report = self._report
        yield GaugeMetricFamily("rpcmesh_ready", "1 when a request would be answered now.", value=report.ready)
        up = GaugeMetricFamily("rpcmesh_node_up", "1 when the node answers and its worker is ready.", labels=["node"])
        drained = GaugeMetricFamily(
            "rpcmesh_node_drained", "1 when an admin keeps layers off the node; it is not up then.", labels=["node"]
        )
        for node in report.nodes:
            up.add_metric([node.name], node.state == "up")
            drained.add_metric([node.name], node.state in {DRAINING, DRAINED})
        yield up
        yield drained
        yield from _requests(report.requests)
        yield _failovers(report.failover_seconds)
        yield from _firewalls({COORDINATOR: report.firewall} | _of_nodes(report))


def _requests(figures: Figures) -> Iterable[Metric]:
    yield GaugeMetricFamily("rpcmesh_num_requests_running", "Requests that decode now.", value=figures.running)
    yield GaugeMetricFamily("rpcmesh_num_requests_waiting", "Requests that wait for that.", value=figures.waiting)
    refused = CounterMetricFamily(
        "rpcmesh_requests_refused", "Requests that waited in vain, were cut, or found no place.", labels=["reason"]
    )
    for reason in REASONS:
        refused.add_metric([reason], figures.refused.get(reason, 0))
    yield refused


def _failovers(seconds: dict[str, Tally]) -> Metric:
    family = SummaryMetricFamily(
        "rpcmesh_failover_seconds", "From the loss of an engine to each stage of going on without it.", labels=["stage"]
    )
    for stage in Stage:
        tally = seconds.get(stage.value, Tally())
        family.add_metric([stage.value], count_value=tally.count, sum_value=tally.seconds)
    return family


def _of_nodes(report: StatusReport) -> dict[str, FirewallStatus]:
    return {node.name: node.agent.firewall for node in report.nodes if node.agent is not None}


def _firewalls(found: dict[str, FirewallStatus]) -> Iterable[Metric]:
    verified = GaugeMetricFamily(
        "rpcmesh_firewall_verified", "1 when the loaded firewall rules are as meant.", labels=["machine"]
    )
    drifts = CounterMetricFamily(
        "rpcmesh_firewall_drifts", "How often firewall rules stopped being as meant.", labels=["machine"]
    )
    for machine, status in found.items():
        verified.add_metric([machine], status.state is State.VERIFIED)
        drifts.add_metric([machine], status.drifts)
    yield verified
    yield drifts
