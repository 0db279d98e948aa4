"""From the engine's deltas to an answer's JSON, whole or as events, whatever the endpoint. No I/O."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol, TypeAlias

import msgspec
from msgspec import UnsetType

from rpcmesh.engine.messages import Delta, Usage
from rpcmesh.gateway import sse

# Beside a text, where the client asked for its tokens.
TokenIds: TypeAlias = tuple[int, ...] | UnsetType


class UsageBody(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Reply(Protocol):
    """The JSON of one endpoint's answers. The chunk builders give one chunk each, without SSE framing."""

    @property
    def include_usage(self) -> bool: ...

    @property
    def token_ids(self) -> bool: ...

    def opening(self) -> bytes | None: ...

    def text(self, text: str, token_ids: tuple[int, ...]) -> bytes: ...

    def finish(self, reason: str) -> bytes: ...

    def usage(self, usage: UsageBody) -> bytes: ...

    def whole(self, text: str, token_ids: tuple[int, ...], reason: str, usage: UsageBody) -> bytes: ...


class Outcome(msgspec.Struct, frozen=True):
    """How an answer ended."""

    finish_reason: str
    usage: UsageBody


def ending(delta: Delta) -> Outcome | None:
    """The outcome that the answer's last delta carries; None for any other delta."""
    if delta.finish_reason is None:
        return None
    usage = delta.usage or Usage(prompt_tokens=0, completion_tokens=0)
    total = usage.prompt_tokens + usage.completion_tokens
    return Outcome(delta.finish_reason, UsageBody(usage.prompt_tokens, usage.completion_tokens, total))


class UnfinishedError(Exception):
    """The backend stopped without a finish reason: our own bug, of which the client learns nothing but a request id."""


class Whole(msgspec.Struct, frozen=True):
    """An answer that has ended."""

    text: str
    token_ids: tuple[int, ...]
    outcome: Outcome


async def collect(deltas: AsyncIterator[Delta]) -> Whole:
    """The whole answer and how it ended."""
    texts: list[str] = []
    token_ids: list[int] = []
    outcome: Outcome | None = None
    async for delta in deltas:
        texts.append(delta.text)
        token_ids += delta.token_ids
        outcome = ending(delta)
    if outcome is None:
        raise UnfinishedError
    return Whole("".join(texts), tuple(token_ids), outcome)


async def events(deltas: AsyncIterator[Delta], reply: Reply, on_end: Callable[[Outcome], None]) -> AsyncIterator[bytes]:
    """The answer as server-sent events: a delta's events, and those that open and close the answer, in one piece.

    The opening waits for the first delta, so that an error before it can still be an HTTP status.
    """
    opening = reply.opening()
    head = b"" if opening is None else sse.frame(opening)
    outcome: Outcome | None = None
    async for delta in deltas:
        says = delta.text or (reply.token_ids and delta.token_ids)
        piece = head + (sse.frame(reply.text(delta.text, delta.token_ids)) if says else b"")
        head = b""
        outcome = ending(delta)
        if outcome is not None:
            on_end(outcome)
            piece += _closing(reply, outcome)
        if piece:
            yield piece
    if outcome is None:
        raise UnfinishedError


def _closing(reply: Reply, outcome: Outcome) -> bytes:
    usage = sse.frame(reply.usage(outcome.usage)) if reply.include_usage else b""
    return sse.frame(reply.finish(outcome.finish_reason)) + usage + sse.DONE
