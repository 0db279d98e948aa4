"""What a run under faults amounts to: from noted times to waits, losses and wrong tokens."""

from __future__ import annotations

import random

import pytest

from rpcmesh.bench.chaos import Fell, Happened, Wishes, drawn, judge, recovery_of
from rpcmesh.bench.faults import FAULTS
from rpcmesh.bench.streams import Told
from rpcmesh.engine.reference import MARGIN_MAX

WISHES = Wishes(seed=1, faults=1, streams=1, nodes=3, max_tokens=4)


def told(*arrivals: float, began: float = 0.0, counted: int | None = None, error: str = "") -> Told:
    ended = arrivals[-1] if arrivals else began
    return Told("once", began, [7] * len(arrivals), list(arrivals), counted, ended, error)


@pytest.mark.parametrize(
    ("arrivals", "wait"),
    [
        ((1.0, 1.01, 1.02, 3.5), 2.49),
        # What was on its way still comes.
        ((1.0, 1.012, 1.02, 1.03, 4.0), 2.99),
        # Nobody noticed.
        ((1.0, 1.01, 1.02, 1.03, 1.04), None),
        # A silence that began later has another cause.
        ((1.0, 1.2, 1.4, 1.6, 1.8, 2.02, 2.2, 9.0), None),
        # From before the fault on, for no silence is felt before its end.
        ((0.2, 3.0), 1.99),
    ],
)
def test_a_wait_is_from_the_fault_to_the_end_of_the_silence_after_it(
    arrivals: tuple[float, ...], wait: float | None
) -> None:
    open_streams, found = recovery_of(1.01, [told(*arrivals)])

    assert open_streams == 1
    assert found == pytest.approx(wait)


def test_the_last_stream_to_go_on_counts_and_others_are_not_asked() -> None:
    streams = [told(1.0, 2.0), told(1.0, 4.0), told(5.0, 9.0, began=4.5), told(0.1, 0.2)]

    assert recovery_of(1.0, streams) == (2, 3.0)


def test_every_token_is_counted_and_judged() -> None:
    answers = [
        told(1.0, 1.1, counted=2),
        told(1.0, 1.1, counted=3),
        told(1.0, error="engine_lost"),
    ]

    outcome = judge(WISHES, [Fell("node killed", "node-1", 0.5)], answers, [(0.0, MARGIN_MAX + 0.01), (0.1, 0.2)])

    assert outcome.happened == (Happened("node killed", "node-1", False, 3, 0.5),)
    assert (outcome.streams, outcome.tokens, outcome.lost) == (3, 5, ("engine_lost",))
    assert (outcome.miscounted, outcome.wrong_tokens) == (1, 1)
    assert not outcome.clean


def test_a_run_without_a_fault_to_find_is_clean() -> None:
    outcome = judge(WISHES, [Fell("node killed", "node-1", 0.5)], [told(1.0, 1.1, counted=2)], [(0.0, 0.3)])

    assert outcome.clean
    assert (outcome.worst_margin, outcome.recovery_p50_s, outcome.recovery_max_s) == (0.3, 0.5, 0.5)


def test_waits_of_faults_that_came_together_are_shown_apart() -> None:
    fallen = [Fell("node killed", "node-1", 1.01), Fell("worker killed", "node-2", 6.0, crowded=True)]

    outcome = judge(WISHES, fallen, [told(1.0, 2.01, 5.9, 9.0, counted=4)], [()])

    assert (outcome.recovery_p50_s, outcome.recovery_max_s, outcome.crowded_max_s) == (1.0, 1.0, 3.0)


def test_every_kind_of_fault_is_drawn_before_one_comes_again_and_an_equal_seed_draws_equal_ones() -> None:
    kinds = drawn(2 * len(FAULTS) + 1, random.Random(7))  # noqa: S311 (repeatable on purpose)

    assert set(kinds[: len(FAULTS)]) == set(kinds[len(FAULTS) : -1]) == set(FAULTS)
    assert kinds == drawn(2 * len(FAULTS) + 1, random.Random(7))  # noqa: S311
