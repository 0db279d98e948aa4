"""Every decision about the engine: when a model is loaded and on which workers, and when its engine makes room.

Nothing here starts or ends one.
"""

from __future__ import annotations

import msgspec

from rpcmesh import config
from rpcmesh.config import Rebalance
from rpcmesh.coordinator import state
from rpcmesh.coordinator.capacity import CARD_PIECE, Placed, device_bytes, on_cards, place
from rpcmesh.coordinator.nodes import NodeState
from rpcmesh.coordinator.state import Cluster, Model, ModelState, Workers
from rpcmesh.plan.facts import ModelFacts
from rpcmesh.plan.fit import TooSmall

# A running model is not disturbed for a new worker before it has been idle, and the worker up, for this long.
SPREAD_AFTER_S = 5.0
# Memory that a load did not get may be free again, and nobody would say so.
TRY_AGAIN_AFTER_S = 60.0


class Load(msgspec.Struct, frozen=True):
    """Start an engine with these ``(node, worker)`` pairs, and layers placed on them as planned.

    ``n_ubatch``: tokens that go through them at a time; 0: the engine chooses.
    """

    workers: Workers
    placed: Placed
    n_ubatch: int = 0


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do until the cluster changes, or ``until`` this monotonic time.

    ``short``: there are workers, but the model does not fit them.
    """

    reason: str
    short: bool = False
    until: float | None = None


class Ended(msgspec.Struct, frozen=True):
    """Why an engine serves no longer.

    Towards giving up counts only the end of one that gave nobody a token: ``planned`` ends are ours, and one that
    ``served`` was well until a machine of its left it.
    """

    reason: str
    planned: bool = False
    served: bool = False


def next_move(
    cluster: Cluster,
    engine: config.Engine,
    now: float,
    facts: ModelFacts | None = None,
    *,
    use_local_device: bool = False,
) -> Load | Wait:
    """Whether to load the wanted model now, and on which workers. ``facts`` of the model, if they are known.

    A model that has served goes on with what is left of the cluster, be it less than ``min_workers``. A node that is
    held out is done without, unless that would leave too few workers, or too little memory for the context there
    could be.
    """
    if cluster.model.state is not ModelState.WAITING:
        return Wait("no model is waiting")
    if not state.settled(cluster):
        return Wait("some nodes have not been heard of yet")
    least = 0 if use_local_device else 1 if cluster.model.served else engine.min_workers
    everyone, steady = state.workers_in(cluster), state.steady_workers(cluster, now)
    move = _load(cluster, everyone, least, engine, facts, now)
    if steady == everyone or isinstance(move, Wait):
        return move
    without = _load(cluster, steady, max(least, 1), engine, facts, now)
    return without if isinstance(without, Load) and without.placed.n_ctx >= move.placed.n_ctx else move


def _load(
    cluster: Cluster, workers: Workers, least: int, engine: config.Engine, facts: ModelFacts | None, now: float
) -> Load | Wait:
    """Load on exactly ``workers``, or why not."""
    if len(workers) < least:
        return Wait(f"{len(workers)} of at least {least} workers are ready")
    n_ctx = _n_ctx(cluster.model, engine, now)
    if n_ctx is None:
        return Wait(cluster.model.reason, short=True, until=cluster.model.refused_at + TRY_AGAIN_AFTER_S)
    agents = [(cluster.nodes[node].agent, worker) for node, worker in workers]
    placed = place([device_bytes(*each) for each in agents], facts, engine, n_ctx)
    if isinstance(placed, TooSmall):
        return Wait(placed.said(len(workers)), short=True)
    large = bool(agents) and all(on_cards(*each) for each in agents)
    return Load(workers, placed, engine.n_ubatch or (CARD_PIECE if large else 0))


def _n_ctx(model: Model, engine: config.Engine, now: float) -> int | None:
    """The context to try: half of one that did not get its memory, if that is allowed. None when nothing is, yet."""
    if model.refused_n_ctx is None:
        return engine.n_ctx
    if 0 < engine.n_ctx_min < model.refused_n_ctx:
        return max(model.refused_n_ctx // 2, engine.n_ctx_min)
    return engine.n_ctx if now >= model.refused_at + TRY_AGAIN_AFTER_S else None


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


def ending(
    cluster: Cluster, rebalance: Rebalance, now: float, *, lost: str | None, spare_s: float, idle_s: float
) -> Ended | None:
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
    if state.spare_workers(cluster, now) and enough >= waited_s:
        return Ended("another worker is ready", planned=True)
    return None


def objection(
    cluster: Cluster,
    engine: config.Engine,
    now: float,
    facts: ModelFacts | None = None,
    *,
    without: str | None = None,
    use_local_device: bool = False,
) -> str | None:
    """Why what is served now would be served no more if its engine ended, and node ``without`` were drained.

    None where it would go on, and where nothing gets worse because it waits in any case.
    """
    if cluster.model.state in {ModelState.NONE, ModelState.FAILED}:
        return None
    waiting = msgspec.structs.replace(cluster.model, state=ModelState.WAITING, served=True)
    before = msgspec.structs.replace(cluster, model=waiting)
    after = before if without is None else state.apply(before, state.NodeDrained(without))
    first, then = (next_move(each, engine, now, facts, use_local_device=use_local_device) for each in (before, after))
    at_stake = state.holders(cluster) if without is None else state.holders(cluster) & {without}
    return then.reason if isinstance(then, Wait) and (at_stake or isinstance(first, Load)) else None
