"""A waiting model is loaded once every node was heard of and there is enough to put it on. Until then: why not."""

from __future__ import annotations

import msgspec
import pytest
from test_cluster_state import agent

from rpcmesh.config import Engine
from rpcmesh.coordinator.capacity import Placed
from rpcmesh.coordinator.moves import Load, Wait, next_move
from rpcmesh.coordinator.nodes import Node, NodeState
from rpcmesh.coordinator.state import (
    Cluster,
    Model,
    ModelState,
)

NOW = 1000.0

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

# They do not say what memory they have.
BOTH = Load((("a", "w0"), ("b", "w0")), Placed(4096, ((), ())))


@pytest.mark.parametrize(
    "model", [Model(), *(Model("tiny", kind) for kind in ModelState if kind is not ModelState.WAITING)]
)
def test_nothing_is_loaded_unless_a_model_waits(model: Model) -> None:
    assert next_move(Cluster(UP, model), Engine(), NOW) == NOTHING


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
        ([], 1, True, Load((), Placed(4096, ()))),
        ([*UP.values()], 3, True, BOTH),
    ],
)
def test_a_waiting_model(nodes: list[Node], min_workers: int, local: bool, move: Load | Wait) -> None:
    cluster = Cluster({node.name: node for node in nodes}, WAITING)
    assert next_move(cluster, Engine(min_workers=min_workers), NOW, use_local_device=local) == move


def test_a_model_that_served_goes_on_with_fewer_workers_but_not_with_none() -> None:
    served = Model("tiny", ModelState.WAITING, served=True)

    two = Engine(min_workers=2)
    assert next_move(Cluster({"a": UP["a"]}, served), two, NOW) == Load((("a", "w0"),), Placed(4096, ((),)))
    assert next_move(Cluster({}, served), two, NOW) == Wait("0 of at least 1 workers are ready")


def flapping(name: str) -> Node:
    """Lost twice, the last time just now: held out for five seconds."""
    return msgspec.structs.replace(node(name, NodeState.UP), losses=(NOW - 1, NOW))


ONLY_A = Load((("a", "w0"),), Placed(4096, ((),)))


@pytest.mark.parametrize(
    ("nodes", "min_workers", "at", "move"),
    [
        ([UP["a"], flapping("b")], 1, NOW, ONLY_A),
        ([UP["a"], flapping("b")], 1, NOW + 5, BOTH),
        # There are too few without it.
        ([UP["a"], flapping("b")], 2, NOW, BOTH),
        ([flapping("a")], 1, NOW, ONLY_A),
        ([flapping("a"), flapping("b")], 1, NOW, BOTH),
    ],
)
def test_a_node_that_flaps_is_done_without_if_that_can_be(
    nodes: list[Node], min_workers: int, at: float, move: Load
) -> None:
    cluster = Cluster({node.name: node for node in nodes}, WAITING)
    assert next_move(cluster, Engine(min_workers=min_workers), at) == move
