"""The gateway's routes, put together. Everything that a route does is elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from aiohttp import web
from aiohttp.web_routedef import AbstractRouteDef

from rpcmesh.gateway.access import add_request_id, authenticated, errors_as_json, logged
from rpcmesh.gateway.answers import ENDPOINTS, Answering
from rpcmesh.gateway.backend import Backend
from rpcmesh.gateway.health import Readiness, health
from rpcmesh.gateway.keys import KeyStore
from rpcmesh.gateway.models import Models

MAX_BODY_BYTES = 8 << 20


def make_app(
    backend: Backend,
    keys: KeyStore,
    *,
    extra_routes: Iterable[AbstractRouteDef] = (),
    now: Callable[[], float] = time.time,
) -> web.Application:
    """The whole API. Everything below ``/v1`` needs a key; ``extra_routes`` elsewhere guard themselves.

    Serve it with :func:`rpcmesh.gateway.server.serving`: a client that leaves must cancel its handler.
    """
    app = web.Application(
        client_max_size=MAX_BODY_BYTES, middlewares=[logged, errors_as_json, authenticated(keys, now)]
    )
    app.on_response_prepare.append(add_request_id)
    models = Models(backend, created=int(now()))
    app.add_routes(
        [
            web.get("/health", health),
            web.get("/readyz", Readiness(backend).readyz),
            web.get("/v1/models", models.list),
            web.get("/v1/models/{id:.+}", models.retrieve),
            *(web.post(endpoint.path, Answering(endpoint, backend, now).answer) for endpoint in ENDPOINTS),
            *extra_routes,
        ]
    )
    return app
