"""What the coordinator knows, as events folded into a value. No I/O and no clock: times arrive inside events."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Any

import msgspec

from rpcmesh.coordinator.failover import Failover, Tally
from rpcmesh.engine.messages import LoadedModel
from rpcmesh.firewall.watch import State
from rpcmesh.node.status import AgentStatus
from rpcmesh.node.worker import GUEST_WORKER

FAILOVERS_KEPT = 8
# What a supervisor says of a worker that will be ready again.
RESTARTING = ("starting", "backoff")


class NodeState(StrEnum):
    """A node is ``up`` while its agent answers through the tunnel and its worker is ready."""

    UNSEEN = "unseen"
    UP = "up"
    DOWN = "down"
    REVOKED = "revoked"


class ModelState(StrEnum):
    """``ready`` means that a real token came back, not that a process is up."""

    NONE = "none"
    WAITING = "waiting"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class Node(msgspec.Struct, frozen=True):
    name: str
    address: str
    state: NodeState = NodeState.UNSEEN
    reason: str = ""
    agent: AgentStatus | None = None

    @property
    def ready_workers(self) -> tuple[str, ...]:
        if self.state is not NodeState.UP or self.agent is None:
            return ()
        ready = (worker.name for worker in self.agent.workers if worker.state == "ready")
        return tuple(name for name in ready if name != GUEST_WORKER)


class Model(msgspec.Struct, frozen=True):
    """``served``: it was ready once since it was wanted. Then it goes on with whatever is left of the cluster."""

    name: str = ""
    state: ModelState = ModelState.NONE
    reason: str = ""
    progress: float = 0.0
    loaded: LoadedModel | None = None
    served: bool = False


class Cluster(msgspec.Struct, frozen=True):
    """``failovers`` are the last ones, oldest first; ``failover_seconds`` counts all, by stage."""

    nodes: dict[str, Node] = {}
    model: Model = Model()
    failovers: tuple[Failover, ...] = ()
    failover_seconds: dict[str, Tally] = {}


class NodeJoined(msgspec.Struct, frozen=True):
    name: str
    address: str


class NodeAnswered(msgspec.Struct, frozen=True):
    name: str
    agent: AgentStatus


class NodeUnreachable(msgspec.Struct, frozen=True):
    name: str
    reason: str


class NodeRefused(msgspec.Struct, frozen=True):
    """The node answers, but must not be used: another build, for one."""

    name: str
    agent: AgentStatus
    reason: str


class NodeRevoked(msgspec.Struct, frozen=True):
    name: str


class ModelWanted(msgspec.Struct, frozen=True):
    name: str


class ModelLoading(msgspec.Struct, frozen=True):
    progress: float


class ModelLoaded(msgspec.Struct, frozen=True):
    loaded: LoadedModel


class ModelFailed(msgspec.Struct, frozen=True):
    """A load that cannot succeed as things are. It is tried again when another worker comes up."""

    reason: str


class ModelLost(msgspec.Struct, frozen=True):
    """The engine ended while loading or serving; it will be loaded again."""

    reason: str


class LinksSeen(msgspec.Struct, frozen=True):
    """The egress tunnel's live routes, seen while ``loaded`` was the loaded model; on ``silent`` ones nothing came."""

    loaded: LoadedModel | None
    routes: frozenset[str]
    silent: frozenset[str] = frozenset()


class FailoverSeen(msgspec.Struct, frozen=True):
    """A failover reached another stage."""

    failover: Failover


Event = (
    NodeJoined
    | NodeAnswered
    | NodeUnreachable
    | NodeRefused
    | NodeRevoked
    | ModelWanted
    | ModelLoading
    | ModelLoaded
    | ModelFailed
    | ModelLost
    | LinksSeen
    | FailoverSeen
)


def apply(cluster: Cluster, event: Event) -> Cluster:
    """Fold one event into the state."""
    match event:
        case NodeJoined(name, address):
            return _with_node(cluster, Node(name=name, address=address))
        case NodeAnswered(name, agent):
            return _try_again(cluster, _update(cluster, name, state=NodeState.UP, reason="", agent=agent))
        case NodeUnreachable(name, reason):
            return _update(cluster, name, state=NodeState.DOWN, reason=reason)
        case NodeRefused(name, agent, reason):
            return _update(cluster, name, state=NodeState.DOWN, reason=reason, agent=agent)
        case NodeRevoked(name):
            return _update(cluster, name, state=NodeState.REVOKED, reason="revoked", agent=None)
        case ModelWanted(name):
            return _with_model(cluster, Model(name=name, state=ModelState.WAITING))
        case ModelLoading(progress):
            return _model_is(cluster, ModelState.LOADING, progress=progress)
        case ModelLoaded(loaded):
            return _model_is(cluster, ModelState.READY, progress=1.0, loaded=loaded, served=True)
        case ModelFailed(reason):
            return _model_is(cluster, ModelState.FAILED, reason=reason)
        case ModelLost(reason):
            return _model_is(cluster, ModelState.WAITING, reason=reason)
        case LinksSeen():
            return _without_engine_if_cut(cluster, event)
        case FailoverSeen(failover):
            return _with_failover(cluster, failover)


def _with_failover(cluster: Cluster, failover: Failover) -> Cluster:
    """``failover`` in place of what was known of it before. Its last stage is the new one."""
    others = tuple(each for each in cluster.failovers if each.at != failover.at)
    stage, after_s = list(failover.stages.items())[-1]
    tally = cluster.failover_seconds.get(stage, Tally()).plus(after_s)
    return msgspec.structs.replace(
        cluster,
        failovers=(*others, failover)[-FAILOVERS_KEPT:],
        failover_seconds={**cluster.failover_seconds, stage: tally},
    )


def _without_engine_if_cut(cluster: Cluster, seen: LinksSeen) -> Cluster:
    """An engine that lost a worker while idle does not know it yet: its next answer would have to wait for that.

    A frozen machine's connection stays open. It counts as lost when its agent is silent as well.
    """
    model = cluster.model
    if model.state is not ModelState.READY or seen.loaded is None or model.loaded != seen.loaded:
        return cluster
    for part in seen.loaded.placement:
        if part.worker is None or part.node is None:
            continue
        route = f"{part.node}.{part.worker}"
        if route not in seen.routes:
            return _model_is(
                cluster,
                ModelState.WAITING,
                reason=f"the connection to worker {part.worker} of {part.node} has ended",
            )
        node = cluster.nodes.get(part.node)
        if route in seen.silent and node is not None and node.state is NodeState.DOWN:
            return _model_is(cluster, ModelState.WAITING, reason=f"nothing is heard of {part.node}: {node.reason}")
    return cluster


def _try_again(before: Cluster, after: Cluster) -> Cluster:
    """A load that failed waits again once there is a worker that was not there when it failed."""
    if after.model.state is ModelState.FAILED and not set(workers_in(after)) <= set(workers_in(before)):
        return _model_is(after, ModelState.WAITING, reason=after.model.reason)
    return after


def workers_in(cluster: Cluster) -> tuple[tuple[str, str], ...]:
    """``(node, worker)`` of every worker that could take layers now, in a stable order."""
    return tuple((name, worker) for name in sorted(cluster.nodes) for worker in cluster.nodes[name].ready_workers)


def spare_workers(cluster: Cluster) -> frozenset[tuple[str, str]]:
    """Workers that could take layers and hold none of the loaded model."""
    loaded = cluster.model.loaded
    held = {(part.node, part.worker) for part in loaded.placement} if loaded else set()
    return frozenset(pair for pair in workers_in(cluster) if pair not in held)


def restarting(cluster: Cluster) -> bool:
    """Whether a node that answers is just starting its worker again: in a moment there is one more."""
    return any(
        worker.state in RESTARTING and worker.name != GUEST_WORKER
        for node in cluster.nodes.values()
        if node.state is NodeState.UP and node.agent is not None
        for worker in node.agent.workers
    )


def suspects(cluster: Cluster, silent: Collection[str]) -> tuple[str, ...]:
    """Nodes that hold layers and count as up, though nothing came through one of their ``silent`` routes."""
    loaded = cluster.model.loaded
    if loaded is None:
        return ()
    quiet = {part.node for part in loaded.placement if f"{part.node}.{part.worker}" in silent}
    return tuple(name for name in _nodes_that_are(cluster, NodeState.UP) if name in quiet)


def worth_asking(cluster: Cluster) -> tuple[str, ...]:
    """Nodes that answered when they were asked last. Where none did, it may be the coordinator's tunnel: all."""
    return _nodes_that_are(cluster, NodeState.UP) or _nodes_that_are(cluster, NodeState.DOWN)


def _nodes_that_are(cluster: Cluster, wanted: NodeState) -> tuple[str, ...]:
    return tuple(sorted(name for name, node in cluster.nodes.items() if node.state is wanted))


def settled(cluster: Cluster) -> bool:
    """Whether every member that is not revoked has been heard of, one way or the other, since the start."""
    return all(node.state is not NodeState.UNSEEN for node in cluster.nodes.values())


def changes(before: Cluster, after: Cluster) -> tuple[str, ...]:
    """What an admin would want to read in the log about the step from ``before`` to ``after``."""
    said = []
    for name, node in after.nodes.items():
        former = before.nodes.get(name)
        if former is None or (former.state, former.reason) != (node.state, node.reason):
            said.append(f"node {name} is {node.state.value}" + (f": {node.reason}" if node.reason else ""))
        firewall = _firewall(node)
        if node.agent is not None and firewall != _firewall(former):
            said.append(f"firewall of {name} is {firewall}")
    model = after.model
    if (before.model.state, before.model.name) != (model.state, model.name) and model.state is not ModelState.NONE:
        said.append(f"model {model.name} is {model.state.value}" + (f": {model.reason}" if model.reason else ""))
    return tuple(said)


def _firewall(node: Node | None) -> str:
    if node is None or node.agent is None or node.agent.firewall.state is State.UNWATCHED:
        return State.UNWATCHED.value
    status = node.agent.firewall
    return status.state.value + (f": {status.reason}" if status.reason else "")


# What a stranger may learn of a cluster that cannot answer; the sentence for the admin is ``Model.reason``.
_NOT_READY = {
    ModelState.NONE: "no_model",
    ModelState.WAITING: "waiting_for_workers",
    ModelState.LOADING: "loading",
    ModelState.FAILED: "load_failed",
}


def not_ready_reason(cluster: Cluster) -> str | None:
    """Why no request can be answered now, as one word, or None when one can."""
    if cluster.model.state is ModelState.FAILED and cluster.model.served:
        return "cluster_capacity"
    return _NOT_READY.get(cluster.model.state)


def awaited(cluster: Cluster) -> tuple[str, ...]:
    """The model that has answered and will again, as far as is known. One that never did may take for ever to load."""
    model = cluster.model
    gone = model.state in (ModelState.NONE, ModelState.FAILED)
    return (model.name,) if model.served and not gone else ()


def _with_node(cluster: Cluster, node: Node) -> Cluster:
    return msgspec.structs.replace(cluster, nodes={**cluster.nodes, node.name: node})


def _with_model(cluster: Cluster, model: Model) -> Cluster:
    return msgspec.structs.replace(cluster, model=model)


def _model_is(cluster: Cluster, now: ModelState, **changes: Any) -> Cluster:
    """The same model in another state. What is not given is as at the beginning, but for whether it served."""
    model = cluster.model
    return _with_model(cluster, Model(name=model.name, state=now, **{"served": model.served, **changes}))


def _update(cluster: Cluster, name: str, **changes: object) -> Cluster:
    node = cluster.nodes.get(name)
    # An answer that was under way when its node was revoked changes nothing.
    if node is None or node.state is NodeState.REVOKED:
        return cluster
    return _with_node(cluster, msgspec.structs.replace(node, **changes))
