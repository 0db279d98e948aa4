"""The API's edge over real HTTPS: who gets in, what every error looks like, what the log holds."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import aiohttp
import msgspec
import pytest
from scripted_gateway import NOW, Gateway
from structlog.testing import capture_logs

from rpcmesh.engine.client import EngineLost, EngineRequestError
from rpcmesh.engine.messages import ChatMessage, ChatPrompt, Delta
from rpcmesh.gateway.backend import ClusterCapacityError

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
FIRST = Delta(id="", text="Par", token_ids=(1,))


async def error_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The error's fields, after checking that the body is exactly OpenAI's shape."""
    assert response.content_type == "application/json"
    body = await response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


async def data_of(response: aiohttp.ClientResponse) -> list[str]:
    return [line.removeprefix("data: ") for line in (await response.text()).split("\n\n") if line]


async def test_a_chat_is_answered(gateway: Gateway) -> None:
    async with gateway.chat(max_tokens=9) as response:
        body = await response.json()
    assert (response.status, body["model"]) == (200, "tiny")
    assert body["id"].startswith("chatcmpl-")
    assert body["choices"][0]["message"]["content"] == "Paris."
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (7, 3)
    (request,) = gateway.backend.requests
    assert (request.id, request.max_tokens) == (body["id"], 9)
    assert request.prompt == ChatPrompt((ChatMessage("user", "hi"),))


async def test_a_completion_is_answered(gateway: Gateway) -> None:
    async with gateway.post("/v1/completions", model="tiny", prompt="The capital is") as response:
        body = await response.json()
    assert body["id"].startswith("cmpl-")
    assert body["choices"][0]["text"] == "Paris."


async def test_a_chat_is_streamed(gateway: Gateway) -> None:
    async with gateway.chat(stream=True) as response:
        assert response.content_type == "text/event-stream"
        *chunks, done = await data_of(response)
    assert "".join(json.loads(chunk)["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Paris."
    assert done == "[DONE]"


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "Bearer {}"}, {"Authorization": "bearer  {}"}, {"x-api-key": "{}"}, {"X-API-KEY": "{}"}],
)
async def test_a_key_opens_in_either_header(gateway: Gateway, headers: dict[str, str]) -> None:
    filled = {name: value.format(gateway.secret) for name, value in headers.items()}
    async with gateway.session.get(f"{gateway.url}/v1/models", headers=filled) as response:
        assert response.status == 200


def _bad_headers(gateway: Gateway) -> dict[str, dict[str, str]]:
    unknown = f"rpcmesh-{'0' * 12}-{'A' * 43}"
    revoked = gateway.keys.add()
    key = gateway.keys.by_id[revoked.split("-")[1]]
    gateway.keys.by_id[key.id] = msgspec.structs.replace(key, revoked_at=NOW)
    return {
        "missing": {},
        "malformed": {"Authorization": "Bearer sk-something"},
        "not bearer": {"Authorization": f"Basic {gateway.secret}"},
        "unknown": {"Authorization": f"Bearer {unknown}"},
        "mismatch": {"x-api-key": gateway.secret[:-43] + "A" * 43},
        "expired": {"x-api-key": gateway.keys.add(expires_at=NOW)},
        "revoked": {"x-api-key": revoked},
    }


async def test_every_bad_key_gets_the_same_answer_and_its_own_reason_in_the_log(gateway: Gateway) -> None:
    answers, reasons = set(), {}
    for fate, headers in _bad_headers(gateway).items():
        with capture_logs() as logs:
            async with gateway.session.get(f"{gateway.url}/v1/models", headers=headers) as response:
                assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
                assert (await error_of(response))["code"] == "invalid_api_key"
                answers.add(await response.text())
        (reasons[fate],) = [line["key_refused"] for line in logs if line["event"] == "request"]
    assert len(answers) == 1
    assert reasons == {fate: "missing" if fate == "not bearer" else fate for fate in reasons}


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/tiny", CHAT, "/v1/completions", "/v1/nothing", "/v1", "/%761/models", "/v1//x"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_nothing_below_v1_answers_without_a_key(gateway: Gateway, path: str, method: str) -> None:
    async with gateway.session.request(method, gateway.url + path, json={}) as response:
        assert response.status == 401


async def test_health_readiness_and_extra_routes_need_no_key(gateway: Gateway) -> None:
    async with gateway.session.get(f"{gateway.url}/health") as response:
        assert (response.status, await response.json()) == (200, {"status": "ok"})
    async with gateway.session.get(f"{gateway.url}/readyz") as response:
        assert (response.status, await response.json()) == (200, {"status": "ready"})
    async with gateway.session.post(f"{gateway.url}/join") as response:
        assert (response.status, await response.json()) == (200, {"joined": True})


@pytest.mark.parametrize(
    ("reason", "shown"), [("loading", "loading"), ("node bob at 10.0.0.7 is down", "unavailable"), ("", "unavailable")]
)
async def test_not_ready_is_503_and_says_no_more_than_a_word(gateway: Gateway, reason: str, shown: str) -> None:
    gateway.backend.reason = reason
    async with gateway.session.get(f"{gateway.url}/readyz") as response:
        assert (response.status, await response.json()) == (503, {"status": "not_ready", "reason": shown})
        assert int(response.headers["Retry-After"]) > 0
    async with gateway.session.get(f"{gateway.url}/health") as response:
        assert response.status == 200
    async with gateway.chat() as response:
        assert (response.status, (await error_of(response))["code"]) == (503, "not_ready")
        assert int(response.headers["Retry-After"]) > 0
        assert shown in await response.text()
    assert gateway.backend.requests == []


async def test_models_are_listed(gateway: Gateway) -> None:
    async with gateway.session.get(f"{gateway.url}/v1/models", headers=gateway.auth) as response:
        body = await response.json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["tiny", "other"]
    async with gateway.session.get(f"{gateway.url}/v1/models/tiny", headers=gateway.auth) as response:
        assert await response.json() == body["data"][0]
    assert body["data"][0] | {"created": 0} == {
        "id": "tiny",
        "object": "model",
        "created": 0,
        "owned_by": "rpcmesh",
        "meta": {"n_ctx": 128, "n_vocab": 1000, "n_params": 5, "size": 10},
    }


async def test_a_model_name_may_hold_a_slash(gateway: Gateway) -> None:
    gateway.backend.names = ("org/model-1.5",)
    async with gateway.session.get(f"{gateway.url}/v1/models/org/model-1.5", headers=gateway.auth) as response:
        assert (await response.json())["id"] == "org/model-1.5"


async def test_a_key_for_one_model_sees_and_uses_that_one_only(gateway: Gateway) -> None:
    gateway.secret = gateway.keys.add(models=("other",))
    async with gateway.session.get(f"{gateway.url}/v1/models", headers=gateway.auth) as response:
        assert [model["id"] for model in (await response.json())["data"]] == ["other"]
    async with gateway.chat(model="other") as response:
        assert response.status == 200
    for model in ("tiny", "no-such-model"):
        async with gateway.chat(model=model) as response:
            assert (response.status, (await error_of(response))["code"]) == (403, "model_not_allowed")
        async with gateway.session.get(f"{gateway.url}/v1/models/{model}", headers=gateway.auth) as response:
            assert response.status == 403


async def test_an_unknown_model_is_404(gateway: Gateway) -> None:
    for sent in (gateway.chat(model="gpt-4o"), gateway.session.get(f"{gateway.url}/v1/models/x", headers=gateway.auth)):
        async with sent as response:
            error = await error_of(response)
        assert (response.status, error["code"], error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize(("path", "authorized"), [("/v1/nothing", True), ("/nothing", False)])
async def test_an_unknown_route_is_a_json_404(gateway: Gateway, path: str, authorized: bool) -> None:
    headers = gateway.auth if authorized else {}
    async with gateway.session.get(gateway.url + path, headers=headers) as response:
        error = await error_of(response)
    assert (response.status, error["code"], error["type"]) == (404, "unknown_url", "invalid_request_error")


async def test_a_wrong_method_is_405_and_says_which_is_right(gateway: Gateway) -> None:
    async with gateway.session.get(gateway.url + CHAT, headers=gateway.auth) as response:
        assert (response.status, (await error_of(response))["code"]) == (405, "method_not_allowed")
        assert response.headers["Allow"] == "POST"


async def test_broken_json_is_400_with_its_place(gateway: Gateway) -> None:
    async with gateway.session.post(gateway.url + CHAT, data=b'{"model": "m",}', headers=gateway.auth) as response:
        error = await error_of(response)
    assert (response.status, error["code"]) == (400, "invalid_json")
    assert "byte 14" in error["message"]


async def test_a_bad_value_is_400_with_its_parameter(gateway: Gateway) -> None:
    async with gateway.chat(temperature=3) as response:
        error = await error_of(response)
    assert (response.status, error["param"]) == (400, "temperature")


@pytest.mark.parametrize(("size", "status"), [((8 << 20) - 1, 200), ((8 << 20) + 1, 413)])
async def test_a_body_may_be_8_mib(gateway: Gateway, size: int, status: int) -> None:
    head, tail = b'{"model": "tiny", "messages": [{"role": "user", "content": "', b'"}]}'
    body = io.BytesIO(head + b"x" * (size - len(head) - len(tail)) + tail)
    async with gateway.session.post(gateway.url + CHAT, data=body, headers=gateway.auth) as response:
        assert response.status == status
        if status == 413:
            assert (await error_of(response))["code"] == "request_too_large"


REFUSALS = [
    (EngineRequestError("context_length_exceeded", "9 tokens and n_ctx 8"), 400, "context_length_exceeded", "messages"),
    (EngineRequestError("invalid_prompt", "the prompt is empty"), 400, "invalid_prompt", "messages"),
    (EngineRequestError("overloaded", "queue full"), 503, "overloaded", None),
    (EngineLost(123, -6, ("ggml_abort /home/secret",)), 503, "engine_lost", None),
    (ClusterCapacityError("no context of 4096 tokens fits in /home/secret"), 503, "cluster_capacity", None),
    (EngineRequestError("engine_error", "decode returned -3 in /home/secret"), 500, "internal_error", None),
    (RuntimeError("password=hunter2"), 500, "internal_error", None),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("error", "status", "code", "param"), REFUSALS)
async def test_a_failure_before_the_first_token_is_a_status(
    gateway: Gateway, *, error: Exception, status: int, code: str, param: str | None, stream: bool
) -> None:
    gateway.backend.script = (error,)
    async with gateway.chat(stream=stream) as response:
        told = await error_of(response)
    assert (response.status, told["code"], told["param"]) == (status, code, param)
    assert ("Retry-After" in response.headers) == (status == 503)
    assert "secret" not in told["message"]
    assert "hunter2" not in told["message"]


@pytest.mark.parametrize(("error", "_status", "code", "param"), REFUSALS)
async def test_a_failure_in_mid_stream_is_the_last_event(
    gateway: Gateway, error: Exception, _status: int, code: str, param: str | None
) -> None:
    going_on = asyncio.Event()
    gateway.backend.script = (FIRST, going_on, error)
    async with gateway.chat(stream=True) as response:
        assert response.status == 200
        going_on.set()
        *_, last = await data_of(response)
    told = json.loads(last)["error"]
    assert (told["code"], told["param"]) == (code, param)
    assert "secret" not in last
    assert "hunter2" not in last


async def test_our_bug_is_500_with_an_id_that_finds_the_traceback(gateway: Gateway) -> None:
    with capture_logs() as logs:
        async with gateway.session.get(f"{gateway.url}/leaky") as response:
            error = await error_of(response)
    request_id = response.headers["x-request-id"]
    assert response.status == 500
    assert request_id in error["message"]
    assert "hunter2" not in await response.text()
    (failed,) = [line for line in logs if line["event"] == "request_failed"]
    assert (failed["request_id"], failed["exc_info"]) == (request_id, True)


async def test_a_model_that_fits_nowhere_is_told_by_the_same_code_as_to_an_open_answer(gateway: Gateway) -> None:
    gateway.backend.reason = "cluster_capacity"
    async with gateway.chat() as response:
        assert (response.status, (await error_of(response))["code"]) == (503, "cluster_capacity")
        assert int(response.headers["Retry-After"]) > 0


async def test_our_bug_after_half_an_answer_cuts_the_connection(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=gateway.trust)
    writer.write(b"GET /halfway HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    received = await asyncio.wait_for(reader.read(), timeout=5)
    writer.close()
    await writer.wait_closed()
    assert received.count(b"HTTP/1.1") == 1
    assert received.endswith(b"half an ans\r\n")  # and no last chunk


@pytest.mark.parametrize("path", ["/health", "/nothing", "/v1/models", "/leaky"])
async def test_every_response_has_its_own_request_id(gateway: Gateway, path: str) -> None:
    ids = set()
    for _ in range(2):
        async with gateway.session.get(gateway.url + path) as response:
            ids.add(response.headers["x-request-id"])
    assert len(ids) == 2


async def test_the_log_has_one_line_a_request_and_no_secret_in_it(gateway: Gateway) -> None:
    with capture_logs() as logs:
        async with gateway.chat(stream=True, messages=[{"role": "user", "content": "my diary"}]) as response:
            await response.read()
        async with gateway.session.get(f"{gateway.url}/nothing?token=hunter2", headers=gateway.auth) as missing:
            await missing.read()
        for _ in range(2):  # the line is written after the response's last byte
            async with gateway.session.get(f"{gateway.url}/health"):
                pass
    streamed, unknown = [line for line in logs if line["event"] == "request"][:2]
    key_id = gateway.secret.split("-")[1]
    assert dict(streamed) | {"request_id": 0, "duration_ms": 0} == {
        "event": "request",
        "log_level": "info",
        "request_id": 0,
        "remote": "127.0.0.1",
        "method": "POST",
        "route": CHAT,
        "key_id": key_id,
        "model": "tiny",
        "finish_reason": "stop",
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "status": 200,
        "duration_ms": 0,
    }
    assert streamed["request_id"] == response.headers["x-request-id"]
    assert (unknown["route"], unknown["status"], unknown["error"]) == ("unknown", 404, "unknown_url")
    for secret in (gateway.secret, gateway.secret[-43:], "my diary", "hunter2"):
        assert secret not in repr(logs)


class Reached(asyncio.Event):
    """Never set, and says when it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()

    async def wait(self) -> Any:
        self.reached.set()
        return await super().wait()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [(), (FIRST,)])
async def test_a_client_that_leaves_cancels_its_request(
    gateway: Gateway, stream: bool, script: tuple[Delta, ...]
) -> None:
    waiting = Reached()
    gateway.backend.script = (*script, waiting)

    async def leave() -> None:
        # A client that hangs up at once, whether it has seen a response or not.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=gateway.trust)) as session:
            body = {"model": "tiny", "messages": HI, "stream": stream}
            async with session.post(gateway.url + CHAT, json=body, headers=gateway.auth):
                await asyncio.Event().wait()

    with capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            client = group.create_task(leave())
            await asyncio.wait_for(waiting.reached.wait(), timeout=5)
            client.cancel()
        await asyncio.wait_for(gateway.backend.closed.wait(), timeout=5)
        async with gateway.session.get(f"{gateway.url}/health"):
            pass
    assert [line["status"] for line in logs if line.get("route") == CHAT] == [499]
