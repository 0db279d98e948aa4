"""The status document: what ``rpcmesh status --json`` prints. Built from values; nothing is asked here."""

from __future__ import annotations

import msgspec

from rpcmesh.coordinator import hold_down
from rpcmesh.coordinator.failover import Failover, Tally
from rpcmesh.coordinator.nodes import Node
from rpcmesh.coordinator.said import condition
from rpcmesh.coordinator.state import Cluster
from rpcmesh.engine.messages import DeviceLayers
from rpcmesh.firewall.watch import FirewallStatus
from rpcmesh.gateway.request_queue import Figures
from rpcmesh.node.status import AgentStatus
from rpcmesh.tunnel.status import TunnelStatus


class ModelReport(msgspec.Struct, frozen=True):
    name: str
    state: str
    reason: str
    progress: float
    n_ctx: int
    placement: tuple[DeviceLayers, ...]
    # The model that is about to be loaded in its place, which may be itself.
    wanted: str | None = None


class NodeReport(msgspec.Struct, frozen=True):
    """``state``: ``unseen``, ``up``, ``down``, ``draining``, ``drained`` or ``revoked``."""

    name: str
    address: str
    state: str
    reason: str
    agent: AgentStatus | None


class LinkReport(msgspec.Struct, frozen=True):
    """One live TLS connection from this coordinator. ``route`` is ``<node>.<worker>`` or ``<node>.agent``."""

    route: str
    peer: str
    tls_version: str
    cipher: str
    bytes_in: int
    bytes_out: int


class StatusReport(msgspec.Struct, frozen=True):
    """Stable schema of ``rpcmesh status --json``."""

    mesh: str
    version: str
    build_id: str
    endpoint: str
    uptime_s: float
    ready: bool
    reason: str | None
    model: ModelReport
    nodes: tuple[NodeReport, ...]
    links: tuple[LinkReport, ...]
    # Of the coordinator's own machine; a node's is in what its agent says.
    firewall: FirewallStatus = FirewallStatus()
    # The last ones, oldest first; and how many of all reached which stage after how many seconds together.
    failovers: tuple[Failover, ...] = ()
    failover_seconds: dict[str, Tally] = {}
    requests: Figures = Figures()


def report(
    cluster: Cluster,
    tunnel: TunnelStatus | None,
    *,
    mesh: str,
    version: str,
    build_id: str,
    endpoint: str,
    uptime_s: float,
    reason: str | None,
    firewall: FirewallStatus,
    requests: Figures,
    now: float = 0.0,
) -> StatusReport:
    """Put together what the coordinator knows. ``now`` is of the events' clock."""
    model = cluster.model
    return StatusReport(
        mesh=mesh,
        version=version,
        build_id=build_id,
        endpoint=endpoint,
        uptime_s=uptime_s,
        ready=reason is None,
        reason=reason,
        firewall=firewall,
        requests=requests,
        failovers=cluster.failovers,
        failover_seconds=cluster.failover_seconds,
        model=ModelReport(
            name=model.name,
            state=model.state.value,
            reason=model.reason,
            progress=model.progress,
            n_ctx=model.loaded.n_ctx if model.loaded else 0,
            placement=model.loaded.placement if model.loaded else (),
            wanted=model.wanted,
        ),
        nodes=tuple(_of_node(cluster, node, now) for _, node in sorted(cluster.nodes.items())),
        links=tuple(
            LinkReport(
                route=session.route,
                peer=session.peer,
                tls_version=session.tls_version,
                cipher=session.cipher,
                bytes_in=session.bytes_in,
                bytes_out=session.bytes_out,
            )
            for session in (tunnel.sessions if tunnel else ())
        ),
    )


def _of_node(cluster: Cluster, node: Node, now: float) -> NodeReport:
    word, reason = condition(cluster, node)
    reason = reason or hold_down.said(node.losses, now, cluster.hold_out_max_s)
    return NodeReport(name=node.name, address=node.address, state=word, reason=reason, agent=node.agent)
