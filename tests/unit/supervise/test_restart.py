"""When a service is started again and when it is given up, row by row. No process, no clock, no dice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.supervise import restart
from rpcmesh.supervise.restart import End, GiveUp, Restart

ALMOST_ONE = 0.999
# So far apart that the window never holds a loop of them, so near that no run between them was healthy.
SLOW_S = 20.0


def crashes(count: int, every_s: float = 1.0) -> list[float]:
    return [1000.0 + every_s * number for number in range(count)]


def delay_s(exits: list[float], chance: float = ALMOST_ONE) -> float:
    match restart.decide(exits, exits[-1], chance):
        case Restart(delay):
            return delay
        case GiveUp(reason):
            pytest.fail(f"given up: {reason}")


@pytest.mark.parametrize("chance", [0.0, 0.5, ALMOST_ONE])
def test_the_first_restart_comes_at_once_whatever_the_dice_say(chance: float) -> None:
    assert restart.decide([1000.0], 1000.0, chance) == Restart(restart.FIRST_DELAY_S)


def test_nothing_has_ended_yet_is_no_reason_to_wait() -> None:
    assert restart.decide([], 1000.0, 0.5) == Restart(restart.FIRST_DELAY_S)


@pytest.mark.parametrize(
    ("failures", "ceiling_s"),
    [(2, 0.2), (3, 0.4), (4, 0.8), (5, 1.6), (6, 3.2), (7, 6.4)],
)
def test_each_failure_doubles_the_ceiling_of_the_delay(failures: int, ceiling_s: float) -> None:
    exits = crashes(failures)
    assert delay_s(exits, 0.0) == pytest.approx(ceiling_s / 2)
    assert delay_s(exits, ALMOST_ONE) == pytest.approx(ceiling_s, rel=0.001)


@pytest.mark.parametrize("failures", [2, 5, 7, 30, 200])
def test_chance_spreads_the_delay_over_its_upper_half_only(failures: int) -> None:
    exits = crashes(failures, every_s=SLOW_S)
    lowest, middle, highest = (delay_s(exits, chance) for chance in (0.0, 0.5, ALMOST_ONE))
    ceiling_s = 2 * lowest
    assert lowest < middle < highest < ceiling_s
    assert middle == pytest.approx(0.75 * ceiling_s)


@pytest.mark.parametrize("failures", [10, 20, 500, 5000])
def test_the_delay_is_capped_however_long_it_has_failed(failures: int) -> None:
    exits = crashes(failures, every_s=SLOW_S)
    assert delay_s(exits, 0.0) == restart.MAX_DELAY_S / 2
    assert delay_s(exits, ALMOST_ONE) == pytest.approx(restart.MAX_DELAY_S, rel=0.001)


def test_an_exit_after_a_healthy_run_counts_as_the_first() -> None:
    failing = crashes(5)
    exits = [*failing, failing[-1] + restart.HEALTHY_S]
    assert restart.decide(exits, exits[-1], 0.5) == Restart(restart.FIRST_DELAY_S)


def test_a_run_just_short_of_healthy_counts_on() -> None:
    failing = crashes(5)
    exits = [*failing, failing[-1] + restart.HEALTHY_S - 0.001]
    assert delay_s(exits) == pytest.approx(delay_s(crashes(6)))


def test_only_failures_since_the_last_healthy_run_count() -> None:
    before = crashes(4)
    after = [before[-1] + restart.HEALTHY_S + number for number in range(3)]
    assert delay_s(before + after) == pytest.approx(delay_s(crashes(3)))


def test_one_exit_fewer_than_a_crash_loop_is_restarted() -> None:
    exits = crashes(restart.LOOP_EXITS - 1)
    assert isinstance(restart.decide(exits, exits[-1], 0.5), Restart)


@pytest.mark.parametrize("surplus", [0, 1, 20])
def test_a_crash_loop_is_given_up_with_a_reason_for_people(surplus: int) -> None:
    exits = crashes(restart.LOOP_EXITS + surplus)
    assert restart.decide(exits, exits[-1], 0.5) == GiveUp(f"it ended {len(exits)} times within 120 s")


def test_exits_outside_the_window_are_no_part_of_a_crash_loop() -> None:
    old = crashes(20)
    now = old[-1] + restart.LOOP_WINDOW_S
    assert isinstance(restart.decide([*old, now], now, 0.5), Restart)


@pytest.mark.parametrize(("age_s", "outcome"), [(119.999, GiveUp), (120.0, Restart)])
def test_the_window_ends_exactly_where_it_says(age_s: float, outcome: type) -> None:
    now = 5000.0
    exits = [now - age_s, *(now - number for number in range(restart.LOOP_EXITS - 2, -1, -1))]
    assert len(exits) == restart.LOOP_EXITS
    assert isinstance(restart.decide(exits, now, 0.5), outcome)


@given(
    gaps_s=st.lists(st.floats(min_value=0.0, max_value=500.0), min_size=1, max_size=60),
    chance=st.floats(min_value=0.0, max_value=1.0, exclude_max=True),
)
def test_a_delay_is_bounded_and_only_a_crash_loop_is_given_up(gaps_s: list[float], chance: float) -> None:
    exits = [sum(gaps_s[:count]) for count in range(1, len(gaps_s) + 1)]
    now = exits[-1]
    recent = [at for at in exits if now - at < restart.LOOP_WINDOW_S]
    match restart.decide(exits, now, chance):
        case Restart(delay):
            assert len(recent) < restart.LOOP_EXITS
            assert 0 < delay <= restart.MAX_DELAY_S
        case GiveUp(reason):
            assert len(recent) >= restart.LOOP_EXITS
            assert str(len(recent)) in reason


AT_ONCE = Restart(restart.FIRST_DELAY_S)


def own(count: int, first_s: float = 1000.0, every_s: float = 1.0) -> list[End]:
    return [End(first_s + every_s * number) for number in range(count)]


def ours(count: int, first_s: float = 1000.5, every_s: float = 1.0) -> list[End]:
    return [End(first_s + every_s * number, ours=True) for number in range(count)]


def in_order(*ends: End) -> list[End]:
    return sorted(ends, key=lambda end: end.at_s)


RESETS: list[tuple[str, list[End], Restart | GiveUp]] = [
    ("one", ours(1), AT_ONCE),
    ("more_than_a_crash_loop", ours(100), AT_ONCE),
    ("after_many_crashes", [*own(restart.LOOP_EXITS - 1), End(1100.0, ours=True)], AT_ONCE),
    ("and_then_the_first_crash", [*ours(100), End(1200.0)], AT_ONCE),
    (
        "between_crashes_it_hides_none",
        in_order(*own(restart.LOOP_EXITS), *ours(3)),
        GiveUp("it ended 8 times within 120 s"),
    ),
    ("between_crashes_it_adds_none", in_order(*own(4), *ours(3)), restart.decide(crashes(4), 1003.0, 0.5)),
    ("healthy_runs_count_across_it", [End(1000.0), End(1030.0, ours=True), End(1061.0)], AT_ONCE),
]


@pytest.mark.parametrize(("ends", "decision"), [row[1:] for row in RESETS], ids=[row[0] for row in RESETS])
def test_an_end_of_ours_is_no_failure_of_the_process(ends: list[End], decision: Restart | GiveUp) -> None:
    assert restart.after(ends, ends[-1].at_s, 0.5) == decision


@given(
    gaps_s=st.lists(st.floats(min_value=0.0, max_value=500.0), min_size=1, max_size=60),
    chance=st.floats(min_value=0.0, max_value=1.0, exclude_max=True),
)
def test_without_an_end_of_ours_all_is_as_it_was(gaps_s: list[float], chance: float) -> None:
    exits = [sum(gaps_s[:count]) for count in range(1, len(gaps_s) + 1)]
    decided = restart.decide(exits, exits[-1], chance)
    assert restart.after([End(at_s) for at_s in exits], exits[-1], chance) == decided
