"""Text comes out whole and in order, never holds a part of a stop string, and does not depend on the pieces."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.engine.text import TextAssembler


def assemble(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[str, bool]:
    assembler = TextAssembler(stop)
    text = "".join(assembler.push(piece) for piece in pieces)
    return text + assembler.finish(), assembler.stopped


def every_split(raw: bytes) -> list[list[bytes]]:
    """All ways to cut ``raw`` into up to four pieces, and the one into single bytes."""
    cuts = [cut for n in range(4) for cut in combinations(range(1, len(raw)), n)]
    splits = [[raw[a:b] for a, b in zip((0, *cut), (*cut, len(raw)), strict=True)] for cut in cuts]
    return [*splits, [raw[at : at + 1] for at in range(len(raw))]]


def test_a_code_point_is_never_split() -> None:
    for pieces in every_split("né 🎉 日".encode()):
        assembler = TextAssembler()
        emitted = [assembler.push(piece) for piece in pieces]
        assert "".join(emitted) == "né 🎉 日"
        assert "\ufffd" not in "".join(emitted)
        assert assembler.finish() == ""


def test_half_a_code_point_is_held_back_until_the_end() -> None:
    assembler = TextAssembler()
    assert assembler.push("a🎉".encode()[:3]) == "a"
    assert assembler.finish() == "\ufffd"


def test_bytes_that_are_no_utf8_become_replacement_characters() -> None:
    for pieces in every_split(b"a\xffb\x80c"):
        assert assemble(pieces) == ("a\ufffdb\ufffdc", False)


@pytest.mark.parametrize(
    ("text", "stop", "expected", "stopped"),
    [
        ("one\ntwo", ("\n",), "one", True),
        ("say <|end|> now", ("<|end|>",), "say ", True),
        ("say <|end| now", ("<|end|>",), "say <|end| now", False),
        ("aaab", ("aab",), "a", True),
        ("stop at the end", ("the end",), "stop at ", True),
        ("日本🎉語", ("🎉",), "日本", True),
        # The stop string that is complete first wins, then the longest: whatever the pieces are.
        ("abcd", ("abcd", "bc"), "a", True),
        ("xabc", ("bc", "abc"), "x", True),
        ("END", ("END",), "", True),
        ("EN", ("END",), "EN", False),
    ],
)
def test_stop_strings(text: str, stop: tuple[str, ...], expected: str, stopped: bool) -> None:
    for pieces in every_split(text.encode()):
        assert assemble(pieces, stop) == (expected, stopped)


def test_what_could_become_a_stop_string_is_held_back() -> None:
    assembler = TextAssembler(("STOP",))
    assert assembler.push(b"go ST") == "go "
    assert assembler.push(b"A") == "STA"
    assert assembler.push(b"STO") == ""
    assert assembler.push(b"P and more") == ""
    assert assembler.stopped
    assert assembler.push(b"more") == ""
    assert assembler.finish() == ""


alphabet = st.text(alphabet="abé🎉", max_size=12)


@given(text=alphabet, stop=st.lists(st.text(alphabet="abé🎉", min_size=1, max_size=4), max_size=3), data=st.data())
def test_the_pieces_never_matter(text: str, stop: list[str], data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)))))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]

    emitted, stopped = assemble(pieces, tuple(stop))

    assert (emitted, stopped) == assemble([raw[at : at + 1] for at in range(len(raw))], tuple(stop))
    assert stopped == any(one in text for one in stop)
    assert text.startswith(emitted)
    assert all(one not in emitted for one in stop)
    if not stopped:
        assert emitted == text
