"""The whole API as the openai package sees it: real HTTPS, real engine, real model."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import os
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import openai
import pydantic
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from openai.types.chat import ChatCompletionUserMessageParam

from rpcmesh.engine.client import Engine
from rpcmesh.engine.messages import Delta, Embedded, EmbedRequest, GenerateRequest, LoadedModel, LoadSpec
from rpcmesh.gateway.app import make_app
from rpcmesh.gateway.keys import ApiKey, mint
from rpcmesh.gateway.server import serving
from rpcmesh.gateway.tls import server_tls
from rpcmesh.native_build import Build

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "smollm2"
# In these words the model is sure enough of its answer for the test of an exact text.
QUESTION: list[ChatCompletionUserMessageParam] = [
    {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
]
STORY: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Tell me a story."}]
N_CTX = 4096
# An answer that fills the context takes many times this long.
SOON_S = 15


@dataclass
class OneEngine:
    """A backend that is one engine and nothing else."""

    engine: Engine
    model: LoadedModel

    def models(self) -> tuple[LoadedModel, ...]:
        return (self.model,)

    def not_ready_reason(self) -> str | None:
        return None

    def slots(self) -> int:
        return 1

    def awaited(self) -> tuple[str, ...]:
        return ()

    def generate(self, model: str, request: GenerateRequest) -> AsyncIterator[Delta]:
        assert model == self.model.name
        return self.engine.generate(request)

    async def embed(self, model: str, request: EmbedRequest) -> tuple[Embedded, ...]:
        assert model == self.model.name
        return await self.engine.embed(request)


@dataclass
class OneKey:
    key: ApiKey

    def find_key(self, key_id: str) -> ApiKey | None:
        return self.key if key_id == self.key.id else None


@dataclass
class Gateway:
    port: int
    engine: Engine
    client: openai.AsyncOpenAI


def self_signed(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_path, key_path


@asynccontextmanager
async def running(lib_dir: Path, model: Path, folder: Path) -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(await Engine.start(lib_dir=lib_dir, on_log=lambda _line: None))
        # One sequence: a second request is served only when the first is out of the engine.
        spec = LoadSpec(model_name=MODEL, model_path=str(model), n_ctx=N_CTX, n_seq_max=1, n_threads=1)
        loaded = await engine.load(spec)
        secret, key = mint("test", now=0.0)
        cert_path, key_path = self_signed(folder)
        app = make_app(OneEngine(engine, loaded), OneKey(key))
        port = await stack.enter_async_context(serving(app, server_tls(cert_path, key_path), "127.0.0.1", 0))
        trust = ssl.create_default_context(cafile=str(cert_path))
        client = openai.AsyncOpenAI(
            api_key=secret,
            base_url=f"https://127.0.0.1:{port}/v1",
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(verify=trust, trust_env=False),
        )
        yield Gateway(port, engine, await stack.enter_async_context(client))


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
        await test_a_chat_is_answered(gateway)


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
