"""A plan puts every layer somewhere, nothing anywhere that it does not fit, and says no only when nothing would do."""

from __future__ import annotations

from itertools import combinations_with_replacement

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.plan.facts import ModelFacts
from rpcmesh.plan.fit import MARGIN_BYTES, Plan, TooSmall, Wish, plan

MIB = 1 << 20
# Computing costs n_batch * n_cells * 4 bytes and no more: 512 a token and sequence with a batch of 128.
TINY = ModelFacts((10 * MIB,) * 4, (1024,) * 4, 6 * MIB, n_ctx_train=8192, n_embd=0, n_ff=0)
WISH = Wish(n_ctx=1024, n_ctx_min=0, n_seq_max=1, n_batch=1)


def free(*mib: float) -> list[int]:
    """Devices with so much beside what each keeps free, the scratch for 1,024 cells included."""
    return [round(each * MIB) + MARGIN_BYTES + 4096 if each else 0 for each in mib]


@pytest.mark.parametrize(
    ("devices", "counts"),
    [
        (free(1000), (5,)),
        # In proportion, as llama.cpp cuts.
        (free(1000, 1000), (3, 2)),
        (free(1000, 4000), (2, 3)),
        (free(1000, 1000, 1000), (2, 2, 1)),
        # Not in proportion, because the smaller one would be too full: 11 MiB a layer, 6 the head.
        (free(30, 31), (2, 3)),
        (free(17, 40), (1, 4)),
        (free(40, 17), (3, 2)),
        # One that holds nothing stays in its place.
        (free(1000, 0, 1000), (3, 0, 2)),
        (free(5, 1000), (0, 5)),
        (free(1000, 5), (5, 0)),
    ],
)
def test_layers_follow_memory(devices: list[int], counts: tuple[int, ...]) -> None:
    assert plan(TINY, devices, WISH) == Plan(counts, 1024)


def test_a_model_that_is_too_large_is_refused_and_the_refusal_says_by_how_much() -> None:
    refused = plan(TINY, free(20, 25), WISH)

    assert isinstance(refused, TooSmall)
    # One layer on the first, two on the second: a layer with its cache and the head are left.
    assert refused.missing_bytes == 17 * MIB
    assert refused.said(2) == (
        "the model needs 114 MiB with a context of 1024 tokens, the 2 workers have 109 MiB: 17 MiB found no place"
    )


@pytest.mark.parametrize(
    ("n_ctx_min", "device_mib", "n_ctx"),
    [(0, 50, 1024), (512, 50, 1024), (512, 49.1, 768), (512, 48, 512), (640, 48, None), (0, 48.5, None)],
)
def test_the_context_shrinks_as_far_as_it_must_and_may(n_ctx_min: int, device_mib: float, n_ctx: int | None) -> None:
    found = plan(TINY, free(device_mib), msgspec.structs.replace(WISH, n_ctx_min=n_ctx_min))

    assert (found.n_ctx if isinstance(found, Plan) else None) == n_ctx


def test_no_context_is_longer_than_the_model_was_trained_for() -> None:
    short = msgspec.structs.replace(TINY, n_ctx_train=256)
    assert plan(short, free(1000), WISH) == Plan((5,), 256)


SIZES = st.integers(0, 12)
FACTS = st.lists(st.tuples(SIZES, st.integers(0, 3)), min_size=1, max_size=6).flatmap(
    lambda layers: st.builds(
        ModelFacts,
        st.just(tuple(weights * MIB for weights, _ in layers)),
        st.just(tuple(cache * 4096 for _, cache in layers)),
        st.integers(0, 12).map(lambda mib: mib * MIB),
        st.just(8192),
        st.just(0),
        st.just(0),
    )
)
DEVICES = st.lists(st.integers(0, 60).map(lambda mib: mib * MIB + MARGIN_BYTES), min_size=1, max_size=4)
WISHES = st.builds(Wish, st.sampled_from([256, 1024, 4096]), st.sampled_from([0, 256, 512]), st.just(1), st.just(1))


def room(facts: ModelFacts, devices: list[int], wish: Wish, n_ctx: int) -> list[int]:
    beside = facts.compute_bytes(n_ctx * wish.n_seq_max, wish.n_batch) + MARGIN_BYTES
    # Things of no size fit a device that is full.
    return [max(0, device - beside) for device in devices]


def holds(facts: ModelFacts, devices: list[int], wish: Wish, found: Plan) -> bool:
    """Whether each device that has something has room for it."""
    items, start = facts.items(found.n_ctx * wish.n_seq_max), 0
    for count, has in zip(found.counts, room(facts, devices, wish, found.n_ctx), strict=True):
        if sum(items[start : start + count]) > has:
            return False
        start += count
    return start == len(items)


def any_assignment(facts: ModelFacts, devices: list[int], wish: Wish, n_ctx: int) -> bool:
    """By trying every way to cut the row."""
    n_items = len(facts.items(n_ctx))
    for cuts in combinations_with_replacement(range(n_items + 1), len(devices) - 1):
        ends = (*cuts, n_items)
        counts = tuple(end - start for start, end in zip((0, *ends), ends, strict=False))
        if holds(facts, devices, wish, Plan(counts, n_ctx)):
            return True
    return False


@given(FACTS, DEVICES, WISHES)
def test_every_layer_has_one_place_and_no_device_more_than_it_holds(
    facts: ModelFacts, devices: list[int], wish: Wish
) -> None:
    found = plan(facts, devices, wish)
    if isinstance(found, Plan):
        assert len(found.counts) == len(devices)
        assert min(found.counts) >= 0
        assert sum(found.counts) == len(facts.layer_bytes) + 1
        assert holds(facts, devices, wish, found)
        assert min(wish.n_ctx_min or wish.n_ctx, wish.n_ctx) <= found.n_ctx <= wish.n_ctx


@given(FACTS, DEVICES, WISHES)
def test_a_refusal_means_that_no_assignment_fits_and_a_smaller_context_that_the_wished_one_does_not(
    facts: ModelFacts, devices: list[int], wish: Wish
) -> None:
    found = plan(facts, devices, wish)
    if isinstance(found, TooSmall):
        assert not any_assignment(facts, devices, wish, min(wish.n_ctx_min or wish.n_ctx, wish.n_ctx))
        assert found.missing_bytes > 0 or not any(facts.items(0))
    elif found.n_ctx < wish.n_ctx:
        assert not any_assignment(facts, devices, wish, wish.n_ctx)
        assert not any_assignment(facts, devices, wish, found.n_ctx + 64) or found.n_ctx + 64 > wish.n_ctx


@given(FACTS, DEVICES, WISHES, st.data())
def test_more_memory_never_turns_a_plan_into_a_refusal_or_shortens_the_context(
    facts: ModelFacts, devices: list[int], wish: Wish, data: st.DataObject
) -> None:
    before = plan(facts, devices, wish)
    index = data.draw(st.integers(0, len(devices) - 1))
    more = [device + (index == n) * data.draw(st.integers(0, 1 << 27)) for n, device in enumerate(devices)]

    after = plan(facts, more, wish)

    if isinstance(before, Plan):
        assert isinstance(after, Plan)
        assert after.n_ctx >= before.n_ctx


@given(FACTS, DEVICES, WISHES)
def test_the_same_question_has_the_same_answer(facts: ModelFacts, devices: list[int], wish: Wish) -> None:
    assert plan(facts, devices, wish) == plan(facts, list(devices), wish)
