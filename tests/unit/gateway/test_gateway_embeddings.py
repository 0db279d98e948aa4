"""The embeddings endpoint: its bodies, its two encodings, its refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types import CreateEmbeddingResponse
from scripted_gateway import Gateway

from rpcmesh.engine.client import EngineRequestError
from rpcmesh.engine.messages import TextPrompt, TokenPrompt
from rpcmesh.gateway.embedding import parse_embedding
from rpcmesh.gateway.errors import ApiError


def parsed(**changes: Any) -> Any:
    return parse_embedding(json.dumps({"model": "m", "input": "hi"} | changes).encode(), "id")


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("hi", (TextPrompt("hi"),)),
        (["a", "b"], (TextPrompt("a"), TextPrompt("b"))),
        ([1, 2], (TokenPrompt((1, 2)),)),
        ([[1, 2], [3]], (TokenPrompt((1, 2)), TokenPrompt((3,)))),
        (["a", [3]], (TextPrompt("a"), TokenPrompt((3,)))),
        (["x"] * 2048, (TextPrompt("x"),) * 2048),
        (list(range(4000)), (TokenPrompt(tuple(range(4000))),)),
    ],
)
def test_an_input_is_a_text_or_tokens_or_a_list_of_them(given: object, inputs: object) -> None:
    assert parsed(input=given).request.inputs == inputs


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"input": []}, "input", "invalid_value"),
        ({"input": None}, "input", "invalid_value"),
        ({"input": 5}, "input", "invalid_value"),
        ({"input": [[]]}, "input[0]", "invalid_value"),
        ({"input": ["a", 5]}, "input[1]", "invalid_value"),
        ({"input": [-1]}, "input[0]", "invalid_value"),
        ({"input": ["x"] * 2049}, "input", "invalid_value"),
        ({"encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ({"dimensions": 256}, "dimensions", "unsupported_parameter"),
        ({"model": None}, "model", "invalid_value"),
    ],
)
def test_a_refusal_names_the_exact_place(changes: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        parsed(**changes)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


@pytest.mark.parametrize(
    ("encoding", "vector"), [(None, [0.5, -0.25]), ("float", [0.5, -0.25]), ("base64", "AAAAPwAAgL4=")]
)
async def test_vectors_come_in_order_as_numbers_or_as_bytes(
    gateway: Gateway, encoding: str | None, vector: object
) -> None:
    body = {"model": "tiny", "input": ["a", "b"], "encoding_format": encoding}
    async with gateway.post("/v1/embeddings", **body) as response:
        answer = await response.json()
    assert response.status == 200
    assert answer == {
        "object": "list",
        "model": "tiny",
        "data": [
            {"object": "embedding", "index": 0, "embedding": vector},
            {"object": "embedding", "index": 1, "embedding": vector},
        ],
        "usage": {"prompt_tokens": 6, "total_tokens": 6},
    }
    if encoding != "base64":
        CreateEmbeddingResponse.model_validate(answer, strict=True)


@pytest.mark.parametrize(
    ("code", "param"),
    [("model_not_supported", "model"), ("context_length_exceeded", "input"), ("invalid_prompt", "input")],
)
async def test_what_the_engine_refuses_names_its_parameter(gateway: Gateway, code: Any, param: str) -> None:
    gateway.backend.script = (EngineRequestError(code, "no"),)
    async with gateway.post("/v1/embeddings", model="tiny", input="a") as response:
        error = (await response.json())["error"]
    assert (response.status, error["param"], error["code"]) == (400, param, code)


async def test_a_key_without_the_model_gets_no_vectors(gateway: Gateway) -> None:
    secret = gateway.keys.add(models=("other",))
    body = {"model": "tiny", "input": "a"}
    async with gateway.session.post(
        f"{gateway.url}/v1/embeddings", json=body, headers={"x-api-key": secret}
    ) as response:
        assert response.status == 403
    assert gateway.backend.embed_requests == []
