"""How many prompt tokens a step holds: learned from steps whose times are given here, and shared out."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.engine.pace import (
    BURST_AFTER_STEPS,
    BURST_S,
    BURST_WITHIN_STEPS,
    LOOK_AFTER_STEPS,
    SAVED_BATCHES,
    TRY_AFTER_STEPS,
    Allowance,
    Pace,
    share_out,
)

N_BATCH = 512
N_PIECE = 64


def settled(took_s: Callable[[int, int], float], n_decoding: int, n_steps: int = 400) -> list[tuple[int, float]]:
    """``(prompt tokens, time)`` of the steps beside a long prompt; ``took_s`` is the machine."""
    pace = Pace(N_BATCH, N_PIECE)
    steps = []
    for _ in range(n_steps):
        n_prefilled = pace.allowance(n_decoding).long
        steps.append((n_prefilled, took_s(n_decoding, n_prefilled)))
        pace.observe(n_decoding, *steps[-1])
    return steps


MACHINES: dict[str, Callable[[int, int], float]] = {
    "a small model on a CPU": lambda n, k: 0.005 + 0.002 * n + 0.002 * k,
    "a card, where few tokens cost nothing": lambda n, k: 0.020 + 0.0005 * max(0, n + k - 32),
    "far workers": lambda n, k: 0.100 + 0.001 * n + 0.001 * k,
    "a token costs a whole step": lambda n, k: 0.010 * (n + k),
    # As seen with SmolLM2 on a CPU, behind thousands of cells.
    "tokens share work": lambda n, k: 0.008 + 0.003 * n + min(0.030 * k, 0.300 + 0.003 * k),
}
IN_BURSTS = {"a token costs a whole step": 1, "tokens share work": 4}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("n_decoding", [1, 4, 16])
def test_a_step_beside_a_long_prompt_is_at_most_twice_as_long(machine: str, n_decoding: int) -> None:
    alone_s = MACHINES[machine](n_decoding, 0)
    steps = settled(MACHINES[machine], n_decoding)
    times = sorted(took_s for _, took_s in steps[20:])
    assert times[int(0.95 * len(times))] <= 2 * alone_s


@pytest.mark.parametrize("machine", ["a small model on a CPU", "a card, where few tokens cost nothing", "far workers"])
def test_a_long_prompt_gets_what_a_step_can_bear(machine: str) -> None:
    alone_s = MACHINES[machine](4, 0)
    steps = settled(MACHINES[machine], 4)
    times = [took_s for n_prefilled, took_s in steps[20:] if n_prefilled]
    assert sum(times) / len(times) >= 1.35 * alone_s


@pytest.mark.parametrize("machine", IN_BURSTS)
def test_where_one_token_makes_a_step_too_long_they_come_in_bursts(machine: str) -> None:
    n_decoding = IN_BURSTS[machine]
    alone_s = MACHINES[machine](n_decoding, 0)
    steps = settled(MACHINES[machine], n_decoding, n_steps=2400)[400:]
    bursts = [(n_prefilled, took_s) for n_prefilled, took_s in steps if n_prefilled > 1]
    singles = [n_prefilled for n_prefilled, _ in steps if n_prefilled == 1]

    assert 2000 // (3 * BURST_AFTER_STEPS) < len(bursts) <= 2000 // BURST_AFTER_STEPS
    assert len(singles) <= 2000 // TRY_AFTER_STEPS + 1
    # They share the pieces' work, and streams wait for none of them long.
    assert all((n_prefilled + n_decoding) % N_PIECE == 0 for n_prefilled, _ in bursts)
    assert max(took_s for _, took_s in bursts) <= 1.5 * max(BURST_S, BURST_AFTER_STEPS * alone_s / 2)
    # About half of the time is the prompt's.
    whole_s = sum(took_s for _, took_s in steps)
    assert 0.3 * whole_s <= sum(took_s for _, took_s in bursts) <= 0.55 * whole_s


def test_a_step_that_could_hold_few_tokens_holds_none_where_many_are_known_to_share_work() -> None:
    machine = MACHINES["tokens share work"]
    unknown, known = Pace(N_BATCH, N_PIECE), Pace(N_BATCH, N_PIECE)
    known.prefilled(10, 10.0)  # too few to tell
    known.prefilled(1000, 5.0)
    rates = []
    for pace in (unknown, known):
        steps = []
        for _ in range(1000):
            n_prefilled = pace.allowance(16).long
            steps.append((n_prefilled, machine(16, n_prefilled)))
            pace.observe(16, *steps[-1])
        took_s = [each_s for _, each_s in sorted(steps[40:], key=lambda each: each[1])]
        assert took_s[int(0.95 * len(took_s))] <= 2 * machine(16, 0)
        rates.append(sum(n for n, _ in steps[40:]) / sum(took_s))
    assert rates[1] > 4 * rates[0]


def test_bursts_end_when_tokens_are_cheap_again() -> None:
    pace = Pace(N_BATCH, N_PIECE)

    def step(machine: str) -> int:
        n_prefilled = pace.allowance(4).long
        pace.observe(4, n_prefilled, MACHINES[machine](4, n_prefilled))
        return n_prefilled

    for _ in range(200):
        step("tokens share work")
    for _ in range(10 * TRY_AFTER_STEPS):
        step("far workers")
    assert [step("far workers") > 1 for _ in range(BURST_AFTER_STEPS)].count(True) >= BURST_AFTER_STEPS - 1


def test_between_bursts_short_prompts_spend_what_was_saved_until_it_is_little() -> None:
    machine = MACHINES["tokens share work"]
    pace = Pace(N_BATCH, N_PIECE)
    for _ in range(100):
        n_prefilled = pace.allowance(1).long
        pace.observe(1, n_prefilled, machine(1, n_prefilled))
    spent = []
    for _ in range(100):
        n_prefilled = min(40, pace.allowance(1).total)
        pace.observe(1, n_prefilled, machine(1, n_prefilled))
        spent.append(n_prefilled)
    assert spent[0] == 40
    assert spent[-BURST_AFTER_STEPS:].count(0) >= BURST_AFTER_STEPS - 2


@given(
    took_s=st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=40),
    n_decoding=st.lists(st.integers(1, 16), min_size=1, max_size=8),
    short=st.lists(st.integers(0, 200), min_size=1, max_size=8),
)
def test_whatever_steps_take_a_long_prompt_gets_on_before_long(
    took_s: list[float], n_decoding: list[int], short: list[int]
) -> None:
    """``short``: what short prompts would like beside it."""
    pace = Pace(N_BATCH, N_PIECE)
    passed_by = 0
    for each_s, n, n_short in itertools.islice(
        zip(*map(itertools.cycle, (took_s, n_decoding, short)), strict=True), 600
    ):
        allowance = pace.allowance(n)
        assert 0 <= allowance.long <= allowance.total <= N_BATCH - n
        passed_by = 0 if allowance.long else passed_by + 1
        assert passed_by <= BURST_WITHIN_STEPS + 1
        pace.observe(n, min(allowance.total, allowance.long + n_short), each_s)


def test_a_step_without_prompts_is_put_in_now_and_then() -> None:
    counts = [n_prefilled for n_prefilled, _ in settled(MACHINES["far workers"], 1, n_steps=3 * LOOK_AFTER_STEPS)]
    assert counts.count(0) == 3
    assert counts[0] == counts[LOOK_AFTER_STEPS + 1] == 0


def test_such_a_step_holds_no_short_prompts_either() -> None:
    assert Pace(N_BATCH, N_PIECE).allowance(1) == Allowance(0, 0)


def test_one_late_step_changes_nothing() -> None:
    pace = Pace(N_BATCH, N_PIECE)
    for _ in range(100):
        n_prefilled = pace.allowance(1).long
        pace.observe(1, n_prefilled, MACHINES["far workers"](1, n_prefilled))
    before = pace.allowance(1)
    pace.observe(1, before.long, 30.0)
    assert pace.allowance(1).long == pytest.approx(before.long, rel=0.05)


def test_with_nothing_decoding_prompts_get_the_whole_batch() -> None:
    assert Pace(N_BATCH, N_PIECE).allowance(0) == Allowance(N_BATCH, N_BATCH)


def test_short_prompts_spend_what_was_saved_and_no_more() -> None:
    machine = MACHINES["a small model on a CPU"]
    pace = Pace(N_BATCH, N_PIECE)
    pace.observe(1, 0, machine(1, 0))
    spent = []
    for _ in range(20):
        n_prefilled = pace.allowance(1).total
        pace.observe(1, n_prefilled, machine(1, n_prefilled))
        spent.append(n_prefilled)
    assert spent[:3] == [N_BATCH - 1] * 3
    assert sum(spent) < SAVED_BATCHES * N_BATCH + 20 * 10
    assert max(spent[-10:]) < 10


def test_what_was_spent_is_saved_again_while_streams_decode() -> None:
    machine = MACHINES["far workers"]
    pace = Pace(N_BATCH, N_PIECE)
    pace.observe(1, 0, machine(1, 0))
    while pace.allowance(1).total == N_BATCH - 1:
        pace.observe(1, N_BATCH - 1, machine(1, N_BATCH - 1))
    for _ in range(SAVED_BATCHES * N_BATCH):
        pace.observe(1, 0, machine(1, 0))
    assert pace.allowance(1).total == N_BATCH - 1


@pytest.mark.parametrize(
    ("wanted", "long", "allowance", "shares"),
    [
        ([], [], Allowance(8, 8), []),
        # Nothing decodes: short ones first, and the long one that was there before them gets its quarter.
        ([4000, 100, 50], [True, False, False], Allowance(512, 512), [362, 100, 50]),
        ([4000, 300, 300], [True, False, False], Allowance(512, 512), [128, 300, 84]),
        # Beside streams: the long one is held back, the short ones are not.
        ([4000, 100, 50], [True, False, False], Allowance(6, 500), [6, 100, 50]),
        ([100, 4000, 4000], [False, True, True], Allowance(6, 500), [100, 6, 0]),
        ([4000, 4000], [True, True], Allowance(1, 500), [1, 0]),
        ([4000, 100], [True, False], Allowance(0, 0), [0, 0]),
        ([10, 10], [False, False], Allowance(4, 16), [10, 6]),
    ],
)
def test_who_gets_what(wanted: list[int], long: list[bool], allowance: Allowance, shares: list[int]) -> None:
    assert share_out(wanted, long, allowance) == shares


@given(
    prompts=st.lists(st.tuples(st.integers(1, 600), st.booleans()), min_size=1, max_size=8),
    n_long=st.integers(0, 64),
    n_more=st.integers(0, 448),
)
def test_shares_keep_to_the_allowance_and_use_it_up(prompts: list[tuple[int, bool]], n_long: int, n_more: int) -> None:
    wanted, long = [n for n, _ in prompts], [is_long for _, is_long in prompts]
    shares = share_out(wanted, long, Allowance(n_long, n_long + n_more))

    of_long = sum(share for share, is_long in zip(shares, long, strict=True) if is_long)
    most_of_long = min(n_long, sum(n for n, is_long in prompts if is_long))
    assert all(0 <= share <= n for share, n in zip(shares, wanted, strict=True))
    assert of_long <= n_long
    assert sum(shares) <= n_long + n_more
    assert sum(shares) >= min(n_long + n_more, sum(n for n, is_long in prompts if not is_long))
    assert shares[0] > 0 or (n_long if long[0] else n_long + n_more) == 0
    assert of_long == most_of_long or sum(shares) == n_long + n_more
