"""What is saved of a sequence, when, and whether it pays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.engine.messages import Piece
from rpcmesh.engine.snapshots import PIECE_TOKENS, PrefillWatch, Rate, next_piece, unusable, worth

FAST = Rate(10_000, 1.0)


@pytest.mark.parametrize(
    ("n_saved", "n_cached", "n_prompt", "due"),
    [
        (0, 511, 511, None),  # too short
        (0, 512, 600, None),  # still being prefilled
        (0, 600, 600, (0, 128)),
        (128, 601, 600, (128, 256)),
        (512, 604, 600, (512, 604)),  # the rest of the prompt, and what followed it meanwhile
        (604, 700, 600, None),  # what is generated waits for a full piece
        (604, 732, 600, (604, 732)),
        (0, 512, 20, (0, 128)),  # an answer that grew long itself
        (600, 600, 600, None),
    ],
)
def test_what_is_saved_next(n_saved: int, n_cached: int, n_prompt: int, due: tuple[int, int] | None) -> None:
    found = next_piece(n_saved=n_saved, n_cached=n_cached, n_prompt=n_prompt, min_tokens=512, whole=False)

    assert found == due


@pytest.mark.parametrize(("n_saved", "due"), [(0, (0, 601)), (601, None)])
def test_a_state_that_cannot_be_cut_is_saved_once(n_saved: int, due: tuple[int, int] | None) -> None:
    assert next_piece(n_saved=n_saved, n_cached=601, n_prompt=600, min_tokens=512, whole=True) == due


@given(st.integers(1, 3000), st.lists(st.integers(1, 300), max_size=20))
def test_pieces_follow_one_another_and_leave_less_than_one_unsaved(n_prompt: int, decoded: list[int]) -> None:
    n_saved, n_cached = 0, n_prompt
    for more in [0, *decoded]:
        n_cached += more
        while due := next_piece(n_saved=n_saved, n_cached=n_cached, n_prompt=n_prompt, min_tokens=1, whole=False):
            start, stop = due
            assert start == n_saved < stop <= n_cached
            assert stop - start <= PIECE_TOKENS
            n_saved = stop
        assert n_cached - n_saved < PIECE_TOKENS
        assert n_saved >= n_prompt


@pytest.mark.parametrize(
    ("n_tokens", "prefill", "saving", "pays"),
    [
        (1000, Rate(), FAST, True),  # nothing known yet
        (1000, FAST, Rate(), True),
        (1000, Rate(1000, 1.0), FAST, True),  # ten times as fast
        (1000, Rate(1000, 1.0), Rate(4000, 1.0), True),
        (1000, Rate(1000, 1.0), Rate(3000, 1.0), False),  # a third of the prefill is too much
        (50, Rate(1000, 1.0), FAST, False),  # nobody feels 45 ms
        (1000, Rate(20_000, 1.0), Rate(1e6, 1.0), False),
    ],
)
def test_saving_pays_where_it_is_much_faster_than_prefilling(
    n_tokens: int, prefill: Rate, saving: Rate, pays: bool
) -> None:
    assert worth(n_tokens, prefill, saving) is pays


def test_a_rate_follows_a_change() -> None:
    rate = Rate()
    for _ in range(100):
        rate = rate.plus(1000, 1.0)
    for _ in range(20):
        rate = rate.plus(1000, 10.0)

    assert rate.time_of(1000) == pytest.approx(10.0, rel=0.05)


def piece(start: int, stop: int, offset: int = 0, n_bytes: int = 10) -> Piece:
    return Piece(start, stop, offset, n_bytes, b"")


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([piece(0, 128), piece(128, 200, 10)], None),
        ([], "0 tokens do not begin"),
        ([piece(1, 128)], "tokens 1 to 128 do not follow 0"),
        ([piece(0, 128), piece(256, 300, 10)], "tokens 256 to 300 do not follow 128"),
        ([piece(0, 0)], "tokens 0 to 0 do not follow 0"),
        ([piece(0, 128, offset=11)], "10 bytes at 11 are not in a file of 20"),
        ([piece(0, 128, offset=-1)], "10 bytes at -1 are not"),
        ([piece(0, 128, n_bytes=0)], "0 bytes at 0 are not"),
        ([piece(0, 300)], "300 tokens do not begin a sequence of 300"),  # one is left to decode
    ],
)
def test_a_snapshot_is_looked_at_before_it_is_used(pieces: list[Piece], reason: str | None) -> None:
    found = unusable(pieces, 300, 20)

    assert (found or "").startswith(reason or "") if reason else found is None


def test_a_prefill_is_timed_up_to_its_first_logits() -> None:
    watch = PrefillWatch()

    assert watch.took(n_prefill=512, logits=False, began=1.0, ended=1.1) is None
    assert watch.took(n_prefill=512, logits=False, began=1.1, ended=1.2) is None
    assert watch.took(n_prefill=76, logits=True, began=1.2, ended=3.2) == (1100, pytest.approx(2.2))
    assert watch.took(n_prefill=0, logits=True, began=3.2, ended=3.3) is None
    assert watch.took(n_prefill=40, logits=True, began=4.0, ended=4.5) == (40, 0.5)
