"""The recordings' format: what was written is read again, anything else is refused, and only repetition is left out."""

from __future__ import annotations

import pytest
from recordings import recording
from recordings.recording import SET_HEAD_BYTES, Command, Entry

HELLO = recording.request(Command.HELLO, 24, bytes(24))
GREETED = recording.reply(Command.HELLO, b"\x07" + bytes(27))
INPUTS = recording.request(Command.SET_TENSOR, 4096, bytes(4096))
GRAPH = recording.request(Command.GRAPH_COMPUTE, 316, b"g" * 316)
AGAIN = recording.request(Command.GRAPH_RECOMPUTE, 4, bytes(4))
LOGITS = recording.request(Command.GET_TENSOR, 312, b"l" * 312)
READ = recording.reply(Command.GET_TENSOR, b"secret")
FREE = recording.request(Command.FREE_BUFFER, 8, bytes(8))
SESSION = [recording.session("llama/0"), HELLO, GREETED, INPUTS, GRAPH, LOGITS, READ]


def test_what_was_written_is_read_again() -> None:
    assert list(recording.parse(recording.dump(SESSION))) == SESSION


def test_the_content_of_tensors_is_not_kept() -> None:
    assert (len(INPUTS.kept), INPUTS.length) == (SET_HEAD_BYTES, 4096)
    assert (READ.kept, READ.length) == (b"", 6)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"RPCREC\x02\n",
        recording.dump(SESSION)[:-1],
        recording.dump([HELLO])[:-25],
        recording.dump([Entry(recording.Kind.REQUEST, 14, 3, b"more")]),
        recording.dump([HELLO]).replace(b"\n\x01", b"\n\x03"),
    ],
    ids=["nothing", "other_version", "cut_short", "half_an_entry", "more_kept_than_sent", "unknown_kind"],
)
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        list(recording.parse(content))


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ([INPUTS, GRAPH, LOGITS, READ, INPUTS, GRAPH, LOGITS, READ], [INPUTS, GRAPH, LOGITS, READ]),
        ([GRAPH, AGAIN, AGAIN, AGAIN], [GRAPH, AGAIN]),
        # The worker has forgotten its graphs.
        ([GRAPH, AGAIN, FREE, GRAPH, AGAIN], [GRAPH, AGAIN, FREE, GRAPH, AGAIN]),
        ([FREE, FREE], [FREE, FREE]),
        ([recording.session("a"), HELLO, GREETED, recording.session("b"), HELLO, GREETED],) * 2,
    ],
    ids=["next_token", "recompute", "freed", "each_free", "each_session"],
)
def test_only_what_says_the_same_again_is_left_out(said: list[Entry], kept: list[Entry]) -> None:
    assert list(recording.distinct(said)) == kept
