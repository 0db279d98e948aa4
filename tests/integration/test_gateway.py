"""The whole API as the openai package sees it: real HTTPS, real engine, real model."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
import pytest_asyncio
from one_engine import MODEL, N_CTX, QUESTION, SOON_S, STORY, Gateway, running

from rpcmesh.gateway.keys import mint
from rpcmesh.native_build import Build

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(build: Build, smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with running(build.lib_dir, smollm2, tmp_path_factory.mktemp("gateway")) as each:
        yield each


async def test_a_chat_is_answered(gateway: Gateway) -> None:
    answer = await gateway.client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=20)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert 0 < answer.usage.completion_tokens <= 20


async def test_a_stream_says_what_the_whole_answer_says(gateway: Gateway) -> None:
    whole = await gateway.client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=20)
    stream = await gateway.client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        temperature=0,
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, usage = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "stop"]
    assert (usage.choices, usage.usage) == ([], whole.usage)
    assert len(chunks) > 4  # it came in pieces


async def test_a_text_is_completed_up_to_its_limit(gateway: Gateway) -> None:
    answer = await gateway.client.completions.create(
        model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=5
    )
    assert "Paris" in answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


async def test_a_completion_is_streamed(gateway: Gateway) -> None:
    stream = await gateway.client.completions.create(
        model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=5, stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert "Paris" in "".join(chunk.choices[0].text for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


async def test_a_prompt_may_be_token_ids(gateway: Gateway) -> None:
    answer = await gateway.client.completions.create(model=MODEL, prompt=[1, 2, 3], max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3


async def test_an_answer_ends_before_a_stop_string(gateway: Gateway) -> None:
    answer = await gateway.client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, stop="Paris", max_tokens=20
    )
    assert "Paris" not in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"


async def test_the_model_is_listed(gateway: Gateway) -> None:
    assert [model.id async for model in gateway.client.models.list()] == [MODEL]
    assert (await gateway.client.models.retrieve(MODEL)).owned_by == "rpcmesh"


async def test_a_bad_key_is_an_authentication_error(gateway: Gateway) -> None:
    stranger = gateway.client.with_options(api_key=mint("stranger", now=0.0)[0])
    with pytest.raises(openai.AuthenticationError) as caught:
        await stranger.chat.completions.create(model=MODEL, messages=QUESTION)
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id


async def test_an_unknown_model_is_not_found(gateway: Gateway) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await gateway.client.chat.completions.create(model="gpt-4o", messages=QUESTION)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_beyond_the_context_is_a_bad_request(gateway: Gateway, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await gateway.client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hello " * 5000}], stream=stream
        )
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert str(N_CTX) in caught.value.message


@pytest.mark.parametrize("token_ids", [[10**6], [0, 2**31 - 1]])
async def test_a_token_id_beyond_the_vocabulary_is_a_bad_request(gateway: Gateway, token_ids: list[int]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await gateway.client.completions.create(model=MODEL, prompt=token_ids)
    assert (caught.value.code, caught.value.param) == ("invalid_prompt", "prompt")


async def test_a_client_that_leaves_a_stream_frees_its_slot(gateway: Gateway) -> None:
    stream = await gateway.client.chat.completions.create(
        model=MODEL, messages=STORY, stream=True, extra_body={"ignore_eos": True}
    )
    async for _ in stream:
        break
    await stream.close()
    async with asyncio.timeout(SOON_S):
        await test_a_chat_is_answered(gateway)


async def test_a_client_that_leaves_before_its_answer_frees_its_slot(gateway: Gateway) -> None:
    patient = gateway.client.chat.completions.create(model=MODEL, messages=STORY, extra_body={"ignore_eos": True})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(patient, timeout=0.5)
    async with asyncio.timeout(SOON_S):
        await test_a_chat_is_answered(gateway)


async def test_requests_beyond_the_slots_wait_their_turn(gateway: Gateway) -> None:
    async with asyncio.TaskGroup() as group:
        answers = [
            group.create_task(
                gateway.client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=20)
            )
            for _ in range(3)
        ]
    assert ["Paris" in (each.result().choices[0].message.content or "") for each in answers] == [True] * 3


async def test_plaintext_on_the_tls_port_gets_nothing(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    try:
        received = await asyncio.wait_for(reader.read(), timeout=10)
    except ConnectionResetError:
        received = b""
    finally:
        writer.close()
    assert b"HTTP" not in received


async def test_an_engine_lost_in_mid_answer_is_told_at_once(build: Build, smollm2: Path, tmp_path: Path) -> None:
    async with running(build.lib_dir, smollm2, tmp_path) as doomed:
        stream = await doomed.client.chat.completions.create(
            model=MODEL, messages=STORY, stream=True, extra_body={"ignore_eos": True}
        )
        await anext(aiter(stream))
        assert doomed.engine.pid is not None
        os.kill(doomed.engine.pid, signal.SIGKILL)
        with pytest.raises(openai.APIError) as caught:
            [chunk async for chunk in stream]
        assert caught.value.code == "engine_lost"
