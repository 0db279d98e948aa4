"""What is said of the cluster: a node's state in a word, why nothing is answered, the log's lines. Decides nothing."""

from __future__ import annotations

from rpcmesh.coordinator.hold_down import hold_s
from rpcmesh.coordinator.nodes import Node, NodeState
from rpcmesh.coordinator.state import Cluster, ModelState, holders
from rpcmesh.firewall.watch import State

DRAINING, DRAINED = "draining", "drained"


def condition(cluster: Cluster, node: Node) -> tuple[str, str]:
    """The word for ``node``'s state and why it is so.

    A node that an admin drains is ``draining`` while an engine uses it and ``drained`` as soon as none does: from then
    on nobody notices when it is switched off.
    """
    if not node.drained or node.state is NodeState.REVOKED:
        return node.state.value, node.reason
    if node.name in holders(cluster):
        return DRAINING, node.reason or "its layers are being moved"
    return DRAINED, node.reason or f"it takes layers again after: rpcmesh node resume {node.name}"


# What a stranger may learn of a cluster that cannot answer; the sentence for the admin is ``Model.reason``.
_NOT_READY = {
    ModelState.NONE: "no_model",
    ModelState.WAITING: "waiting_for_workers",
    ModelState.LOADING: "loading",
    ModelState.FAILED: "load_failed",
}


def not_ready_reason(cluster: Cluster) -> str | None:
    """Why no request can be answered now, as one word, or None when one can."""
    model = cluster.model
    if model.short or (model.state is ModelState.FAILED and model.served):
        return "cluster_capacity"
    return _NOT_READY.get(model.state)


def changes(before: Cluster, after: Cluster) -> tuple[str, ...]:
    """What an admin would want to read in the log about the step from ``before`` to ``after``."""
    said = []
    for name, node in after.nodes.items():
        former = before.nodes.get(name)
        word, reason = condition(after, node)
        if former is None or condition(before, former) != (word, reason):
            said.append(f"node {name} is {word}" + (f": {reason}" if reason else ""))
        held_s = hold_s(node.losses, after.hold_out_max_s)
        if former is not None and node.losses != former.losses and held_s:
            said.append(f"node {name} is held out for {held_s:.0f} s: lost {len(node.losses)} times")
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
