"""``/v1/models``: the models that answer now and that the key may use."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from aiohttp import web

from rpcmesh.engine.messages import LoadedModel
from rpcmesh.gateway.access import TRACE
from rpcmesh.gateway.backend import Backend
from rpcmesh.gateway.errors import model_not_allowed, model_not_found


class ModelMeta(msgspec.Struct, frozen=True):
    """As llama.cpp's server names them. ``n_ctx``: tokens of prompt and answer together; ``size``: bytes of weights."""

    n_ctx: int
    n_vocab: int
    n_params: int
    size: int


class ModelBody(msgspec.Struct, frozen=True, tag_field="object", tag="model"):
    id: str
    created: int
    owned_by: str
    meta: ModelMeta


class ModelList(msgspec.Struct, frozen=True, tag_field="object", tag="list"):
    data: tuple[ModelBody, ...]


@dataclass(frozen=True)
class Models:
    """The handlers. ``created`` is when this gateway started: a model file's own date says nothing to a client."""

    backend: Backend
    created: int

    async def list(self, request: web.Request) -> web.Response:
        key = request[TRACE].key
        allowed = (model for model in self.backend.models() if key is None or key.allows(model.name))
        return _json(ModelList(tuple(self._body(model) for model in allowed)))

    async def retrieve(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        key = request[TRACE].key
        if key is not None and not key.allows(name):
            raise model_not_allowed(name)
        for model in self.backend.models():
            if model.name == name:
                return _json(self._body(model))
        raise model_not_found(name)

    def _body(self, model: LoadedModel) -> ModelBody:
        meta = ModelMeta(n_ctx=model.n_ctx, n_vocab=model.n_vocab, n_params=model.n_params, size=model.size_bytes)
        return ModelBody(id=model.name, created=self.created, owned_by="rpcmesh", meta=meta)


def _json(body: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")
