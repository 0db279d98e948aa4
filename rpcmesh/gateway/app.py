"""The gateway's routes, put together. Everything that a route does is elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from aiohttp import web
from aiohttp.web_routedef import AbstractRouteDef

from rpcmesh.gateway.access import add_request_id, authenticated, errors_as_json, logged
from rpcmesh.gateway.admission import Limits
from rpcmesh.gateway.answers import ENDPOINTS, Answering
from rpcmesh.gateway.backend import Backend
from rpcmesh.gateway.embeddings import Embeddings
from rpcmesh.gateway.health import Readiness, health
from rpcmesh.gateway.keys import KeyStore
from rpcmesh.gateway.models import Models
from rpcmesh.gateway.request_queue import RequestQueue

MAX_BODY_BYTES = 8 << 20


def make_app(
    backend: Backend,
    keys: KeyStore,
    *,
    queue: RequestQueue | None = None,
    extra_routes: Iterable[AbstractRouteDef] = (),
    now: Callable[[], float] = time.time,
) -> web.Application:
    """The whole API. Everything below ``/v1`` needs a key; ``extra_routes`` elsewhere guard themselves.

    ``queue`` stands before ``backend``. One is made for a backend that neither loses its engine nor is drained.

    Serve it with :func:`rpcmesh.gateway.server.serving`: a client that leaves must cancel its handler.
    """
    app = web.Application(
        client_max_size=MAX_BODY_BYTES, middlewares=[logged, errors_as_json, authenticated(keys, now)]
    )
    app.on_response_prepare.append(add_request_id)
    queue = queue or RequestQueue(backend, Limits())
    answering = [Answering(endpoint, backend, queue, now) for endpoint in ENDPOINTS]
    models = Models(backend, created=int(now()))
    app.add_routes(
        [
            web.get("/health", health),
            web.get("/readyz", Readiness(queue).readyz),
            web.get("/v1/models", models.list),
            web.get("/v1/models/{id:.+}", models.retrieve),
            *(web.post(each.endpoint.path, each.answer) for each in answering),
            web.post("/v1/embeddings", Embeddings(queue, answering[0].admit).answer),
            *extra_routes,
        ]
    )
    return app
