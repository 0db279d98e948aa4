"""In pieces of which size a batch goes through the workers, and in which calls."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.engine.messages import DeviceSpec, LoadSpec
from rpcmesh.engine.scheduler import Chunk
from rpcmesh.engine.ubatch import PIPELINED, SMALL, calls, full_piece, small_piece, ubatch_size


def spec(workers: int, n_seq_max: int = 8, n_ubatch: int = 0, n_batch: int = 512) -> LoadSpec:
    devices = tuple(DeviceSpec(f"/run/{number}:1", f"node-{number}", "w0") for number in range(workers))
    return LoadSpec("small", "/m.gguf", devices, n_batch=n_batch, n_seq_max=n_seq_max, n_ubatch=n_ubatch)


@pytest.mark.parametrize(
    ("workers", "n_seq_max", "n_ubatch", "size"),
    [
        # Nobody waits for anybody: one piece.
        (0, 8, 0, 512),
        (1, 8, 0, 512),
        (2, 8, 0, PIPELINED),
        (5, 8, 0, PIPELINED),
        # One token of every sequence stays together.
        (2, 80, 0, 80),
        (2, 64, 16, 64),
        # As the admin says, as far as a batch reaches.
        (2, 8, 256, 256),
        (0, 8, 256, 256),
        (2, 8, 4096, 512),
    ],
)
def test_pieces_are_small_where_several_workers_can_share_them(
    workers: int, n_seq_max: int, n_ubatch: int, size: int
) -> None:
    assert ubatch_size(spec(workers, n_seq_max, n_ubatch)) == size


def test_a_full_piece_is_small_also_where_a_batch_is_one_piece() -> None:
    assert full_piece(spec(0)) == full_piece(spec(1)) == full_piece(spec(2)) == PIPELINED
    assert full_piece(spec(2, n_ubatch=256)) == 256
    assert full_piece(spec(1, n_batch=32)) == full_piece(spec(2, n_batch=32)) == 32


def test_small_pieces_are_for_several_workers_whose_pieces_nobody_chose() -> None:
    assert small_piece(spec(2)) == SMALL
    assert small_piece(spec(0)) == small_piece(spec(1)) == small_piece(spec(2, n_ubatch=512)) == 0


def prompt(n_tokens: int, name: str = "p", *, position: int = 0, whole: bool = True) -> Chunk:
    return Chunk(name, 0, position, range(n_tokens), samples=whole)


def decoding(number: int) -> Chunk:
    return Chunk(f"d{number}", 1 + number, 100, (number,), samples=True)


def lengths(asked: tuple[tuple[Chunk, ...], ...]) -> list[int]:
    return [sum(len(chunk.tokens) for chunk in call) for call in asked]


@pytest.mark.parametrize(
    ("n_prompt", "n_decoding", "meant"),
    [
        # A single call, where nothing would overlap.
        (0, 16, [16]),
        (16, 0, [16]),
        (9, 7, [16]),
        (0, 40, [40]),
        # What is over comes first, the logits last.
        (17, 0, [1, 16]),
        (45, 15, [12, 16, 16, 16]),
        (64, 0, [16, 16, 16, 16]),
        (30, 20, [13, 16, 21]),
        # In whole pieces attention is cheaper.
        (65, 0, [65]),
        (500, 12, [512]),
    ],
)
def test_a_short_batch_goes_in_small_calls(n_prompt: int, n_decoding: int, meant: list[int]) -> None:
    chunks = [prompt(n_prompt)] * (n_prompt > 0) + [decoding(number) for number in range(n_decoding)]

    assert lengths(calls(chunks, SMALL)) == meant


def test_without_small_pieces_there_is_one_call() -> None:
    chunks = (prompt(45), decoding(0))

    assert calls(chunks, 0) == (chunks,)


def test_a_prompt_that_goes_on_in_the_next_batch_is_cut_like_any_other() -> None:
    asked = calls([prompt(40, position=200, whole=False)], SMALL)

    assert [(chunk.position, len(chunk.tokens), chunk.samples) for call in asked for chunk in call] == [
        (200, 8, False),
        (208, 16, False),
        (224, 16, False),
    ]


chunks_of_a_batch = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 900), st.booleans()), min_size=1, max_size=20)


@given(chunks_of_a_batch, st.sampled_from([0, 1, 4, SMALL]))
def test_calls_hold_each_token_once_in_its_order_and_all_logits_in_the_last(
    shapes: list[tuple[int, int, bool]], n_small: int
) -> None:
    chunks = [
        Chunk(f"r{slot}", slot, position, range(slot * 1000, slot * 1000 + n_tokens), samples)
        for slot, (n_tokens, position, samples) in enumerate(shapes)
    ]

    asked = calls(chunks, n_small)

    for chunk in chunks:
        parts = [part for call in asked for part in call if part.id == chunk.id]
        assert list(itertools.chain.from_iterable(part.tokens for part in parts)) == list(chunk.tokens)
        ends = [chunk.position, *(part.position + len(part.tokens) for part in parts)]
        assert [part.position for part in parts] == ends[:-1]
        assert {part.slot for part in parts} == {chunk.slot}
        assert [part.samples for part in parts] == [False] * (len(parts) - 1) + [chunk.samples]
    assert all(length > 0 for length in lengths(asked))
    assert not any(part.samples for call in asked[:-1] for part in call)
    assert [part.id for part in asked[-1] if part.samples] == [chunk.id for chunk in chunks if chunk.samples]
