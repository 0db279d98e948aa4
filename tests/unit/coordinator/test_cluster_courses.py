"""Whatever course events take, what must hold of a cluster holds."""

from __future__ import annotations

from cluster_states import LINKS, LOADED, PLACED, agent, fold
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.coordinator import said, state
from rpcmesh.coordinator.nodes import NodeState
from rpcmesh.coordinator.state import (
    Cluster,
    Event,
    LinksSeen,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
    ModelLost,
    ModelWanted,
    NodeAnswered,
    NodeDrained,
    NodeJoined,
    NodeRefused,
    NodeResumed,
    NodeRevoked,
    NodeUnreachable,
)

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
