"""In pieces of which size a batch goes through the model, and in which calls of llama.cpp. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rpcmesh.engine.messages import LoadSpec
from rpcmesh.engine.scheduler import Chunk

# Small enough that a prompt is several pieces. llama.cpp's attention on a CPU shares work from so many tokens on.
PIPELINED = 64
# A batch that would be one such piece goes in smaller ones. Fewer tokens than these share too little work.
SMALL = 16


def ubatch_size(spec: LoadSpec) -> int:
    """Tokens that go through the model at a time, llama.cpp's ``n_ubatch``.

    With layers on several workers one of them computes while the others wait. llama.cpp hands them the next piece of a
    batch meanwhile, if there is one. Decoding stays in one piece, which reuses its graph.
    """
    n_batch = max(spec.n_batch, spec.n_seq_max)
    wanted = spec.n_ubatch or (PIPELINED if len(spec.devices) > 1 else n_batch)
    return min(max(wanted, spec.n_seq_max), n_batch)


def full_piece(spec: LoadSpec) -> int:
    """Batches of a multiple of so many tokens leave no work unshared."""
    return ubatch_size(spec) if len(spec.devices) > 1 else min(PIPELINED, max(spec.n_batch, spec.n_seq_max))


def small_piece(spec: LoadSpec) -> int:
    """Tokens of a piece of a batch that is short; 0 where nothing is gained by such."""
    return SMALL if len(spec.devices) > 1 and not spec.n_ubatch else 0


def calls(chunks: Sequence[Chunk], n_small: int) -> tuple[tuple[Chunk, ...], ...]:
    """What llama.cpp is asked to decode, call after call: ``n_small`` tokens each, or all at once where that is better.

    It keeps the logits of the last call only. That one has all tokens whose logits are wanted, in the order of
    ``chunks``, and is longer than the others when these are many. The first is what the others leave.
    """
    n_tokens = sum(len(chunk.tokens) for chunk in chunks)
    n_sampled = sum(chunk.samples for chunk in chunks)
    if not n_small or not max(n_small, n_sampled) < n_tokens <= PIPELINED:
        return (tuple(chunks),)
    # Room in the last call for more than the tokens that have to be there.
    n_spare = max(0, n_small - n_sampled)
    heads: list[Chunk] = []
    last: list[Chunk] = []
    for chunk in reversed(chunks):
        n_tail = min(len(chunk.tokens), chunk.samples + n_spare)
        n_spare -= n_tail - chunk.samples
        head, tail = _cut(chunk, len(chunk.tokens) - n_tail)
        heads += [head] if head.tokens else []
        last += [tail] if tail.tokens else []
    return (*_pieces(heads[::-1], n_small), tuple(last[::-1]))


def _pieces(chunks: Sequence[Chunk], n_piece: int) -> Iterator[tuple[Chunk, ...]]:
    piece: list[Chunk] = []
    room = sum(len(chunk.tokens) for chunk in chunks) % n_piece or n_piece
    for chunk in chunks:
        rest = chunk
        while rest.tokens:
            taken, rest = _cut(rest, min(room, len(rest.tokens)))
            piece.append(taken)
            room -= len(taken.tokens)
            if room == 0:
                yield tuple(piece)
                piece, room = [], n_piece


def _cut(chunk: Chunk, n_first: int) -> tuple[Chunk, Chunk]:
    """Its first tokens, which want no logits, and the rest."""
    return (
        replace(chunk, tokens=chunk.tokens[:n_first], samples=False),
        replace(chunk, position=chunk.position + n_first, tokens=chunk.tokens[n_first:]),
    )
