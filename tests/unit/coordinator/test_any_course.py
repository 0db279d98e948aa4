"""Whatever happens to nodes, in whatever order: no layer goes where none may, and nothing waits that could load."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from test_capacity import MIB, says

from rpcmesh.config import Engine
from rpcmesh.coordinator import state
from rpcmesh.coordinator.moves import Load, Wait, must_move, next_move
from rpcmesh.coordinator.nodes import NodeState
from rpcmesh.coordinator.state import Cluster, Event, Model, ModelState
from rpcmesh.node.status import AgentStatus, Device
from rpcmesh.plan.facts import ModelFacts

# 250 MiB: two nodes of 200 hold it, one does not.
FACTS = ModelFacts((50 * MIB,) * 4, (0,) * 4, 50 * MIB, n_ctx_train=4096, n_embd=0, n_ff=0)
ENGINE = Engine(min_workers=2, n_seq_max=1, n_batch=1)
NAMES = ("a", "b", "c")
MEMORY = Device("CPU", "a machine", total_mib=10_000, free_mib=10_000)


def agent(name: str, worker: str) -> AgentStatus:
    plain = says(name, MEMORY, free_mib=10_000, limit_mib=200)
    (only,) = plain.workers
    return msgspec.structs.replace(plain, workers=(msgspec.structs.replace(only, state=worker),))


@st.composite
def courses(draw: st.DrawFn) -> list[Event]:
    """Nodes come, go, flap, are drained, resumed and revoked, at times that only grow."""
    events: list[Event] = [state.NodeJoined(name, "10.0.0.1:7443") for name in NAMES]
    at = 0.0
    for _ in range(draw(st.integers(0, 40))):
        at += draw(st.sampled_from([0.0, 1.0, 30.0, 1000.0]))
        name = draw(st.sampled_from(NAMES))
        events.append(
            draw(
                st.sampled_from(
                    [
                        state.NodeAnswered(name, agent(name, "ready"), at),
                        state.NodeAnswered(name, agent(name, "backoff"), at),
                        state.NodeUnreachable(name, "no answer", at),
                        state.NodeRefused(name, agent(name, "ready"), "another build", at),
                        state.NodeDrained(name),
                        state.NodeResumed(name),
                        state.NodeRevoked(name),
                        state.NodeJoined(name, "10.0.0.1:7443"),
                    ]
                )
            )
        )
    return events


def after(events: list[Event]) -> tuple[Cluster, float]:
    now = Cluster(model=Model("tiny", ModelState.WAITING, served=True))
    for event in events:
        now = state.apply(now, event)
    return now, max((getattr(event, "at", 0.0) for event in events), default=0.0)


def usable(cluster: Cluster, name: str) -> bool:
    node = cluster.nodes[name]
    ready = node.agent is not None and node.agent.workers[0].state == "ready"
    return node.state is NodeState.UP and not node.drained and ready


@given(courses())
def test_layers_go_to_usable_nodes_alone_and_all_of_them_have_a_place(events: list[Event]) -> None:
    now, at = after(events)
    move = next_move(now, ENGINE, at, FACTS)
    if isinstance(move, Load):
        assert all(usable(now, name) for name, _ in move.workers)
        assert len(move.placed.layers) == len(move.workers)
        assert sum(map(sum, move.placed.layers)) == len(FACTS.layer_bytes) + 1


@given(courses())
def test_what_can_be_loaded_is_loaded_whoever_flaps(events: list[Event]) -> None:
    now, at = after(events)
    move = next_move(now, ENGINE, at, FACTS)
    n_usable = sum(usable(now, name) for name in NAMES)
    unheard = any(node.state is NodeState.UNSEEN for node in now.nodes.values())

    assert isinstance(move, Load) == (n_usable >= 2 and not unheard)
    if isinstance(move, Wait) and not unheard:
        assert move.short == (n_usable == 1)


@given(courses(), courses())
def test_an_engine_moves_when_a_node_that_it_uses_may_hold_nothing_and_the_next_does_without(
    before: list[Event], meanwhile: list[Event]
) -> None:
    now, at = after(before)
    move = next_move(now, ENGINE, at, FACTS)
    if not isinstance(move, Load):
        return
    now = state.apply(now, state.ModelLoading(0.0, move.workers))
    for event in meanwhile[len(NAMES) :]:
        now = state.apply(now, event)

    out = {name for name, _ in move.workers if now.nodes[name].drained or now.nodes[name].state is NodeState.REVOKED}
    assert (must_move(now) is not None) == bool(out)

    ended = state.apply(now, state.ModelLost("moved"))
    following = next_move(ended, ENGINE, at, FACTS)
    assert not state.holders(ended)
    if isinstance(following, Load):
        assert out.isdisjoint(name for name, _ in following.workers)


@given(courses())
def test_a_node_that_comes_back_ends_every_wait(events: list[Event]) -> None:
    now, at = after(events)
    for name in NAMES:
        for event in (
            state.NodeJoined(name, "10.0.0.1:7443"),
            state.NodeAnswered(name, agent(name, "ready"), at),
            state.NodeResumed(name),
        ):
            now = state.apply(now, event)

    assert isinstance(next_move(now, ENGINE, at, FACTS), Load)
