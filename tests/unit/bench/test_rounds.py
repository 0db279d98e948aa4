"""Turns are taken fairly, and what the pairs say is not moved by one bad turn."""

from __future__ import annotations

import itertools

import pytest

from rpcmesh.bench import rounds


class Turns:
    """Two contenders that note who was asked, and answer with how many were asked before."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def ours(self) -> float:
        return self._take("ours")

    async def rival(self) -> float:
        return self._take("rival")

    def _take(self, who: str) -> float:
        self.taken.append(who)
        return float(len(self.taken) - 1)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
async def test_each_has_one_unrecorded_turn_and_one_in_every_pair(count: int) -> None:
    turns = Turns()

    pairs = await rounds.alternate(turns.ours, turns.rival, count)

    assert len(pairs) == count
    assert turns.taken.count("ours") == turns.taken.count("rival") == count + 1
    assert set(turns.taken[:2]) == {"ours", "rival"}
    assert sorted(itertools.chain.from_iterable(pairs)) == [float(turn) for turn in range(2, 2 + 2 * count)]


async def test_who_begins_changes_with_every_pair() -> None:
    turns = Turns()

    await rounds.alternate(turns.ours, turns.rival, 4)

    began = turns.taken[2::2]
    assert began == ["rival", "ours", "rival", "ours"]


async def test_a_pair_is_ours_then_the_rivals_whoever_began() -> None:
    turns = Turns()

    pairs = await rounds.alternate(turns.ours, turns.rival, 2)

    # Turn 2 is the rival's and turn 3 ours; in the next pair turn 4 is ours.
    assert pairs == [(3.0, 2.0), (4.0, 5.0)]
    assert [turns.taken[int(turn)] for turn, _ in pairs] == ["ours", "ours"]


async def test_a_turn_that_fails_ends_the_measurement() -> None:
    turns = Turns()

    async def fails() -> float:
        raise OSError("no turn")

    with pytest.raises(OSError, match="no turn"):
        await rounds.alternate(turns.ours, fails, 3)


def test_medians_and_the_median_of_the_ratios() -> None:
    compared = rounds.compare("decode", "tokens/s", "stock", [(90.0, 100.0), (80.0, 100.0), (30.0, 30.0)])

    assert compared == rounds.Comparison(
        what="decode",
        unit="tokens/s",
        rival_name="stock",
        ours=80.0,
        rival=100.0,
        ratio=0.9,
        pairs=((90.0, 100.0), (80.0, 100.0), (30.0, 30.0)),
    )


def test_the_ratio_is_of_pairs_and_not_of_medians() -> None:
    """The machine is slow in some pairs. Within each pair ours is twice as fast, and no median may hide it."""
    compared = rounds.compare("", "", "", [(20.0, 10.0), (2.0, 1.0), (200.0, 100.0), (8.0, 4.0)])

    assert compared.ratio == 2.0
    assert (compared.ours, compared.rival) == (14.0, 7.0)
    skewed = rounds.compare("", "", "", [(10.0, 5.0), (1.0, 4.0), (3.0, 1.0)])
    assert skewed.ratio == 2.0
    assert skewed.ours / skewed.rival == 0.75


def test_one_pair_is_enough() -> None:
    compared = rounds.compare("", "", "", [(3.0, 4.0)])
    assert (compared.ours, compared.rival, compared.ratio) == (3.0, 4.0, 0.75)


def test_one_disturbed_turn_moves_nothing() -> None:
    quiet = [(9.0, 10.0)] * 4
    assert rounds.compare("", "", "", [*quiet, (0.01, 10.0)]).ratio == 0.9


@pytest.mark.parametrize(("share", "value"), [(0.5, 2.0), (0.95, 4.0), (1.0, 4.0), (0.01, 1.0)])
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    assert rounds.percentile((1.0, 2.0, 3.0, 4.0), share) == value
    assert rounds.percentile((), share) == 0
