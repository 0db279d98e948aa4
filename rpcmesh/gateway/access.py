"""What surrounds every request: its id, its key, its error body, its line in the log. Nothing here answers one."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from rpcmesh.gateway.errors import INVALID, SERVER, ApiError, internal, invalid_api_key
from rpcmesh.gateway.keys import ApiKey, KeyStore, Refusal, check
from rpcmesh.gateway.reply import Outcome

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# nginx's number for a client that left before its answer. Seen in the log only.
CLIENT_GONE = 499
# What aiohttp itself raises, and how the API names it.
HTTP_CODES = {404: "unknown_url", 405: "method_not_allowed", 408: "request_timeout", 413: "request_too_large"}


GUARDED = ("/v1/", "/metrics/")


@dataclass
class Trace:
    """What is learned about one request on its way, for its headers and its log line."""

    request_id: str
    headers_sent: bool = False
    key: ApiKey | None = None
    key_refused: Refusal | None = None
    model: str | None = None
    error: str | None = None
    outcome: Outcome | None = None

    @property
    def key_id(self) -> str | None:
        return None if self.key is None else self.key.id


TRACE = web.RequestKey("trace", Trace)


@web.middleware
async def logged(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost: one log line a request, with the key's id and never the key, the body or the query string."""
    request[TRACE] = trace = Trace(request_id=f"req_{secrets.token_hex(12)}")
    clock = asyncio.get_running_loop().time
    started = clock()
    status = CLIENT_GONE
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        # With an outcome the answer was complete, so a client that hung up on the last byte has it all.
        status = 200 if status == CLIENT_GONE and trace.outcome is not None else status
        log.info("request", **_line(request, trace), status=status, duration_ms=round((clock() - started) * 1e3, 1))


def _line(request: web.Request, trace: Trace) -> dict[str, object]:
    line: dict[str, object] = {
        "request_id": trace.request_id,
        "remote": request.remote,
        "method": request.method,
        "route": _route(request) or "unknown",  # not the path: a stranger's text stays out of the log
        "key_id": trace.key_id,
    }
    if trace.key_refused:
        line |= {"key_refused": trace.key_refused.reason.value, "key_id": trace.key_refused.key_id}
    if trace.model is not None:
        line |= {"model": trace.model}
    if trace.error is not None:
        line |= {"error": trace.error}
    if trace.outcome is not None:
        line |= {
            "finish_reason": trace.outcome.finish_reason,
            "prompt_tokens": trace.outcome.usage.prompt_tokens,
            "completion_tokens": trace.outcome.usage.completion_tokens,
        }
    return line


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as OpenAI's JSON. A traceback goes to the log; the client gets the request id to quote."""
    trace = request[TRACE]
    try:
        return await handler(request)
    except ConnectionError:
        raise  # the client is gone: nobody to tell, and nothing of ours is broken
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = _error_response(_from_http(request, error), trace)
        if hdrs.ALLOW in error.headers:
            response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return response
    except Exception as error:
        told = error if isinstance(error, ApiError) else None
        if told is None:
            log.exception("request_failed", request_id=trace.request_id)
            told = internal(trace.request_id)
        if trace.headers_sent:
            raise  # half an answer is out: aiohttp cuts the connection, so that it cannot pass for a whole one
        return _error_response(told, trace)


def authenticated(keys: KeyStore, now: Callable[[], float]) -> Middleware:
    """Everything below ``/v1`` and ``/metrics`` needs a key, unknown routes too: a stranger cannot map the API."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        # The route as registered, because that is what was matched: the path as sent may be spelled otherwise.
        if f"{_route(request) or request.path}/".startswith(GUARDED):
            trace = request[TRACE]
            match check(presented_key(request), keys, now()):
                case Refusal() as refusal:
                    trace.key_refused = refusal
                    raise invalid_api_key()
                case key:
                    trace.key = key
        return await handler(request)

    return middleware


def presented_key(request: web.Request) -> str | None:
    """``Authorization: Bearer KEY``, else ``x-api-key: KEY``."""
    scheme, _, credentials = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    return request.headers.get("x-api-key")


async def add_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """A signal rather than a middleware: a stream's headers are gone before its handler returns."""
    trace = request[TRACE]
    response.headers["x-request-id"] = trace.request_id
    trace.headers_sent = True


def _route(request: web.Request) -> str | None:
    resource = request.match_info.route.resource
    return None if resource is None else resource.canonical


def _from_http(request: web.Request, error: web.HTTPException) -> ApiError:
    message = {
        404: f"there is nothing at {request.method} {request.path[:200]!r}",
        405: f"{request.method} is not allowed at {request.path[:200]!r}",
    }.get(error.status, (error.text or error.reason).lower())
    kind = SERVER if error.status >= 500 else INVALID
    return ApiError(error.status, message, kind=kind, code=HTTP_CODES.get(error.status))


def _error_response(error: ApiError, trace: Trace) -> web.Response:
    trace.error = error.code or error.kind
    response = web.Response(status=error.status, body=error.encode(), content_type="application/json")
    if error.retry_after_s is not None:
        response.headers[hdrs.RETRY_AFTER] = str(error.retry_after_s)
    if error.status == 401:
        response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    return response
