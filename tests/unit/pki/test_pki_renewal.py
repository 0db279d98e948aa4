"""When leaves are renewed."""

from __future__ import annotations

import pytest

from rpcmesh.pki import renewal


@pytest.mark.parametrize(("jitter01", "due"), [(0.0, 145.0), (0.5, 150.0), (1.0, 155.0)])
def test_renewal_is_due_around_half_life(jitter01: float, due: float) -> None:
    assert renewal.due_at(100.0, 200.0, jitter01) == pytest.approx(due)


def test_due_is_a_moment_from_which_on_it_stays_due() -> None:
    due = renewal.due_at(100.0, 200.0, 0.3)
    asked = [renewal.is_due(100.0, 200.0, 0.3, at) for at in (100.0, due - 0.001, due, 200.0, 1e9)]
    assert asked == [False, False, True, True, True]


@pytest.mark.parametrize(("serial", "jitter01"), [("0", 0.0), ("80000000", 0.5), ("abcd80000000", 0.5)])
def test_the_jitter_belongs_to_the_serial(serial: str, jitter01: float) -> None:
    assert renewal.jitter_of(serial) == jitter01


def test_the_jitter_stays_below_one() -> None:
    assert 0.99 < renewal.jitter_of("f" * 40) < 1.0
