"""The completion endpoints: admit, queue, generate, answer whole or as events. Bodies are understood elsewhere."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from aiohttp import web

from rpcmesh.errors import RpcmeshError
from rpcmesh.gateway import sse
from rpcmesh.gateway.access import TRACE, Trace
from rpcmesh.gateway.backend import Backend
from rpcmesh.gateway.chat import chat_reply, parse_chat
from rpcmesh.gateway.choices import requests, side_by_side
from rpcmesh.gateway.completions import completion_reply, parse_completion
from rpcmesh.gateway.embedding import EmbedCall
from rpcmesh.gateway.errors import (
    ApiError,
    as_api_error,
    from_backend,
    internal,
    model_not_allowed,
    model_not_found,
    not_ready,
)
from rpcmesh.gateway.fields import Call
from rpcmesh.gateway.health import coarse
from rpcmesh.gateway.reply import Choices, Outcome, Reply, collect, events
from rpcmesh.gateway.request_queue import Claim, RequestQueue

log = structlog.get_logger(__name__)

# 8 MiB (the largest body) in this time is 140 kB/s; a slower sender is a stalled or a hostile one.
BODY_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Endpoint:
    """A row: what differs between the endpoints."""

    path: str
    id_prefix: str
    parse: Callable[[bytes, str], Call]
    reply: Callable[[str, int, Call], Reply]


ENDPOINTS = (
    Endpoint("/v1/chat/completions", "chatcmpl-", parse_chat, chat_reply),
    Endpoint("/v1/completions", "cmpl-", parse_completion, completion_reply),
)


@dataclass(frozen=True)
class Answering:
    """The handler of one endpoint."""

    endpoint: Endpoint
    backend: Backend
    queue: RequestQueue
    now: Callable[[], float]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        trace = request[TRACE]
        arrived_at = asyncio.get_running_loop().time()
        answer_id = self.endpoint.id_prefix + secrets.token_hex(12)
        call = self.endpoint.parse(await read_body(request), answer_id)
        self.admit(call, trace)
        claim = Claim(
            key=trace.key_id or "",
            priority=call.priority,
            deadline=None if call.deadline_s is None else arrived_at + call.deadline_s,
        )
        reply = self.endpoint.reply(answer_id, int(self.now()), call)
        answers = [self.queue.generate(call.model, each, claim) for each in requests(call.request, call.n)]
        with as_api_error(call.at_fault):
            async with side_by_side(answers) as deltas:
                if call.stream:
                    return await self.stream(request, deltas, call, reply)
                return await self.whole(deltas, call, reply, trace)

    def admit(self, call: Call | EmbedCall, trace: Trace) -> None:
        """Raises :class:`ApiError` unless this key may use this model now."""
        # First of all the key's own limits: a key learns nothing about models that it may not use.
        if trace.key is not None and not trace.key.allows(call.model):
            raise model_not_allowed(call.model)
        # While an engine is being replaced its model is not there, but requests for it may wait in the queue.
        awaited = self.backend.awaited()
        reason = self.backend.not_ready_reason()
        if reason is not None and not awaited:
            raise not_ready(coarse(reason))
        if call.model not in {*awaited, *(model.name for model in self.backend.models())}:
            raise model_not_found(call.model)
        trace.model = call.model

    async def whole(self, deltas: Choices, call: Call, reply: Reply, trace: Trace) -> web.Response:
        choices, trace.outcome = await collect(deltas, call.n)
        return web.Response(body=reply.whole(choices, trace.outcome.usage), content_type="application/json")

    async def stream(self, request: web.Request, deltas: Choices, call: Call, reply: Reply) -> web.StreamResponse:
        trace = request[TRACE]

        def on_end(outcome: Outcome) -> None:
            trace.outcome = outcome

        def error_event(error: Exception) -> bytes:
            return self.told(error, call, trace).encode()

        return await sse.respond(request, events(deltas, call.n, reply, on_end), error_event)

    def told(self, error: Exception, call: Call, trace: Trace) -> ApiError:
        """What a client is told in the middle of a stream, where no status can be sent any more."""
        told = from_backend(error, call.at_fault) if isinstance(error, RpcmeshError) else None
        if told is None:
            log.error("request_failed", request_id=trace.request_id, exc_info=error)
            told = internal(trace.request_id)
        trace.error = told.code
        return told


async def read_body(request: web.Request, timeout_s: float = BODY_TIMEOUT_S) -> bytes:
    """The whole body. Raises 413 beyond the application's limit and 408 when it comes too slowly."""
    try:
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except TimeoutError as error:
        raise ApiError(408, f"the body was not here within {timeout_s:.0f} s", code="request_timeout") from error
