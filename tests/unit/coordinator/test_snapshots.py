"""What engines saved is kept while its answer is open, within the limit, and never longer."""

from __future__ import annotations

import os

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.coordinator.snapshots import Snapshots, room
from rpcmesh.engine.file_wire import nameless_file
from rpcmesh.engine.messages import GenerateRequest, Piece, Restored, Saved, Snapshot, TextPrompt

LIMIT = 100


def saved(request_id: str, start: int = 0, n_bytes: int = 40) -> Saved:
    return Saved(request_id, "model", Piece(start, start + 10, start, n_bytes, b"digest"), seconds=0.1)


def asked(request_id: str) -> GenerateRequest:
    return GenerateRequest(request_id, TextPrompt("once"))


@pytest.mark.parametrize(
    ("held", "request_id", "n_bytes", "give_way"),
    [
        ({}, "a", 100, ()),
        ({}, "a", 101, None),  # alone, and too large
        ({"a": 60}, "a", 40, ()),
        ({"a": 60}, "a", 41, None),
        ({"a": 60, "b": 40}, "b", 1, ("a",)),
        ({"a": 60, "b": 40}, "a", 1, None),  # the older one does not drive the younger one out
        ({"a": 30, "b": 30, "c": 30}, "d", 60, ("a", "b")),
        ({"a": 30, "b": 30, "c": 30}, "b", 60, None),  # even without a there is no room
    ],
)
def test_older_answers_give_way_to_younger_ones(
    held: dict[str, int], request_id: str, n_bytes: int, give_way: tuple[str, ...] | None
) -> None:
    assert room(held, request_id, n_bytes, LIMIT) == give_way


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 60)), max_size=40))
def test_the_limit_holds_whatever_is_saved(pieces: list[tuple[str, int]]) -> None:
    held: dict[str, int] = {}
    for request_id, n_bytes in pieces:
        give_way = room(held, request_id, n_bytes, LIMIT)
        if give_way is not None:
            assert request_id not in give_way
            held = {other: size for other, size in held.items() if other not in give_way}
            held[request_id] = held.get(request_id, 0) + n_bytes
        assert sum(held.values()) <= LIMIT


def test_the_next_engine_gets_all_pieces_and_their_file() -> None:
    snapshots = Snapshots(LIMIT, lambda: None)
    file = nameless_file("")
    with snapshots.while_open("a"):
        assert snapshots.beside(asked("a")) == (asked("a"), None)
        assert snapshots.saved(saved("a"), file) == ()
        assert snapshots.saved(saved("a", 10), None) == ()

        request, at = snapshots.beside(asked("a"))

    assert at == file
    assert request.snapshot == Snapshot("model", (saved("a").piece, saved("a", 10).piece))


def test_a_file_is_closed_with_its_answer() -> None:
    snapshots = Snapshots(LIMIT, lambda: None)
    before = psutil.Process().num_fds()

    with snapshots.while_open("a"):
        snapshots.saved(saved("a"), nameless_file(""))
    snapshots.saved(saved("a", 10), None)  # was under way
    snapshots.saved(saved("late"), nameless_file(""))

    assert psutil.Process().num_fds() == before
    assert snapshots.n_bytes == 0
    assert snapshots.beside(asked("a")) == (asked("a"), None)


def test_who_gives_way_is_closed_and_saved_no_more() -> None:
    snapshots = Snapshots(LIMIT, lambda: None)
    with snapshots.while_open("a"), snapshots.while_open("b"):
        first = nameless_file("")
        snapshots.saved(saved("a", n_bytes=80), first)

        stop = snapshots.saved(saved("b"), nameless_file(""))

        assert stop == ("a",)
        assert snapshots.beside(asked("a")) == (asked("a"), None)
        assert snapshots.n_bytes == 40
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(first)


def test_of_an_answer_that_is_too_long_the_beginning_is_kept() -> None:
    snapshots = Snapshots(LIMIT, lambda: None)
    with snapshots.while_open("a"):
        snapshots.saved(saved("a", n_bytes=80), nameless_file(""))

        stop = snapshots.saved(saved("a", 10), None)

        assert stop == ("a",)
        kept = snapshots.beside(asked("a"))[0].snapshot
        assert kept is not None
        assert [piece.stop for piece in kept.pieces] == [10]


def test_an_engine_that_begins_anew_replaces_what_there_was() -> None:
    snapshots = Snapshots(LIMIT, lambda: None)
    with snapshots.while_open("a"):
        snapshots.saved(saved("a", n_bytes=80), nameless_file(""))
        again = nameless_file("")

        assert snapshots.saved(saved("a", n_bytes=60), again) == ()

        assert snapshots.beside(asked("a"))[1] == again
        assert snapshots.n_bytes == 60


def test_only_a_snapshot_that_was_of_use_counts_as_restored() -> None:
    told: list[str] = []
    snapshots = Snapshots(LIMIT, lambda: told.append("restored"))

    snapshots.restored(Restored("a", 0, 0.0))
    assert told == []
    snapshots.restored(Restored("a", 10, 0.1))
    assert told == ["restored"]
