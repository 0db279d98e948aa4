"""Choices, log probabilities, biases and forms of answers as the openai package sees them: real engine, real model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Literal

import openai
import pydantic
import pytest
import pytest_asyncio
from one_engine import MODEL, QUESTION, SOON_S, STORY, Gateway, running

from rpcmesh.native_build import Build

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(build: Build, smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with running(build.lib_dir, smollm2, tmp_path_factory.mktemp("gateway")) as each:
        yield each


async def test_several_choices_share_a_prompt_and_differ_by_their_seeds(gateway: Gateway) -> None:
    answer = await gateway.client.chat.completions.create(model=MODEL, messages=STORY, n=3, seed=7, max_tokens=8)
    again = await gateway.client.chat.completions.create(model=MODEL, messages=STORY, seed=8, max_tokens=8)

    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert again.choices[0].message.content == texts[1]
    assert answer.usage is not None
    assert again.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (again.usage.prompt_tokens, 24)
    assert answer.usage.prompt_tokens_details is not None


async def test_several_choices_are_streamed_with_their_numbers(gateway: Gateway) -> None:
    stream = await gateway.client.completions.create(
        model=MODEL, prompt="The capital of France is", n=2, temperature=0, max_tokens=5, stream=True
    )
    said = ["", ""]
    reasons: list[tuple[int, str]] = []
    async for chunk in stream:
        for choice in chunk.choices:
            said[choice.index] += choice.text
            reasons += [(choice.index, choice.finish_reason)] if choice.finish_reason else []
    assert said[0] == said[1]
    assert "Paris" in said[0]
    assert sorted(reasons) == [(0, "length"), (1, "length")]


async def test_a_client_that_leaves_several_choices_frees_their_slots(gateway: Gateway) -> None:
    stream = await gateway.client.chat.completions.create(
        model=MODEL, messages=STORY, n=4, stream=True, extra_body={"ignore_eos": True}
    )
    async for _ in stream:
        break
    await stream.close()
    async with asyncio.timeout(SOON_S):
        await gateway.client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=2)


async def test_log_probabilities_of_a_stream_are_those_of_the_whole_answer(gateway: Gateway) -> None:
    whole = await gateway.client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=20, logprobs=True, top_logprobs=3
    )
    stream = await gateway.client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=20, logprobs=True, top_logprobs=3, stream=True
    )
    pieces = [
        row async for chunk in stream if chunk.choices[0].logprobs for row in chunk.choices[0].logprobs.content or ()
    ]

    rows = (whole.choices[0].logprobs and whole.choices[0].logprobs.content) or []
    assert [row.token for row in pieces] == [row.token for row in rows]
    assert "".join(row.token for row in rows) == whole.choices[0].message.content
    assert all(row.top_logprobs[0].token == row.token and len(row.top_logprobs) == 3 for row in rows)
    assert all(bytes(row.bytes or ()).decode() == row.token and row.logprob <= 0 for row in rows)


async def test_log_probabilities_of_a_completion_say_where_its_tokens_begin(gateway: Gateway) -> None:
    answer = await gateway.client.completions.create(
        model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=5, logprobs=2
    )
    found = answer.choices[0].logprobs
    assert found is not None
    assert "".join(found.tokens or ()) == answer.choices[0].text
    for token, offset in zip(found.tokens or (), found.text_offset or (), strict=True):
        assert answer.choices[0].text[offset:].startswith(token)
    assert [len(best) for best in found.top_logprobs or ()] == [2] * 5


async def test_a_biased_token_is_never_said(gateway: Gateway) -> None:
    plain = await gateway.client.completions.create(
        model=MODEL,
        prompt="The capital of France is",
        temperature=0,
        max_tokens=1,
        extra_body={"return_token_ids": True},
    )
    (token,) = (plain.choices[0].model_extra or {})["token_ids"]
    answer = await gateway.client.completions.create(
        model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=8, logit_bias={str(token): -100}
    )
    assert "Paris" in plain.choices[0].text
    assert "Paris" not in answer.choices[0].text


class Person(pydantic.BaseModel):
    name: Annotated[str, pydantic.Field(max_length=20)]
    age: int
    married: bool | None
    hobbies: Annotated[list[Literal["chess", "music", "travel"]], pydantic.Field(max_length=3)]


async def test_an_answer_is_parsed_into_the_client_s_own_type(gateway: Gateway) -> None:
    answer = await gateway.client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Describe a person as JSON."}],
        response_format=Person,
        temperature=0,
        max_tokens=200,
    )
    assert isinstance(answer.choices[0].message.parsed, Person)
    assert answer.choices[0].finish_reason == "stop"


async def test_a_json_object_is_one_also_in_a_stream_with_chance(gateway: Gateway) -> None:
    stream = await gateway.client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "A short JSON object about Paris, please."}],
        response_format={"type": "json_object"},
        seed=3,
        max_tokens=400,
        stream=True,
    )
    said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert isinstance(json.loads(said), dict)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"grammar": "root ::= (", "stream": True}, "grammar", "invalid_grammar"),
        ({"grammar": 'root ::= root "a"'}, "grammar", "invalid_grammar"),
        ({"json_schema": {"type": "integer", "minimum": 0}}, "json_schema", "invalid_grammar"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "x"}}}},
            "response_format",
            "invalid_grammar",
        ),
        ({"logit_bias": {"49152": 1}}, "logit_bias", "invalid_logit_bias"),
    ],
)
async def test_what_the_engine_refuses_names_its_parameter(
    gateway: Gateway, body: dict[str, object], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await gateway.client.chat.completions.create(model=MODEL, messages=QUESTION, extra_body=body)
    assert (caught.value.param, caught.value.code) == (param, code)
