"""From the engine's deltas to an answer's JSON, whole or as events, whatever the endpoint. No I/O."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol, TypeAlias

import msgspec
from msgspec import UnsetType

from rpcmesh.engine.messages import Delta, TokenLogprobs, Usage
from rpcmesh.gateway import sse

# Beside a text, where the client asked for its tokens.
TokenIds: TypeAlias = tuple[int, ...] | UnsetType

# What comes from the engine for one answer: a choice's number, and its next delta.
Choices: TypeAlias = AsyncIterator[tuple[int, Delta]]


class PromptDetails(msgspec.Struct, frozen=True):
    """``cached_tokens`` of the prompt were in the engine's KV cache already."""

    cached_tokens: int = 0


class UsageBody(msgspec.Struct, frozen=True):
    """Tokens; the prompt counts once, however many choices were made from it."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails()


class Said(msgspec.Struct, frozen=True):
    """Text of one choice, with the tokens that were sampled for it, seen or held back.

    ``logprobs``, where asked for, are those of the tokens that are text; ``offsets`` how many characters come before
    each of them in the choice.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    offsets: tuple[int, ...] = ()


class Whole(msgspec.Struct, frozen=True):
    """A choice that has ended."""

    said: Said
    finish_reason: str


class Reply(Protocol):
    """The JSON of one endpoint's answers. The chunk builders give one chunk each, without SSE framing."""

    @property
    def include_usage(self) -> bool: ...

    @property
    def token_ids(self) -> bool: ...

    def opening(self, index: int) -> bytes | None: ...

    def chunk(self, index: int, said: Said) -> bytes: ...

    def finish(self, index: int, reason: str) -> bytes: ...

    def usage(self, usage: UsageBody) -> bytes: ...

    def whole(self, choices: Sequence[Whole], usage: UsageBody) -> bytes: ...


class Outcome(msgspec.Struct, frozen=True):
    """How an answer ended: with several choices, their reasons in order, with commas."""

    finish_reason: str
    usage: UsageBody


class UnfinishedError(Exception):
    """The backend stopped without a finish reason: our own bug, of which the client learns nothing but a request id."""


class _Choice:
    """What is known of one choice while it comes."""

    def __init__(self) -> None:
        self.opened = False
        self.finish_reason: str | None = None
        self.usage = Usage(prompt_tokens=0, completion_tokens=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._n_chars = 0

    def took(self, delta: Delta) -> Said:
        self.finish_reason = delta.finish_reason
        self.usage = delta.usage or self.usage
        return Said(delta.text, delta.token_ids, delta.logprobs, tuple(self._offset(each) for each in delta.logprobs))

    def _offset(self, logprobs: TokenLogprobs) -> int:
        offset = self._n_chars
        self._n_chars += len(self._decoder.decode(logprobs.sampled.piece))
        return offset


def _outcome(choices: Sequence[_Choice]) -> Outcome | None:
    """None while one of them goes on."""
    reasons = [choice.finish_reason for choice in choices if choice.finish_reason is not None]
    if len(reasons) < len(choices):
        return None
    usages = [choice.usage for choice in choices]
    prompt, completion = usages[0].prompt_tokens, sum(usage.completion_tokens for usage in usages)
    # One choice paid for the prompt; the others found it in the cache.
    cached = PromptDetails(min(usage.cached_tokens for usage in usages))
    return Outcome(",".join(reasons), UsageBody(prompt, completion, prompt + completion, cached))


async def collect(deltas: Choices, n: int) -> tuple[tuple[Whole, ...], Outcome]:
    """The ``n`` whole choices and how they ended."""
    choices = [_Choice() for _ in range(n)]
    parts: list[list[Said]] = [[] for _ in range(n)]
    async for index, delta in deltas:
        parts[index].append(choices[index].took(delta))
    outcome = _outcome(choices)
    if outcome is None:
        raise UnfinishedError
    reasons = (choice.finish_reason or "" for choice in choices)
    return tuple(Whole(_joined(said), reason) for said, reason in zip(parts, reasons, strict=True)), outcome


def _joined(parts: Sequence[Said]) -> Said:
    return Said(
        "".join(part.text for part in parts),
        tuple(token for part in parts for token in part.token_ids),
        tuple(each for part in parts for each in part.logprobs),
        tuple(offset for part in parts for offset in part.offsets),
    )


async def events(deltas: Choices, n: int, reply: Reply, on_end: Callable[[Outcome], None]) -> AsyncIterator[bytes]:
    """The answer as server-sent events: a delta's events, and those that open and close the answer, in one piece.

    A choice's opening waits for its first delta, so that an error before it can still be an HTTP status. Tokens and
    log probabilities leave with their delta, also where its text is held back.
    """
    choices = [_Choice() for _ in range(n)]
    outcome: Outcome | None = None
    async for index, delta in deltas:
        choice = choices[index]
        piece = b"" if choice.opened else _opening(reply, index)
        choice.opened = True
        said = choice.took(delta)
        if said.text or said.logprobs or (reply.token_ids and said.token_ids):
            piece += sse.frame(reply.chunk(index, said))
        if choice.finish_reason is not None:
            piece += sse.frame(reply.finish(index, choice.finish_reason))
            outcome = _outcome(choices)
        if outcome is not None:
            on_end(outcome)
            piece += (sse.frame(reply.usage(outcome.usage)) if reply.include_usage else b"") + sse.DONE
        if piece:
            yield piece
    if outcome is None:
        raise UnfinishedError


def _opening(reply: Reply, index: int) -> bytes:
    opening = reply.opening(index)
    return b"" if opening is None else sse.frame(opening)
