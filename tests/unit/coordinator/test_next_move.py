"""A waiting model is loaded once every node was heard of and there is enough to put it on. Until then: why not."""

from __future__ import annotations

import pytest
from test_cluster_state import agent

from rpcmesh.coordinator.moves import Load, Wait, next_move
from rpcmesh.coordinator.state import Cluster, Model, ModelState, Node, NodeState

WAITING = Model("tiny", ModelState.WAITING)
UNHEARD = Wait("some nodes have not been heard of yet")
NOTHING = Wait("no model is waiting")


def node(name: str, is_now: NodeState, worker: str = "ready") -> Node:
    said = agent(name, w0=worker, guest="ready")
    return Node(name, "10.0.0.1:7443", is_now, agent=None if is_now is NodeState.UNSEEN else said)


UP = {name: node(name, NodeState.UP) for name in ("a", "b")}
DOWN = node("c", NodeState.DOWN)
STARTING = node("c", NodeState.UP, worker="starting")
UNSEEN = node("c", NodeState.UNSEEN)
REVOKED = node("c", NodeState.REVOKED)
BOTH = Load((("a", "w0"), ("b", "w0")))


@pytest.mark.parametrize(
    "model", [Model(), *(Model("tiny", kind) for kind in ModelState if kind is not ModelState.WAITING)]
)
def test_nothing_is_loaded_unless_a_model_waits(model: Model) -> None:
    assert next_move(Cluster(UP, model), min_workers=1) == NOTHING


@pytest.mark.parametrize(
    ("nodes", "min_workers", "local", "move"),
    [
        # Enough workers, and all that are ready are used.
        ([*UP.values()], 2, False, BOTH),
        ([*UP.values()], 1, False, BOTH),
        ([*reversed(UP.values())], 2, False, BOTH),
        # A node that is down, starting or revoked is done without.
        ([*UP.values(), DOWN], 2, False, BOTH),
        ([*UP.values(), STARTING], 2, False, BOTH),
        ([*UP.values(), REVOKED], 2, False, BOTH),
        # Too few.
        ([], 1, False, Wait("0 of at least 1 workers are ready")),
        ([*UP.values()], 3, False, Wait("2 of at least 3 workers are ready")),
        ([*UP.values(), DOWN], 3, False, Wait("2 of at least 3 workers are ready")),
        ([*UP.values(), STARTING], 3, False, Wait("2 of at least 3 workers are ready")),
        ([*UP.values(), REVOKED], 3, False, Wait("2 of at least 3 workers are ready")),
        # A node that has not been heard of may be up: a plan without it would be made again at once.
        ([*UP.values(), UNSEEN], 1, False, UNHEARD),
        ([*UP.values(), UNSEEN], 1, True, UNHEARD),
        # The coordinator's own device suffices.
        ([], 1, True, Load(())),
        ([*UP.values()], 3, True, BOTH),
    ],
)
def test_a_waiting_model(nodes: list[Node], min_workers: int, local: bool, move: Load | Wait) -> None:
    cluster = Cluster({node.name: node for node in nodes}, WAITING)
    assert next_move(cluster, min_workers, local) == move


def test_a_model_that_served_goes_on_with_fewer_workers_but_not_with_none() -> None:
    served = Model("tiny", ModelState.WAITING, served=True)

    assert next_move(Cluster({"a": UP["a"]}, served), min_workers=2) == Load((("a", "w0"),))
    assert next_move(Cluster({}, served), min_workers=2) == Wait("0 of at least 1 workers are ready")
