"""Every error a client of the API can see, in OpenAI's shape. Nothing here decides when one is raised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from rpcmesh.engine.client import EngineLost, EngineRequestError
from rpcmesh.errors import RpcmeshError
from rpcmesh.gateway.backend import ClusterCapacityError

RETRY_AFTER_S = 5
INVALID = "invalid_request_error"
SERVER = "server_error"
# These are also words of /readyz.
CLUSTER_CAPACITY = "cluster_capacity"
SHUTTING_DOWN = "shutting_down"


class ErrorFields(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """``{"error": {"message", "type", "param", "code"}}``: the body of an error response and of an error event."""

    error: ErrorFields


class ApiError(RpcmeshError):
    """One failed request: an HTTP status and what the client is told. Never holds internals."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    def encode(self) -> bytes:
        """The JSON body, on one line."""
        return msgspec.json.encode(ErrorBody(ErrorFields(self.message, self.kind, self.param, self.code)))


def invalid(param: str | None, message: str, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def unsupported_parameter(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param, code="unsupported_parameter")


def unsupported_value(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param, code="unsupported_value")


def invalid_api_key() -> ApiError:
    # One answer for missing, malformed, unknown, expired and revoked: a stranger must not learn which keys exist.
    message = "the API key is missing or not valid: send it as 'Authorization: Bearer KEY' or as 'x-api-key: KEY'"
    return ApiError(401, message, code="invalid_api_key")


def model_not_allowed(model: str) -> ApiError:
    message = f"this API key may not use the model {model!r}"
    return ApiError(403, message, kind="permission_error", code="model_not_allowed", param="model")


def model_not_found(model: str) -> ApiError:
    message = f"there is no model {model!r} here: GET /v1/models lists those there are"
    return ApiError(404, message, code="model_not_found", param="model")


def not_ready(reason: str) -> ApiError:
    if reason == CLUSTER_CAPACITY:
        return cluster_capacity()
    message = f"no model is ready to answer ({reason}): try again in a moment"
    return ApiError(503, message, kind=SERVER, code="not_ready", retry_after_s=RETRY_AFTER_S)


def cluster_capacity() -> ApiError:
    message = "the machines that are left cannot run this model: send the request again when they are back"
    return ApiError(503, message, kind=SERVER, code=CLUSTER_CAPACITY, retry_after_s=RETRY_AFTER_S)


def queue_full(waiting_max: int, retry_after_s: int) -> ApiError:
    message = f"the queue holds {waiting_max} requests and this API key fills it: send fewer at the same time"
    return ApiError(429, message, kind="rate_limit_error", code="queue_full", retry_after_s=retry_after_s)


def overloaded(retry_after_s: int = RETRY_AFTER_S) -> ApiError:
    message = "too many requests are waiting: try again in a moment"
    return ApiError(503, message, kind=SERVER, code="overloaded", retry_after_s=retry_after_s)


def deadline_exceeded_waiting() -> ApiError:
    message = "'deadline_s' passed before it was this request's turn: give it more time, or try again later"
    return ApiError(
        503, message, kind=SERVER, code="deadline_exceeded", param="deadline_s", retry_after_s=RETRY_AFTER_S
    )


def deadline_exceeded() -> ApiError:
    message = "'deadline_s' passed before the answer was whole: give it more time, or ask for fewer tokens"
    return ApiError(504, message, kind=SERVER, code="deadline_exceeded", param="deadline_s")


def shutting_down() -> ApiError:
    message = "this endpoint is being switched off: send the request again when it is back"
    return ApiError(503, message, kind=SERVER, code=SHUTTING_DOWN, retry_after_s=RETRY_AFTER_S)


def internal(request_id: str) -> ApiError:
    """Our own bug: the log has the traceback under ``request_id``, the client has only the id."""
    return ApiError(500, f"internal error: the log has it as {request_id}", kind=SERVER, code="internal_error")


@contextmanager
def as_api_error(at_fault: Mapping[str, str]) -> Iterator[None]:
    """What the backend raises in the block, as what the client is told: see :func:`from_backend`."""
    try:
        yield
    except RpcmeshError as error:
        told = from_backend(error, at_fault)
        if told is None:
            raise
        raise told from error


def from_backend(error: RpcmeshError, at_fault: Mapping[str, str]) -> ApiError | None:
    """What to tell the client about a failure that the backend declared, or None for one it does not know.

    ``at_fault`` names the body's parameter for each code that is the client's own fault.
    """
    match error:
        case ApiError():
            return error
        case EngineLost():
            message = "the engine was lost while it worked on this request: send it again"
            return ApiError(503, message, kind=SERVER, code="engine_lost", retry_after_s=RETRY_AFTER_S)
        case ClusterCapacityError():
            return cluster_capacity()
        case EngineRequestError(code=code) if code in at_fault:
            return invalid(at_fault[code], error.message, code)
        case EngineRequestError(code="overloaded"):
            return overloaded()
        case _:
            return None
