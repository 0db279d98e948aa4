"""What the coordinator knows, as events folded into a value. No I/O and no clock: events bring times, in seconds."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Any

import msgspec

from rpcmesh.coordinator.failover import Failover, Tally
from rpcmesh.coordinator.hold_down import add, left_s
from rpcmesh.coordinator.nodes import Node, NodeState, lost_between
from rpcmesh.engine.messages import LoadedModel
from rpcmesh.node.status import AgentStatus
from rpcmesh.node.worker import GUEST_WORKER

FAILOVERS_KEPT = 8
# What a supervisor says of a worker that will be ready again.
RESTARTING = ("starting", "backoff")


class ModelState(StrEnum):
    """``ready`` means that a real token came back, not that a process is up."""

    NONE = "none"
    WAITING = "waiting"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


Workers = tuple[tuple[str, str], ...]


class Model(msgspec.Struct, frozen=True):
    """``served``: it was ready once since it was wanted. Then it goes on with whatever is left of the cluster.

    ``workers`` are those, as ``(node, worker)``, that an engine loads it on or serves it from: theirs until that engine
    has ended. ``wanted`` is the model to load in its place, which may be itself. ``short``: it waits because it does
    not fit the workers there are. With a context of ``refused_n_ctx`` tokens a load did not get its memory, at the
    monotonic time ``refused_at``.
    """

    name: str = ""
    state: ModelState = ModelState.NONE
    reason: str = ""
    progress: float = 0.0
    loaded: LoadedModel | None = None
    served: bool = False
    workers: Workers = ()
    wanted: str | None = None
    short: bool = False
    refused_n_ctx: int | None = None
    refused_at: float = 0.0


class Cluster(msgspec.Struct, frozen=True):
    """``failovers`` are the last ones, oldest first; ``failover_seconds`` counts all, by stage."""

    nodes: dict[str, Node] = {}
    model: Model = Model()
    failovers: tuple[Failover, ...] = ()
    failover_seconds: dict[str, Tally] = {}
    # How long a node that is lost again and again is held out at most.
    hold_out_max_s: float = 300.0


class NodeJoined(msgspec.Struct, frozen=True):
    name: str
    address: str
    drained: bool = False


class NodeAnswered(msgspec.Struct, frozen=True):
    name: str
    agent: AgentStatus
    at: float = 0.0


class NodeUnreachable(msgspec.Struct, frozen=True):
    name: str
    reason: str
    at: float = 0.0


class NodeRefused(msgspec.Struct, frozen=True):
    """The node answers, but must not be used: another build, for one."""

    name: str
    agent: AgentStatus
    reason: str
    at: float = 0.0


class NodeRevoked(msgspec.Struct, frozen=True):
    name: str


class NodeDrained(msgspec.Struct, frozen=True):
    """No layers for it from now on; those that it holds have to move."""

    name: str


class NodeResumed(msgspec.Struct, frozen=True):
    name: str


class ModelWanted(msgspec.Struct, frozen=True):
    """Load it: now if there is no engine, else in place of what the engine holds, be it the same."""

    name: str


class ModelLoading(msgspec.Struct, frozen=True):
    """An engine loads the model on ``workers``."""

    progress: float
    workers: Workers = ()


class ModelLoaded(msgspec.Struct, frozen=True):
    loaded: LoadedModel


class ModelFailed(msgspec.Struct, frozen=True):
    """A load that cannot succeed as things are. It is tried again when another worker comes up."""

    reason: str


class ModelWaits(msgspec.Struct, frozen=True):
    """Why the model waits on. ``short``: it does not fit what is there."""

    reason: str
    short: bool


class ModelRefused(msgspec.Struct, frozen=True):
    """A load with a context of ``n_ctx`` tokens a sequence did not get its memory ``at`` this monotonic time."""

    n_ctx: int
    reason: str
    at: float


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


NodeEvent = NodeJoined | NodeAnswered | NodeUnreachable | NodeRefused | NodeRevoked | NodeDrained | NodeResumed
ModelEvent = (
    ModelWanted
    | ModelLoading
    | ModelLoaded
    | ModelFailed
    | ModelWaits
    | ModelRefused
    | ModelLost
    | LinksSeen
    | FailoverSeen
)
Event = NodeEvent | ModelEvent


def apply(cluster: Cluster, event: Event) -> Cluster:
    """Fold one event into the state."""
    return _of_node(cluster, event) if isinstance(event, NodeEvent) else _of_model(cluster, event)


def _of_node(cluster: Cluster, event: NodeEvent) -> Cluster:
    match event:
        case NodeJoined(name, address, drained):
            return _with_node(cluster, Node(name=name, address=address, drained=drained))
        case NodeAnswered(name, agent, at):
            seen = _see(cluster, name, at, state=NodeState.UP, reason="", agent=agent)
            return _try_again(cluster, _without_engine_if_worker_went(cluster, seen, name))
        case NodeUnreachable(name, reason, at):
            return _see(cluster, name, at, state=NodeState.DOWN, reason=reason)
        case NodeRefused(name, agent, reason, at):
            return _see(cluster, name, at, state=NodeState.DOWN, reason=reason, agent=agent)
        case NodeRevoked(name):
            return _update(cluster, name, state=NodeState.REVOKED, reason="revoked", agent=None)
        case NodeDrained(name):
            return _update(cluster, name, drained=True)
        case NodeResumed(name):
            return _try_again(cluster, _update(cluster, name, drained=False))


def _of_model(cluster: Cluster, event: ModelEvent) -> Cluster:
    match event:
        case ModelWanted(name):
            return _want(cluster, name)
        case ModelLoading(progress, workers):
            return _model_is(cluster, ModelState.LOADING, progress=progress, workers=workers)
        case ModelLoaded(loaded):
            held = cluster.model.workers
            return _model_is(cluster, ModelState.READY, progress=1.0, loaded=loaded, served=True, workers=held)
        case ModelFailed(reason):
            return _engine_ended(cluster, ModelState.FAILED, reason)
        case ModelWaits(reason, short):
            return _model_is(cluster, ModelState.WAITING, reason=reason, short=short)
        case ModelRefused(n_ctx, reason, at):
            refused = _model_is(cluster, cluster.model.state, refused_n_ctx=n_ctx, refused_at=at)
            return _engine_ended(refused, ModelState.WAITING, reason)
        case ModelLost(reason):
            return _engine_ended(cluster, ModelState.WAITING, reason)
        case LinksSeen():
            return _without_engine_if_cut(cluster, event)
        case FailoverSeen(failover):
            return _with_failover(cluster, failover)


def _want(cluster: Cluster, name: str) -> Cluster:
    """An engine that is there decides when it makes room; until then its model is ready or loading as before."""
    model = cluster.model
    if model.workers or model.state in {ModelState.LOADING, ModelState.READY}:
        return _with_model(cluster, msgspec.structs.replace(model, wanted=name))
    return _with_model(cluster, Model(name, ModelState.WAITING, served=model.served and model.name == name))


def _engine_ended(cluster: Cluster, now: ModelState, reason: str) -> Cluster:
    after = _model_is(cluster, now, reason=reason, wanted=None)
    return after if (wanted := cluster.model.wanted) is None else _want(after, wanted)


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
            return _without_engine(cluster, f"the connection to worker {part.worker} of {part.node} has ended")
        node = cluster.nodes.get(part.node)
        if route in seen.silent and node is not None and node.state is NodeState.DOWN:
            return _without_engine(cluster, f"nothing is heard of {part.node}: {node.reason}")
    return cluster


def _without_engine_if_worker_went(before: Cluster, after: Cluster, name: str) -> Cluster:
    """The same, by the node's own word: the tunnel keeps a connection that its worker has ended until the engine looks.

    What an engine that was idle had in the worker is gone, also when the worker is ready again.
    """
    former, node, model = before.nodes.get(name), after.nodes.get(name), after.model
    holds = model.loaded is not None and any(part.node == name for part in model.loaded.placement)
    if former is None or node is None or model.state is not ModelState.READY or not holds:
        return after
    if not lost_between(former, node):
        return after
    return _without_engine(after, f"a worker of {name} has ended")


def _without_engine(cluster: Cluster, reason: str) -> Cluster:
    """The engine that is there is of no use. Until it has ended, it uses its workers still."""
    return _model_is(cluster, ModelState.WAITING, reason=reason, workers=cluster.model.workers)


def _try_again(before: Cluster, after: Cluster) -> Cluster:
    """What could not be loaded may well be, once there is a worker that was not there before."""
    if set(workers_in(after)) <= set(workers_in(before)):
        return after
    model = msgspec.structs.replace(after.model, refused_n_ctx=None)
    if model.state is ModelState.FAILED:
        model = msgspec.structs.replace(model, state=ModelState.WAITING)
    return _with_model(after, model)


def workers_in(cluster: Cluster) -> Workers:
    """``(node, worker)`` of every worker that could take layers now, in a stable order."""
    return tuple((name, worker) for name in sorted(cluster.nodes) for worker in cluster.nodes[name].ready_workers)


def steady_workers(cluster: Cluster, now: float) -> Workers:
    """Those of :func:`workers_in` whose node is not held out for having been lost too often."""
    max_s = cluster.hold_out_max_s
    return tuple(pair for pair in workers_in(cluster) if not left_s(cluster.nodes[pair[0]].losses, now, max_s))


def spare_workers(cluster: Cluster, now: float) -> frozenset[tuple[str, str]]:
    """Steady workers that the engine there is does not use."""
    return frozenset(steady_workers(cluster, now)) - frozenset(cluster.model.workers)


def holders(cluster: Cluster) -> frozenset[str]:
    """Nodes that an engine uses: switching one off would end it."""
    return frozenset(node for node, _ in cluster.model.workers)


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


def awaited(cluster: Cluster) -> tuple[str, ...]:
    """The model that has answered and will again, as far as is known.

    One that never did may take for ever to load, and one that does not fit needs a machine that nobody knows of.
    """
    model = cluster.model
    gone = model.short or model.state in (ModelState.NONE, ModelState.FAILED)
    return (model.name,) if model.served and not gone else ()


def _with_node(cluster: Cluster, node: Node) -> Cluster:
    return msgspec.structs.replace(cluster, nodes={**cluster.nodes, node.name: node})


def _with_model(cluster: Cluster, model: Model) -> Cluster:
    return msgspec.structs.replace(cluster, model=model)


def _model_is(cluster: Cluster, now: ModelState, **changes: Any) -> Cluster:
    """The same model in another state. What is not given is as at the beginning, but for what is wanted and was."""
    model = cluster.model
    kept = {each: getattr(model, each) for each in ("served", "wanted", "refused_n_ctx", "refused_at")}
    return _with_model(cluster, Model(name=model.name, state=now, **{**kept, **changes}))


def _update(cluster: Cluster, name: str, **changes: object) -> Cluster:
    node = cluster.nodes.get(name)
    # An answer that was under way when its node was revoked changes nothing.
    if node is None or node.state is NodeState.REVOKED:
        return cluster
    return _with_node(cluster, msgspec.structs.replace(node, **changes))


def _see(cluster: Cluster, name: str, at: float, **changes: object) -> Cluster:
    """As :func:`_update`, and a loss is noted. One that is drained may be switched off, so that is none."""
    after = _update(cluster, name, **changes)
    former, node = cluster.nodes.get(name), after.nodes.get(name)
    if former is None or node is None or not lost_between(former, node):
        return after
    return _update(after, name, losses=add(node.losses, at))
