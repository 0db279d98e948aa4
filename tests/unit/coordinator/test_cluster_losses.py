"""When a node, its worker or its link is lost, and what that is to a model."""

from __future__ import annotations

import pytest
from cluster_states import (
    A_AND_B,
    A_DOWN,
    A_DRAINED,
    A_REVOKED,
    A_SAYS,
    A_UNSEEN,
    A_UP,
    LINKS,
    LOADED,
    LOADING,
    PLACED,
    READY,
    SERVING,
    agent,
    cluster,
    fold,
    restarted,
)

from rpcmesh.coordinator import state
from rpcmesh.coordinator.failover import Failover, Stage, Tally
from rpcmesh.coordinator.nodes import Node, NodeState
from rpcmesh.coordinator.state import (
    FAILOVERS_KEPT,
    Event,
    FailoverSeen,
    LinksSeen,
    Model,
    ModelState,
    NodeAnswered,
    NodeDrained,
    NodeResumed,
    NodeRevoked,
    NodeUnreachable,
    restarting,
)
from rpcmesh.node.status import AgentStatus


@pytest.mark.parametrize(
    ("before", "seen"),
    [
        (SERVING, LinksSeen(PLACED, LINKS)),
        # Of agents and guests no engine has need.
        (SERVING, LinksSeen(PLACED, frozenset({"a.w0", "b.w0"}))),
        # Looked at while another model was there, or none.
        (SERVING, LinksSeen(None, frozenset())),
        (SERVING, LinksSeen(LOADED, frozenset())),
        (LOADING, LinksSeen(PLACED, frozenset())),
        (Model(), LinksSeen(None, frozenset())),
        # On the coordinator's own device alone.
        (READY, LinksSeen(LOADED, frozenset())),
    ],
)
def test_links_that_suffice_change_nothing(before: Model, seen: LinksSeen) -> None:
    assert fold(cluster(model=before), seen) == cluster(model=before)


@pytest.mark.parametrize("lost", ["a", "b"])
def test_an_idle_engine_that_was_cut_off_from_a_worker_is_loaded_again(lost: str) -> None:
    after = fold(cluster(model=SERVING), LinksSeen(PLACED, LINKS - {f"{lost}.w0"}))
    reason = f"the connection to worker w0 of {lost} has ended"
    assert after == cluster(model=Model("tiny", ModelState.WAITING, reason, served=True))


@pytest.mark.parametrize(
    ("events", "goes_on"),
    [
        ([LinksSeen(PLACED, LINKS, silent=frozenset({"a.w0"}))], True),
        ([NodeUnreachable("a", "no answer"), LinksSeen(PLACED, LINKS)], True),
        ([NodeUnreachable("a", "no answer"), LinksSeen(PLACED, LINKS, silent=frozenset({"b.w0"}))], True),
        ([NodeUnreachable("a", "no answer"), LinksSeen(PLACED, LINKS, silent=frozenset({"a.w0"}))], False),
    ],
    ids=["a quiet link", "a quiet agent", "another's link", "both"],
)
def test_a_machine_is_frozen_when_its_agent_and_its_link_are_quiet(events: list[Event], goes_on: bool) -> None:
    after = fold(cluster(*A_AND_B, model=SERVING), *events)

    assert (after.model == SERVING) is goes_on
    assert goes_on or after.model.reason == "nothing is heard of a: no answer"


@pytest.mark.parametrize(
    ("nodes", "silent", "suspected"),
    [
        (A_AND_B, {"a.w0"}, ("a",)),
        (A_AND_B, {"a.w0", "b.w0"}, ("a", "b")),
        (A_AND_B, {"a.agent", "c.w0"}, ()),
        ((A_DOWN, A_AND_B[1]), {"a.w0", "b.w0"}, ("b",)),
    ],
    ids=["one", "both", "not of the model", "known to be lost"],
)
def test_a_node_that_holds_layers_and_sends_nothing_is_asked(
    nodes: tuple[Node, ...], silent: set[str], suspected: tuple[str, ...]
) -> None:
    assert state.suspects(cluster(*nodes, model=SERVING), silent) == suspected


@pytest.mark.parametrize(
    ("nodes", "asked"),
    [(A_AND_B, ("a", "b")), ((A_DOWN, A_AND_B[1]), ("b",)), ((A_DOWN,), ("a",)), ((A_REVOKED,), ())],
    ids=["all", "not the lost one", "where all are lost, our own tunnel may be", "never a revoked one"],
)
def test_who_answered_last_is_asked_again(nodes: tuple[Node, ...], asked: tuple[str, ...]) -> None:
    assert state.worth_asking(cluster(*nodes)) == asked


@pytest.mark.parametrize(
    ("node", "soon"),
    [
        (Node("a", "", NodeState.UP, "", agent("a", w0="starting")), True),
        (Node("a", "", NodeState.UP, "", agent("a", w0="backoff")), True),
        (Node("a", "", NodeState.UP, "", agent("a", w0="ready", guest="starting")), False),
        (Node("a", "", NodeState.UP, "", agent("a", w0="given_up")), False),
        (Node("a", "", NodeState.DOWN, "", agent("a", w0="backoff")), False),
        (Node("a", ""), False),
    ],
)
def test_a_worker_that_is_being_restarted_is_worth_a_wait(node: Node, soon: bool) -> None:
    assert restarting(cluster(node)) is soon


FAILED = Model("tiny", ModelState.FAILED, "no memory")


@pytest.mark.parametrize(
    ("before", "event", "again"),
    [
        (A_UNSEEN, NodeAnswered("a", A_SAYS), True),
        (A_DOWN, NodeAnswered("a", A_SAYS), True),
        (Node("a", A_UP.address, NodeState.UP, "", agent("a", w0="starting")), NodeAnswered("a", A_SAYS), True),
        (A_UP, NodeAnswered("a", A_SAYS), False),
        (A_UP, NodeAnswered("a", agent("a", w0="failed")), False),
        (A_UNSEEN, NodeAnswered("a", agent("a", guest="ready")), False),
        (A_UP, NodeUnreachable("a", "no answer"), False),
        (A_REVOKED, NodeAnswered("a", A_SAYS), False),
        (A_DRAINED, NodeAnswered("a", A_SAYS), False),
        (A_DRAINED, NodeResumed("a"), True),
    ],
)
def test_a_failed_load_is_tried_again_when_another_worker_comes_up(before: Node, event: Event, again: bool) -> None:
    after = fold(cluster(before, model=FAILED), event).model
    assert after == (Model("tiny", ModelState.WAITING, "no memory") if again else FAILED)


def test_a_failover_is_known_by_its_last_stage_and_every_stage_is_counted() -> None:
    begun = Failover(at=100.0, reason="lost", answers=2, silence_s=0.01)
    planned = begun.reached(Stage.PLANNED, 0.1)
    loaded = planned.reached(Stage.LOADED, 1.5)
    another = Failover(200.0, "lost again", 0, 0.0).reached(Stage.PLANNED, 0.3)

    after = fold(cluster(), *(FailoverSeen(each) for each in (planned, loaded, another)))

    assert after.failovers == (loaded, another)
    assert loaded.stages == {"planned": 0.1, "loaded": 1.5}
    assert after.failover_seconds == {"planned": Tally(2, 0.4), "loaded": Tally(1, 1.5)}


def test_only_the_last_failovers_are_kept() -> None:
    seen = [
        FailoverSeen(Failover(float(at), "lost", 0, 0.0).reached(Stage.PLANNED, 0.1))
        for at in range(FAILOVERS_KEPT + 3)
    ]

    assert [failover.at for failover in fold(cluster(), *seen).failovers] == [*range(3, FAILOVERS_KEPT + 3)]


@pytest.mark.parametrize(
    ("events", "losses"),
    [
        ([NodeAnswered("a", restarted(0), 5.0)], ()),
        ([NodeAnswered("a", restarted(0, "backoff"), 5.0)], (5.0,)),
        # Between two looks.
        ([NodeAnswered("a", restarted(1), 5.0)], (5.0,)),
        # Seen going, and seen back.
        ([NodeAnswered("a", restarted(0, "backoff"), 5.0), NodeAnswered("a", restarted(1), 6.0)], (5.0,)),
        (
            [NodeUnreachable("a", "", 5.0), NodeAnswered("a", restarted(0), 6.0), NodeUnreachable("a", "", 7.0)],
            (5.0, 7.0),
        ),
        # It was drained to be switched off.
        ([NodeDrained("a"), NodeUnreachable("a", "", 5.0)], ()),
        ([NodeRevoked("a")], ()),
    ],
)
def test_a_node_whose_ready_worker_goes_is_lost(events: list[Event], losses: tuple[float, ...]) -> None:
    before = Node("a", A_UP.address, NodeState.UP, "", restarted(0))
    assert fold(cluster(before), *events).nodes["a"].losses == losses


@pytest.mark.parametrize(
    ("says", "serving", "goes_on"),
    [
        (restarted(1), SERVING, False),
        (agent("a", w0="backoff"), SERVING, False),
        (restarted(0), SERVING, True),
        (restarted(1), READY, True),
        (restarted(1), LOADING, True),
    ],
    ids=["ready again", "not ready yet", "the same one", "holds nothing of the model", "being loaded"],
)
def test_an_engine_whose_worker_went_is_of_no_use_though_nobody_asks_it(
    says: AgentStatus, serving: Model, goes_on: bool
) -> None:
    after = fold(cluster(*A_AND_B, model=serving), NodeAnswered("a", says, at=5.0))

    assert (after.model == serving) is goes_on
    assert goes_on or (after.model.state, after.model.reason) == (ModelState.WAITING, "a worker of a has ended")
