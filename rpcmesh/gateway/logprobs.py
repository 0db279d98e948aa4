"""Log probabilities in the two shapes that OpenAI's endpoints give them. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rpcmesh.engine.messages import Candidate, TokenLogprobs

# What OpenAI sends for less than any number that JSON can hold.
LOWEST = -9999.0


class TopLogprob(msgspec.Struct, frozen=True):
    """``bytes`` are the token's own: its text alone may be half a code point, which JSON cannot hold."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


class ContentLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: tuple[TopLogprob, ...]


class ChatLogprobs(msgspec.Struct, frozen=True):
    content: tuple[ContentLogprob, ...]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """``text_offset`` counts characters of the choice's own text; ``top_logprobs`` always has the sampled token too."""

    tokens: tuple[str, ...]
    token_logprobs: tuple[float, ...]
    top_logprobs: tuple[dict[str, float], ...]
    text_offset: tuple[int, ...]


def chat_logprobs(tokens: Sequence[TokenLogprobs]) -> ChatLogprobs:
    return ChatLogprobs(tuple(_content(each) for each in tokens))


def completion_logprobs(tokens: Sequence[TokenLogprobs], offsets: Sequence[int]) -> CompletionLogprobs:
    return CompletionLogprobs(
        tokens=tuple(_name(each.sampled) for each in tokens),
        token_logprobs=tuple(_number(each.sampled) for each in tokens),
        top_logprobs=tuple({_name(one): _number(one) for one in (*each.best, each.sampled)} for each in tokens),
        text_offset=tuple(offsets),
    )


def _content(each: TokenLogprobs) -> ContentLogprob:
    return ContentLogprob(*_row(each.sampled), tuple(TopLogprob(*_row(one)) for one in each.best))


def _row(one: Candidate) -> tuple[str, float, tuple[int, ...]]:
    return one.piece.decode(errors="replace"), _number(one), tuple(one.piece)


def _number(one: Candidate) -> float:
    return max(one.logprob, LOWEST)


def _name(one: Candidate) -> str:
    """A key of its own for each token: one that is no text by itself is named by its bytes, as OpenAI does."""
    try:
        return one.piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in one.piece)
