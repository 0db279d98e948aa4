"""What a stream's times amount to, with a prompt beside it and without."""

from __future__ import annotations

import pytest

from rpcmesh.bench.fairness import Pair, Turn, summary, turn


def test_a_turn_is_the_pauses_between_its_tokens() -> None:
    seen = turn([0.0, 0.010, 0.020, 0.050], first_token_s=1.5)
    assert (seen.tokens, seen.first_token_s) == (3, 1.5)
    assert (seen.p50_ms, seen.p95_ms, seen.max_ms) == pytest.approx((10, 30, 30))


def test_the_ratio_is_the_median_of_the_pairs_ratios() -> None:
    pairs = [
        Pair(alone=Turn(100, 10, alone_ms, 40), beside=Turn(200, 15, beside_ms, 60, first_token_s))
        for alone_ms, beside_ms, first_token_s in ((10, 15, 1.0), (20, 24, 2.0), (40, 80, 9.0))
    ]
    found = summary(4000, pairs)
    assert found.p95_ratio == pytest.approx(1.5)
    assert (found.alone.p95_ms, found.beside.p95_ms, found.beside.first_token_s) == (20, 24, 2.0)
    assert found.alone.first_token_s is None
