"""The embeddings endpoint: admit, queue, embed, answer. Its body is understood elsewhere."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from rpcmesh.gateway.access import TRACE, Trace
from rpcmesh.gateway.answers import read_body
from rpcmesh.gateway.embedding import AT_FAULT, EmbedCall, embedding_reply, parse_embedding
from rpcmesh.gateway.errors import as_api_error
from rpcmesh.gateway.request_queue import Claim, RequestQueue


@dataclass(frozen=True)
class Embeddings:
    """The handler. ``admit`` raises unless the key may use the model now."""

    queue: RequestQueue
    admit: Callable[[EmbedCall, Trace], None]

    async def answer(self, request: web.Request) -> web.Response:
        call = parse_embedding(await read_body(request), f"embd-{secrets.token_hex(12)}")
        trace: Trace = request[TRACE]
        self.admit(call, trace)
        with as_api_error(AT_FAULT):
            embedded = await self.queue.embed(call.model, call.request, Claim(key=trace.key_id or ""))
        return web.Response(body=embedding_reply(call, embedded), content_type="application/json")
