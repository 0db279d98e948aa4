"""The cluster is nothing but its events, folded in order. What a revoked node still says changes nothing."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.coordinator import said, state
from rpcmesh.coordinator.failover import Failover, Stage, Tally
from rpcmesh.coordinator.nodes import Node, NodeState
from rpcmesh.coordinator.state import (
    FAILOVERS_KEPT,
    Cluster,
    Event,
    FailoverSeen,
    LinksSeen,
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
    restarting,
)
from rpcmesh.engine.messages import DeviceLayers, LoadedModel
from rpcmesh.firewall.watch import FirewallStatus, State
from rpcmesh.node.status import AgentStatus, CertificateStatus, WorkerStatus

LOADED = LoadedModel(
    name="tiny",
    n_layer=2,
    n_ctx=512,
    n_vocab=100,
    n_params=1000,
    size_bytes=4000,
    has_chat_template=True,
    placement=(),
    load_s=0.5,
    first_token_ms=12.0,
)


def agent(name: str, **workers: str) -> AgentStatus:
    """What node ``name`` says, with ``worker=state`` for each worker."""
    return AgentStatus(
        name=name,
        mesh="m",
        version="1",
        build_id="b",
        backend="cpu",
        os="Linux",
        arch="x86_64",
        uptime_s=1.0,
        memory_total_bytes=2,
        memory_available_bytes=1,
        load_1min=0.0,
        workers=tuple(WorkerStatus(worker, is_now, 1, 0, "", 0) for worker, is_now in workers.items()),
        certificate=CertificateStatus(uri=f"spiffe://m/node/{name}", serial="01", not_before=0.0, not_after=1.0),
        crl_number=1,
        tunnel_state="ready",
    )


A_SAYS = agent("a", w0="ready")
A_UNSEEN = Node("a", "10.0.0.1:7443")
A_UP = Node("a", "10.0.0.1:7443", NodeState.UP, "", A_SAYS)
A_DRAINED = msgspec.structs.replace(A_UP, drained=True)
A_DOWN = Node("a", "10.0.0.1:7443", NodeState.DOWN, "no answer", A_SAYS)
A_LOST = msgspec.structs.replace(A_DOWN, losses=(7.0,))
A_REVOKED = Node("a", "10.0.0.1:7443", NodeState.REVOKED, "revoked")
DRIFT = FirewallStatus(State.DRIFT, "the rules were changed", 1)
A_DRIFTED = msgspec.structs.replace(A_UP, agent=msgspec.structs.replace(A_SAYS, firewall=DRIFT))
LOADING = Model("tiny", ModelState.LOADING, progress=0.5)
READY = Model("tiny", ModelState.READY, progress=1.0, loaded=LOADED, served=True)


def cluster(*nodes: Node, model: Model | None = None) -> Cluster:
    return Cluster(nodes={node.name: node for node in nodes}, model=model or Model())


def fold(before: Cluster, *events: Event) -> Cluster:
    for event in events:
        before = state.apply(before, event)
    return before


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


PLACED = msgspec.structs.replace(
    LOADED,
    placement=(
        DeviceLayers("a", "w0", "RPC0", (0,), output=False, weight_bytes=1),
        DeviceLayers("b", "w0", "RPC1", (1,), output=True, weight_bytes=1),
        DeviceLayers(None, None, "CPU", (), output=False, weight_bytes=1),
    ),
)
SERVING = Model("tiny", ModelState.READY, progress=1.0, loaded=PLACED, served=True)
LINKS = frozenset({"a.w0", "a.agent", "b.w0", "b.agent"})


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


A_AND_B = (A_UP, Node("b", "10.0.0.2:7443", NodeState.UP, "", agent("b", w0="ready")))


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


def restarted(times: int, is_now: str = "ready") -> AgentStatus:
    says = agent("a", w0=is_now, guest="ready")
    worker, guest = says.workers
    return msgspec.structs.replace(says, workers=(msgspec.structs.replace(worker, restarts=times), guest))


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


NAMES = st.sampled_from("abc")
AGENTS = st.builds(agent, NAMES, w0=st.sampled_from(["ready", "starting"]), guest=st.just("ready"))
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(NodeJoined, NAMES, st.just("10.0.0.1:7443")),
    st.builds(NodeAnswered, NAMES, AGENTS),
    st.builds(NodeUnreachable, NAMES, st.just("no answer")),
    st.builds(NodeRefused, NAMES, AGENTS, st.just("another build")),
    st.builds(NodeRevoked, NAMES),
    st.builds(NodeDrained, NAMES),
    st.builds(NodeResumed, NAMES),
    st.builds(ModelWanted, st.just("tiny")),
    st.builds(ModelLoading, st.floats(0, 1)),
    st.builds(ModelLoaded, st.sampled_from([LOADED, PLACED])),
    st.builds(ModelFailed, st.just("no memory")),
    st.builds(ModelLost, st.just("a left")),
    st.builds(LinksSeen, st.sampled_from([None, LOADED, PLACED]), st.frozensets(st.sampled_from(sorted(LINKS)))),
)


@given(st.lists(EVENTS, max_size=30))
def test_whatever_happens_a_revoked_node_stays_out_until_it_joins_anew(events: list[Event]) -> None:
    now, revoked = Cluster(), set[str]()
    for event in events:
        if isinstance(event, NodeRevoked) and event.name in now.nodes:
            revoked.add(event.name)
        elif isinstance(event, NodeJoined):
            revoked.discard(event.name)
        now = state.apply(now, event)
        assert {name for name, node in now.nodes.items() if node.state is NodeState.REVOKED} == revoked
        assert revoked.isdisjoint(node for node, _ in state.workers_in(now))


@given(st.lists(EVENTS, max_size=30))
def test_whatever_happens_layers_go_to_ready_workers_of_nodes_that_are_up(events: list[Event]) -> None:
    now = fold(Cluster(), *events)
    found = state.workers_in(now)
    assert list(found) == sorted(found)
    for name, worker in found:
        assert now.nodes[name].state is NodeState.UP
        assert not now.nodes[name].drained
        assert worker == "w0"


@given(st.lists(EVENTS, max_size=30))
def test_whatever_happens_ready_means_a_loaded_model(events: list[Event]) -> None:
    now = fold(Cluster(), *events)
    assert (said.not_ready_reason(now) is None) == (now.model.loaded is not None)


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
