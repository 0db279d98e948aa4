"""Which texts are embedded together, and in whose turn."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.engine.embedding import Embedding
from rpcmesh.engine.messages import Embedded, Failure
from rpcmesh.engine.scheduler import Limits
from rpcmesh.errors import RpcmeshError

LIMITS = Limits(n_ctx=9, n_seq_max=3, n_batch=8)


def lengths(texts: Sequence[Sequence[int]]) -> list[bytes]:
    """Stands in for a model: a text's vector is its length."""
    return [bytes([len(tokens)]) for tokens in texts]


def text(n_tokens: int) -> list[int]:
    return [1] * n_tokens


def test_a_batch_takes_as_many_texts_as_fit_one_of_each_request_in_turn() -> None:
    embedding = Embedding(LIMITS, lengths)
    embedding.submit("long", [text(3), text(3), text(3)])
    embedding.submit("short", [text(1)])

    steps = []
    while not embedding.idle:
        steps.append([(event.id, event.n_tokens) for event in embedding.step() if isinstance(event, Embedded)])

    assert steps == [[("long", 3), ("short", 1), ("long", 3)], [("long", 3)]]


def test_a_text_that_fills_the_batch_goes_alone() -> None:
    embedding = Embedding(LIMITS, lengths)
    embedding.submit("a", [text(8)])
    embedding.submit("b", [text(1)])
    assert [len(embedding.next_batch()), len(embedding.next_batch())] == [1, 1]


def test_a_dropped_request_is_not_embedded() -> None:
    embedding = Embedding(LIMITS, lengths)
    embedding.submit("a", [text(8), text(8)])
    embedding.submit("b", [text(2)])
    embedding.step()
    embedding.drop("a")
    assert embedding.step() == [Embedded("b", b"\x02", 2)]
    assert embedding.idle


def test_a_batch_that_fails_fails_its_requests_and_no_others() -> None:
    def broken(_texts: Sequence[Sequence[int]]) -> list[bytes]:
        raise RpcmeshError("llama_encode of 8 tokens returned -1")

    embedding = Embedding(LIMITS, broken)
    embedding.submit("a", [text(4), text(4)])
    embedding.submit("b", [text(8)])
    assert embedding.step() == [Failure("a", "engine_error", "llama_encode of 8 tokens returned -1")]
    assert [request_id for request_id, _ in embedding.next_batch()] == ["b"]


@given(st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=5), max_size=5))
def test_each_text_gets_its_vector_in_its_request_s_order(requests: list[list[int]]) -> None:
    embedding = Embedding(LIMITS, lengths)
    for number, inputs in enumerate(requests):
        embedding.submit(str(number), [text(n_tokens) for n_tokens in inputs])

    got: dict[str, list[int]] = {str(number): [] for number in range(len(requests))}
    while not embedding.idle:
        events = embedding.step()
        assert 0 < len(events) <= LIMITS.n_seq_max
        for event in events:
            assert isinstance(event, Embedded)
            got[event.id].append(event.vector[0])

    assert [got[str(number)] for number in range(len(requests))] == requests
