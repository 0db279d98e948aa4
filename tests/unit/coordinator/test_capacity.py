"""What workers could give a model, by their nodes' word; and what follows when it is not enough."""

from __future__ import annotations

import msgspec
import pytest
from test_cluster_state import agent

from rpcmesh.config import Engine
from rpcmesh.coordinator import said, state
from rpcmesh.coordinator.capacity import CARD_PIECE, Placed, device_bytes
from rpcmesh.coordinator.moves import TRY_AGAIN_AFTER_S, Load, Wait, next_move, objection
from rpcmesh.coordinator.nodes import Node, NodeState
from rpcmesh.coordinator.state import (
    Cluster,
    Model,
    ModelRefused,
    ModelState,
    ModelWaits,
)
from rpcmesh.node.status import AgentStatus, Device
from rpcmesh.plan.facts import ModelFacts

NOW = 1000.0

MIB = 1 << 20
MEMORY = Device("CPU", "a machine", total_mib=1000, free_mib=900)
# 224 MiB are for the card's own needs.
CARD = Device("CUDA0", "a card", total_mib=1000, free_mib=924)
FULL_CARD = Device("CUDA0", "a card", total_mib=1000, free_mib=200)
# Four layers of 100 MiB, a head of 50, and nothing else to count.
FACTS = ModelFacts((100 * MIB,) * 4, (0,) * 4, 50 * MIB, n_ctx_train=4096, n_embd=0, n_ff=0)

HALF = ModelFacts((100 * MIB,) * 2, (0,) * 2, 50 * MIB, n_ctx_train=4096, n_embd=0, n_ff=0)


def says(name: str, *devices: Device, free_mib: int = 500, held_mib: int = 0, limit_mib: int = 0) -> AgentStatus:
    plain = agent(name, w0="ready")
    (worker,) = plain.workers
    return msgspec.structs.replace(
        plain,
        workers=(msgspec.structs.replace(worker, devices=devices, rss_bytes=held_mib * MIB),),
        memory_available_bytes=free_mib * MIB,
        memory_limit_bytes=limit_mib * MIB,
    )


def cluster(*agents: AgentStatus, model: Model | None = None) -> Cluster:
    nodes = {each.name: Node(each.name, "10.0.0.1:7443", NodeState.UP, agent=each) for each in agents}
    return Cluster(nodes, model or Model("tiny", ModelState.WAITING))


@pytest.mark.parametrize(
    ("told", "free_mib"),
    [
        (says("a", MEMORY), (500,)),
        # What its worker holds is free again before the next engine comes.
        (says("a", MEMORY, held_mib=300), (800,)),
        (says("a", MEMORY, held_mib=600), (1000,)),
        (says("a", MEMORY, limit_mib=120), (120,)),
        (says("a", MEMORY, limit_mib=2000), (500,)),
        # What a card had free when the worker started is the worker's, but for the card's own needs.
        (says("a", CARD, held_mib=300), (700,)),
        (says("a", CARD, CARD), (700, 700)),
        (says("a", FULL_CARD), (0,)),
        (says("a", CARD, CARD, limit_mib=100), (50, 50)),
        (says("a"), ()),
    ],
)
def test_a_worker_has_what_its_node_says(told: AgentStatus, free_mib: tuple[int, ...]) -> None:
    assert device_bytes(told, "w0") == tuple(mib * MIB for mib in free_mib)


def test_layers_are_placed_on_each_device_of_each_worker() -> None:
    both = cluster(says("a", CARD, CARD), says("b", CARD))
    assert next_move(both, Engine(), NOW, FACTS) == Load(
        (("a", "w0"), ("b", "w0")), Placed(4096, ((2, 2), (1,))), CARD_PIECE
    )


@pytest.mark.parametrize(
    ("agents", "wished", "n_ubatch"),
    [
        ((says("a", CARD), says("b", CARD)), 0, CARD_PIECE),
        ((says("a", CARD), says("b", CARD)), 64, 64),
        # The slowest decides, and what is not known may be that.
        ((says("a", CARD), says("b", MEMORY)), 0, 0),
        ((says("a", CARD), says("b")), 0, 0),
        ((says("a", MEMORY, free_mib=900),), 128, 128),
    ],
)
def test_pieces_are_large_where_all_compute_on_cards(
    agents: tuple[AgentStatus, ...], wished: int, n_ubatch: int
) -> None:
    move = next_move(cluster(*agents), Engine(n_ubatch=wished), NOW, FACTS)
    assert isinstance(move, Load)
    assert move.n_ubatch == n_ubatch


def test_where_one_worker_does_not_say_what_it_has_llama_cpp_decides() -> None:
    both = cluster(says("a"), says("b", CARD))
    assert next_move(both, Engine(), NOW, FACTS) == Load((("a", "w0"), ("b", "w0")), Placed(4096, ((), ())))


def test_a_model_that_does_not_fit_waits_and_says_how_much_is_missing() -> None:
    move = next_move(cluster(says("a", MEMORY, limit_mib=300)), Engine(n_batch=1, n_seq_max=1), NOW, FACTS)

    assert isinstance(move, Wait)
    assert move.short
    assert move.reason.endswith("the 1 worker has 300 MiB: 250 MiB found no place")


def test_a_node_that_the_others_are_too_small_without_is_not_spared() -> None:
    serving = Model("tiny", ModelState.READY, served=True, workers=(("a", "w0"), ("b", "w0")))
    both = cluster(says("a", MEMORY, limit_mib=300), says("b", MEMORY), model=serving)
    small = Engine(n_batch=1, n_seq_max=1)

    assert "found no place" in (objection(both, small, NOW, FACTS, without="b") or "")
    assert objection(both, small, NOW, FACTS, without="a") is None


def test_a_node_that_flaps_is_used_when_the_others_are_too_small_or_would_shorten_the_context() -> None:
    both = cluster(says("a", MEMORY, limit_mib=300), says("b", MEMORY))
    held = msgspec.structs.replace(both.nodes["b"], losses=(NOW, NOW))
    flaps = msgspec.structs.replace(both, nodes={**both.nodes, "b": held})
    small = Engine(n_batch=1, n_seq_max=1)

    too_large, small_enough = (next_move(flaps, small, NOW, facts) for facts in (FACTS, HALF))

    assert isinstance(too_large, Load)
    assert too_large.workers == (("a", "w0"), ("b", "w0"))
    assert isinstance(small_enough, Load)
    assert small_enough.workers == (("a", "w0"),)

    cached = msgspec.structs.replace(HALF, cache_bytes=(20 << 10,) * 2)
    shorter = next_move(flaps, Engine(n_batch=1, n_seq_max=1, n_ctx_min=64), NOW, cached)
    assert isinstance(shorter, Load)
    assert (shorter.workers, shorter.placed.n_ctx) == ((("a", "w0"), ("b", "w0")), 4096)


@pytest.mark.parametrize(
    ("refused", "least", "tried"),
    [(None, 0, 4096), (4096, 0, None), (4096, 1024, 2048), (2048, 1500, 1500), (1500, 1500, None), (512, 4096, None)],
)
def test_a_load_that_got_no_memory_is_tried_with_less_context_if_that_is_allowed(
    refused: int | None, least: int, tried: int | None
) -> None:
    waiting = cluster(says("a"))
    if refused is not None:
        waiting = state.apply(waiting, ModelRefused(refused, "unable to allocate", NOW))

    move = next_move(waiting, Engine(n_ctx_min=least), NOW, FACTS)

    if tried is None:
        assert move == Wait("unable to allocate", short=True, until=NOW + TRY_AGAIN_AFTER_S)
        # By then others may have given memory back.
        move = next_move(waiting, Engine(n_ctx_min=least), NOW + TRY_AGAIN_AFTER_S, FACTS)
        assert move == Load((("a", "w0"),), Placed(4096, ((),)))
    else:
        assert move == Load((("a", "w0"),), Placed(tried, ((),)))


def test_a_model_that_does_not_fit_has_its_own_word_until_there_is_another_worker() -> None:
    refused = state.apply(cluster(says("a")), ModelRefused(4096, "unable to allocate", NOW))
    short = state.apply(refused, ModelWaits("unable to allocate", short=True))
    assert said.not_ready_reason(short) == "cluster_capacity"
    assert next_move(short, Engine(), NOW, FACTS) == Wait(
        "unable to allocate", short=True, until=NOW + TRY_AGAIN_AFTER_S
    )

    joined = state.apply(short, state.NodeJoined("b", "10.0.0.2:7443"))
    again = state.apply(joined, state.NodeAnswered("b", says("b")))

    assert isinstance(next_move(again, Engine(), NOW, FACTS), Load)
