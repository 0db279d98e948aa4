"""The cluster is nothing but its events, folded in order. What a revoked node still says changes nothing."""

from __future__ import annotations

import msgspec
import pytest
from cluster_states import (
    A_DOWN,
    A_DRAINED,
    A_DRIFTED,
    A_LOST,
    A_REVOKED,
    A_SAYS,
    A_UNSEEN,
    A_UP,
    LOADED,
    LOADING,
    READY,
    agent,
    cluster,
    fold,
)

from rpcmesh.coordinator import said, state
from rpcmesh.coordinator.nodes import Node, NodeState
from rpcmesh.coordinator.state import (
    Cluster,
    Event,
    Model,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
    ModelLost,
    ModelState,
    ModelWanted,
    NodeAnswered,
    NodeDrained,
    NodeJoined,
    NodeRefused,
    NodeResumed,
    NodeRevoked,
    NodeUnreachable,
)

NODE_STEPS: list[tuple[str, Node | None, list[Event], Node | None]] = [
    ("joins", None, [NodeJoined("a", "10.0.0.1:7443")], A_UNSEEN),
    ("joins again elsewhere", A_UP, [NodeJoined("a", "10.0.0.9:7443")], Node("a", "10.0.0.9:7443")),
    ("answers", A_UNSEEN, [NodeAnswered("a", A_SAYS)], A_UP),
    ("answers again", A_DOWN, [NodeAnswered("a", A_SAYS)], A_UP),
    ("is lost, its last word kept", A_UP, [NodeUnreachable("a", "no answer", 7.0)], A_LOST),
    ("is lost once, however often it is looked for", A_LOST, [NodeUnreachable("a", "no answer", 8.0)], A_LOST),
    (
        "was never reached",
        A_UNSEEN,
        [NodeUnreachable("a", "timed out")],
        Node("a", "10.0.0.1:7443", NodeState.DOWN, "timed out"),
    ),
    (
        "must not be used",
        A_UP,
        [NodeRefused("a", A_SAYS, "another build", 7.0)],
        Node("a", "10.0.0.1:7443", NodeState.DOWN, "another build", A_SAYS, losses=(7.0,)),
    ),
    ("is revoked", A_UP, [NodeRevoked("a")], A_REVOKED),
    ("is revoked twice", A_UP, [NodeRevoked("a"), NodeRevoked("a")], A_REVOKED),
    ("answers late", A_REVOKED, [NodeAnswered("a", A_SAYS)], A_REVOKED),
    ("fails late", A_REVOKED, [NodeUnreachable("a", "no answer")], A_REVOKED),
    ("is refused late", A_REVOKED, [NodeRefused("a", A_SAYS, "another build")], A_REVOKED),
    ("comes back by joining anew", A_REVOKED, [NodeJoined("a", "10.0.0.1:7443")], A_UNSEEN),
    ("is drained", A_UP, [NodeDrained("a")], A_DRAINED),
    ("is drained, and answers on", A_DRAINED, [NodeAnswered("a", A_SAYS)], A_DRAINED),
    ("is resumed", A_DRAINED, [NodeResumed("a")], A_UP),
    ("was drained before the start", None, [NodeJoined("a", A_UP.address, True), NodeAnswered("a", A_SAYS)], A_DRAINED),
    ("is drained when it is revoked", A_REVOKED, [NodeDrained("a")], A_REVOKED),
    ("never joined, answers", None, [NodeAnswered("a", A_SAYS)], None),
    ("never joined, is lost", None, [NodeUnreachable("a", "no answer")], None),
    ("never joined, is revoked", None, [NodeRevoked("a")], None),
]


@pytest.mark.parametrize(
    ("before", "events", "after"), [step[1:] for step in NODE_STEPS], ids=[step[0] for step in NODE_STEPS]
)
def test_a_node(before: Node | None, events: list[Event], after: Node | None) -> None:
    found = fold(cluster(*filter(None, [before])), *events)
    assert found == cluster(*filter(None, [after]))


SERVED_WAITS = Model("tiny", ModelState.WAITING, "a left", served=True)
SERVED_LOADS = Model("tiny", ModelState.LOADING, progress=0.5, served=True)
SERVED_FAILED = Model("tiny", ModelState.FAILED, "no", served=True)
WAITS = ModelState.WAITING
READY_UNTIL_LARGE = msgspec.structs.replace(READY, wanted="large")
READY_UNTIL_ITSELF = msgspec.structs.replace(READY, wanted="tiny")
LOADING_UNTIL_LARGE = msgspec.structs.replace(LOADING, wanted="large")
LOADING_ON_A = msgspec.structs.replace(LOADING, workers=(("a", "w0"),))
READY_ON_A = msgspec.structs.replace(READY, workers=(("a", "w0"),))
MODEL_STEPS: list[tuple[str, Model, Event, Model]] = [
    ("is wanted", Model(), ModelWanted("tiny"), Model("tiny", ModelState.WAITING)),
    ("waits for an engine to make room", READY, ModelWanted("large"), READY_UNTIL_LARGE),
    ("gives way to another", READY_UNTIL_LARGE, ModelLost("on request"), Model("large", ModelState.WAITING)),
    ("is loaded anew as one that served", READY_UNTIL_ITSELF, ModelLost(""), Model("tiny", WAITS, served=True)),
    ("fails, and another is wanted", LOADING_UNTIL_LARGE, ModelFailed("no"), Model("large", ModelState.WAITING)),
    ("loads on, and another is wanted", LOADING, ModelWanted("large"), LOADING_UNTIL_LARGE),
    ("failed, and is wanted again", SERVED_FAILED, ModelWanted("tiny"), Model("tiny", WAITS, served=True)),
    ("keeps its workers until its engine has ended", LOADING_ON_A, ModelLoaded(LOADED), READY_ON_A),
    ("frees its workers", READY_ON_A, ModelLost("a left"), SERVED_WAITS),
    ("begins to load", Model("tiny", ModelState.WAITING, "lost"), ModelLoading(0.5), LOADING),
    ("is loaded", LOADING, ModelLoaded(LOADED), READY),
    ("that served still loads as one that did", SERVED_WAITS, ModelLoading(0.5), SERVED_LOADS),
    ("that served still fails as one that did", SERVED_LOADS, ModelFailed("no"), SERVED_FAILED),
    ("fails", LOADING, ModelFailed("no memory"), Model("tiny", ModelState.FAILED, "no memory")),
    ("is lost while loading", LOADING, ModelLost("a left"), Model("tiny", ModelState.WAITING, "a left")),
    ("is lost while serving", READY, ModelLost("a left"), SERVED_WAITS),
]


@pytest.mark.parametrize(
    ("before", "event", "after"), [step[1:] for step in MODEL_STEPS], ids=[step[0] for step in MODEL_STEPS]
)
def test_a_model(before: Model, event: Event, after: Model) -> None:
    assert fold(cluster(A_UP, model=before), event) == cluster(A_UP, model=after)


def test_one_nodes_event_leaves_the_others_and_the_model_alone() -> None:
    other = Node("b", "10.0.0.2:7443", NodeState.DOWN, "no answer")
    after = fold(cluster(A_UNSEEN, other, model=READY), NodeAnswered("a", A_SAYS))
    assert after == cluster(A_UP, other, model=READY)


def test_an_event_leaves_the_former_state_as_it_was() -> None:
    before = cluster(A_UP)
    fold(before, NodeRevoked("a"), NodeJoined("b", "10.0.0.2:7443"), ModelWanted("tiny"))
    assert before == cluster(A_UP)


def test_workers_come_in_the_order_of_their_nodes_whoever_joined_first() -> None:
    joined = [NodeJoined(name, "10.0.0.1:7443") for name in ("c", "a", "b")]
    answered = [NodeAnswered(name, agent(name, w0="ready")) for name in ("b", "c", "a")]
    assert state.workers_in(fold(Cluster(), *joined, *answered)) == (("a", "w0"), ("b", "w0"), ("c", "w0"))


@pytest.mark.parametrize(
    ("workers", "usable"),
    [
        ({"w0": "ready"}, ["w0"]),
        ({"w0": "starting"}, []),
        ({"w0": "failed"}, []),
        ({"guest": "ready"}, []),
        ({"guest": "ready", "w0": "ready"}, ["w0"]),
        ({}, []),
    ],
)
def test_only_a_ready_worker_that_is_no_guests_takes_layers(workers: dict[str, str], usable: list[str]) -> None:
    up = fold(cluster(A_UNSEEN), NodeAnswered("a", agent("a", **workers)))
    assert state.workers_in(up) == tuple(("a", name) for name in usable)


@pytest.mark.parametrize("node", [A_UNSEEN, A_DOWN, A_REVOKED, A_DRAINED], ids=["unseen", "down", "revoked", "drained"])
def test_a_node_that_is_not_up_offers_no_worker(node: Node) -> None:
    assert state.workers_in(cluster(node)) == ()


@pytest.mark.parametrize(
    ("nodes", "all_heard"),
    [([], True), ([A_UNSEEN], False), ([A_UP], True), ([A_DOWN], True), ([A_REVOKED], True)],
    ids=["no node", "unseen", "up", "down", "revoked"],
)
def test_settled_once_every_node_was_heard_of(nodes: list[Node], all_heard: bool) -> None:
    assert state.settled(cluster(*nodes)) is all_heard


def test_one_silent_node_keeps_the_cluster_unsettled() -> None:
    assert not state.settled(cluster(A_UP, Node("b", "10.0.0.2:7443")))


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (cluster(), cluster(A_UNSEEN), ["node a is unseen"]),
        (cluster(A_UNSEEN), cluster(A_UP), ["node a is up"]),
        (cluster(A_UP), cluster(A_DOWN), ["node a is down: no answer"]),
        (cluster(A_UP), cluster(A_REVOKED), ["node a is revoked: revoked"]),
        (
            cluster(A_UP, model=READY_ON_A),
            cluster(A_DRAINED, model=READY_ON_A),
            ["node a is draining: its layers are being moved"],
        ),
        (
            cluster(A_DRAINED, model=READY_ON_A),
            cluster(A_DRAINED, model=READY),
            ["node a is drained: it takes layers again after: rpcmesh node resume a"],
        ),
        (cluster(A_DRAINED), cluster(A_UP), ["node a is up"]),
        (cluster(A_UP), cluster(A_LOST), ["node a is down: no answer"]),
        (
            cluster(msgspec.structs.replace(A_UP, losses=(7.0,))),
            cluster(msgspec.structs.replace(A_UP, losses=(7.0, 9.0))),
            ["node a is held out for 5 s: lost 2 times"],
        ),
        (cluster(A_UP), cluster(Node("a", A_UP.address, NodeState.UP, "", agent("a", w0="lost"))), []),
        (cluster(model=LOADING), cluster(model=Model("tiny", ModelState.LOADING, progress=0.9)), []),
        (cluster(model=LOADING), cluster(model=READY), ["model tiny is ready"]),
        (cluster(model=READY), cluster(model=Model("tiny", ModelState.FAILED, "gone")), ["model tiny is failed: gone"]),
        (cluster(), cluster(), []),
        (cluster(A_UP), cluster(A_DRIFTED), ["firewall of a is drift: the rules were changed"]),
        (cluster(A_DRIFTED), cluster(A_UP), ["firewall of a is unwatched"]),
        (cluster(A_DRIFTED), cluster(A_REVOKED), ["node a is revoked: revoked"]),
    ],
)
def test_the_log_says_what_an_admin_would_want_to_read(before: Cluster, after: Cluster, lines: list[str]) -> None:
    assert said.changes(before, after) == tuple(lines)


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (Model(), "no_model"),
        (Model("tiny", ModelState.WAITING), "waiting_for_workers"),
        (LOADING, "loading"),
        (READY, None),
        (Model("tiny", ModelState.FAILED, "/home/of/admin is full"), "load_failed"),
        (Model("tiny", ModelState.FAILED, "/home/of/admin is full", served=True), "cluster_capacity"),
    ],
)
def test_a_stranger_learns_one_word(model: Model, word: str | None) -> None:
    assert said.not_ready_reason(cluster(model=model)) == word


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Model(), ()),
        (Model("tiny", ModelState.WAITING), ()),
        (LOADING, ()),
        (Model("tiny", ModelState.WAITING, served=True), ("tiny",)),
        (Model("tiny", ModelState.LOADING, served=True), ("tiny",)),
        (Model("tiny", ModelState.FAILED, served=True), ()),
    ],
)
def test_requests_wait_for_a_model_that_has_answered_and_is_not_given_up(model: Model, names: tuple[str, ...]) -> None:
    assert state.awaited(cluster(model=model)) == names
