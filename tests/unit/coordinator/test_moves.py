"""When an engine that is well makes room, and when a node can be spared."""

from __future__ import annotations

import msgspec
import pytest
from test_cluster_state import LOADED, agent

from rpcmesh.config import Engine, Rebalance
from rpcmesh.coordinator.moves import SPREAD_AFTER_S, Ended, ending, must_move, objection
from rpcmesh.coordinator.nodes import Node, NodeState
from rpcmesh.coordinator.state import (
    Cluster,
    Model,
    ModelState,
    Workers,
)

NOW = 1000.0

ON_BOTH = (("a", "w0"), ("b", "w0"))
LONG = SPREAD_AFTER_S


def node(name: str, is_now: NodeState = NodeState.UP, *, drained: bool = False) -> Node:
    return Node(name, "10.0.0.1:7443", is_now, agent=agent(name, w0="ready"), drained=drained)


def cluster(*nodes: Node, on: Workers = ON_BOTH, is_now: ModelState = ModelState.READY) -> Cluster:
    loaded = LOADED if is_now is ModelState.READY else None
    return Cluster({each.name: each for each in nodes}, Model("tiny", is_now, loaded=loaded, served=True, workers=on))


def wanting(name: str) -> Cluster:
    both = cluster(node("a"), node("b"))
    return msgspec.structs.replace(both, model=msgspec.structs.replace(both.model, wanted=name))


@pytest.mark.parametrize("is_now", [ModelState.LOADING, ModelState.READY])
@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("a"), node("b")], None),
        ([node("a"), node("b", drained=True)], "node b is drained"),
        ([node("a"), node("b", NodeState.REVOKED)], "node b is revoked"),
        # Whether it is lost is told by its link; a poll that fails says little.
        ([node("a"), node("b", NodeState.DOWN)], None),
        # It holds nothing.
        ([node("a"), node("b"), node("c", drained=True)], None),
        ([node("a"), node("b"), node("c", NodeState.REVOKED)], None),
    ],
)
def test_an_engine_leaves_a_node_that_is_drained_or_revoked(
    nodes: list[Node], reason: str | None, is_now: ModelState
) -> None:
    assert must_move(cluster(*nodes, is_now=is_now)) == reason


@pytest.mark.parametrize("name", ["tiny", "large"])
def test_an_engine_makes_room_for_the_model_that_is_wanted(name: str) -> None:
    assert must_move(wanting(name)) == f"model {name} is to be loaded"


BOTH = cluster(node("a"), node("b"))
AND_SPARE = cluster(node("a"), node("b"), node("c"))
HELD_OUT = msgspec.structs.replace(node("c"), losses=(NOW, NOW))
DRAINED = cluster(node("a"), node("b", drained=True))
SPREAD = Ended("another worker is ready", planned=True)


@pytest.mark.parametrize(
    ("now", "rebalance", "lost", "spare_s", "idle_s", "ended"),
    [
        (BOTH, "idle", None, 0.0, 1000.0, None),
        (BOTH, "eager", None, 0.0, 1000.0, None),
        (AND_SPARE, "idle", None, LONG, LONG, SPREAD),
        (AND_SPARE, "idle", None, LONG, 0.0, None),
        (AND_SPARE, "idle", None, 0.0, LONG, None),
        (AND_SPARE, "eager", None, 0.0, 0.0, SPREAD),
        # It flaps.
        (cluster(node("a"), node("b"), HELD_OUT), "eager", None, 0.0, 0.0, None),
        (BOTH, "idle", "it was killed", 0.0, 0.0, Ended("it was killed")),
        (DRAINED, "idle", None, 0.0, 0.0, Ended("node b is drained", planned=True)),
        # Its end is what the drain would have brought about.
        (DRAINED, "idle", "it was killed", 0.0, 0.0, Ended("node b is drained", planned=True)),
        (cluster(node("a"), node("b"), is_now=ModelState.WAITING), "idle", None, 0.0, 0.0, Ended("")),
    ],
)
def test_an_engine_that_serves(
    now: Cluster, rebalance: Rebalance, lost: str | None, spare_s: float, idle_s: float, ended: Ended | None
) -> None:
    assert ending(now, rebalance, NOW, lost=lost, spare_s=spare_s, idle_s=idle_s) == ended


@pytest.mark.parametrize(
    ("now", "local", "reason"),
    [
        (BOTH, False, None),
        (cluster(node("b"), on=(("b", "w0"),)), False, "0 of at least 1 workers are ready"),
        (cluster(node("b"), on=(("b", "w0"),)), True, None),
        # The other is of no use.
        (cluster(node("a", NodeState.DOWN), node("b")), False, "0 of at least 1 workers are ready"),
        (cluster(node("a", drained=True), node("b")), False, "0 of at least 1 workers are ready"),
        # Between two engines it holds nothing, and is needed all the same.
        (cluster(node("b"), on=(), is_now=ModelState.WAITING), False, "0 of at least 1 workers are ready"),
        # Nothing gets worse.
        (cluster(node("b", NodeState.DOWN), on=(), is_now=ModelState.WAITING), False, None),
        (cluster(node("b"), on=(), is_now=ModelState.FAILED), False, None),
        (cluster(node("a"), node("b"), on=(("a", "w0"),)), False, None),
    ],
)
def test_a_node_is_spared_when_the_others_can_go_on(now: Cluster, local: bool, reason: str | None) -> None:
    assert objection(now, Engine(), NOW, without="b", use_local_device=local) == reason
