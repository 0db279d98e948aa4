"""The embeddings endpoint: admit, queue, embed, answer. Its body is understood elsewhere."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from rpcmesh.errors import RpcmeshError
from rpcmesh.gateway.access import TRACE, Trace
from rpcmesh.gateway.answers import read_body
from rpcmesh.gateway.embedding import AT_FAULT, EmbedCall, embedding_reply, parse_embedding
from rpcmesh.gateway.errors import from_backend
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
        try:
            embedded = await self.queue.embed(call.model, call.request, Claim(key=trace.key.id if trace.key else ""))
        except RpcmeshError as error:
            told = from_backend(error, AT_FAULT)
            if told is None:
                raise
            raise told from error
        return web.Response(body=embedding_reply(call, embedded), content_type="application/json")
