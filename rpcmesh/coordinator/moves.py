"""Every decision about the engine: when a model is loaded and on which workers, and when its engine makes room.

Nothing here starts or ends one.
"""

from __future__ import annotations

import msgspec

from rpcmesh.config import Rebalance
from rpcmesh.coordinator import state
from rpcmesh.coordinator.state import Cluster, Model, ModelState, NodeState, Workers

# A running model is not disturbed for a new worker before it has been idle, and the worker up, for this long.
SPREAD_AFTER_S = 5.0


class Load(msgspec.Struct, frozen=True):
    """Start an engine with these ``(node, worker)`` pairs."""

    workers: Workers


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do until the cluster changes."""

    reason: str


class Ended(msgspec.Struct, frozen=True):
    """Why an engine serves no longer.

    Towards giving up counts only the end of one that gave nobody a token: ``planned`` ends are ours, and one that
    ``served`` was well until a machine of its left it.
    """

    reason: str
    planned: bool = False
    served: bool = False


def next_move(cluster: Cluster, min_workers: int, use_local_device: bool = False) -> Load | Wait:
    """Whether to load the wanted model now, and on which workers.

    A model that has served goes on with what is left of the cluster, be it less than ``min_workers``.
    """
    if cluster.model.state is not ModelState.WAITING:
        return Wait("no model is waiting")
    if not state.settled(cluster):
        return Wait("some nodes have not been heard of yet")
    workers = state.workers_in(cluster)
    least = 1 if cluster.model.served else min_workers
    if len(workers) < least and not use_local_device:
        return Wait(f"{len(workers)} of at least {least} workers are ready")
    return Load(workers)


def must_move(cluster: Cluster) -> str | None:
    """Why the engine that is there, loading or serving, has to end although it is well. None when it may stay."""
    for name in sorted(state.holders(cluster)):
        node = cluster.nodes.get(name)
        if node is None or node.state is NodeState.REVOKED:
            return f"node {name} is revoked"
        if node.drained:
            return f"node {name} is drained"
    if cluster.model.wanted is not None:
        return f"model {cluster.model.wanted} is to be loaded"
    return None


def ending(cluster: Cluster, rebalance: Rebalance, *, lost: str | None, spare_s: float, idle_s: float) -> Ended | None:
    """Whether an engine that serves ends now. Its open answers go on with the next one.

    ``lost``: what is known of its own end, if it has ended. ``spare_s``: for how long there has been a worker that it
    does not use. ``idle_s``: for how long nobody has asked.
    """
    if (reason := must_move(cluster)) is not None:
        return Ended(reason, planned=True)
    if lost is not None:
        return Ended(lost)
    if cluster.model.state is not ModelState.READY:
        return Ended(cluster.model.reason)
    waited_s = SPREAD_AFTER_S if rebalance == "idle" else 0.0
    enough = spare_s if rebalance == "eager" else min(spare_s, idle_s)
    if state.spare_workers(cluster) and enough >= waited_s:
        return Ended("another worker is ready", planned=True)
    return None


def objection_to_drain(cluster: Cluster, name: str, *, use_local_device: bool = False) -> str | None:
    """Why node ``name`` cannot be spared: without it, what is served now would be served no more."""
    if name not in state.holders(cluster):
        return None
    after = state.apply(cluster, state.NodeDrained(name))
    waiting = Model(cluster.model.name, ModelState.WAITING, served=True)
    move = next_move(msgspec.structs.replace(after, model=waiting), 1, use_local_device)
    return move.reason if isinstance(move, Wait) else None
