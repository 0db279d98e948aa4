"""Vectors of texts: by models that name a pooling, the same that llama.cpp makes of each text alone."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import one_engine
import openai
import pytest
from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata
from meshed_engine import FRANCE, answer, request, start, worker
from recordings.models import BY_NAME

from rpcmesh.engine.client import Engine, EngineLoadError, EngineRequestError
from rpcmesh.engine.messages import DeviceSpec, EmbedRequest, LoadSpec, TextPrompt, TokenPrompt
from rpcmesh.native_build import Build

# Batches of the engine differ in shape from those of one text, and so in rounding.
CLOSE = 0.999
TEXTS = ([3, 5, 7], [1], list(range(2, 60)), [9] * 100, [4, 4])


def plainly(build: Build, model: Path, texts: Sequence[Sequence[int]]) -> list[list[float]]:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("plain_embedding.py"), model],
        input=json.dumps(texts).encode(),
        env={**os.environ, "LLAMA_CPP_LIB_PATH": str(build.lib_dir)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=120,
    )
    vectors: list[list[float]] = json.loads(done.stdout)
    return vectors


@asynccontextmanager
async def embedding(build: Build, model: Path, *devices: DeviceSpec) -> AsyncIterator[Engine]:
    async with await start(build) as engine:
        loaded = await engine.load(LoadSpec("m", str(model), devices, n_ctx=256, n_seq_max=4, n_batch=128, n_threads=1))
        assert loaded.embeds
        yield engine


async def vectors(engine: Engine, texts: Sequence[Sequence[int]], name: str = "r") -> list[np.ndarray]:
    asked = EmbedRequest(name, tuple(TokenPrompt(tuple(tokens)) for tokens in texts))
    found = await engine.embed(asked)
    assert [each.n_tokens for each in found] == [len(tokens) for tokens in texts]
    return [np.frombuffer(each.vector, "<f4") for each in found]


def assert_alike(found: Sequence[np.ndarray], expected: Sequence[Sequence[float]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert np.linalg.norm(one) == pytest.approx(1, abs=1e-4)
        assert float(one @ np.array(other)) > CLOSE


@pytest.fixture(scope="module")
def pooling_smollm2(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The decoder with the word in its header that makes it an embedding model: of each text's last token."""
    path = tmp_path_factory.mktemp("pooling") / "smollm2-last.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    last = MetadataDetails(gguf.GGUFValueType.UINT32, 3)
    copy_with_new_metadata(gguf.GGUFReader(smollm2), writer, {"llama.pooling_type": last}, [])
    return path


@pytest.mark.parametrize("name", ["bert", "nomic-bert", "modern-bert", "gemma-embedding"])
async def test_an_embedding_model_makes_of_many_texts_what_it_makes_of_each(
    build: Build, tmp_path: Path, name: str
) -> None:
    model = BY_NAME[name].write(tmp_path)
    expected = plainly(build, model, TEXTS)
    async with embedding(build, model) as engine:
        assert_alike(await vectors(engine, TEXTS), expected)
    assert abs(np.array(expected[0]) @ np.array(expected[3])) < CLOSE  # texts are told apart


async def test_a_decoder_with_a_pooling_embeds_texts_and_generates_none(build: Build, pooling_smollm2: Path) -> None:
    expected = plainly(build, pooling_smollm2, TEXTS)
    async with embedding(build, pooling_smollm2) as engine:
        assert_alike(await vectors(engine, TEXTS), expected)
        same = await engine.embed(EmbedRequest("text", (TextPrompt("hello"), TextPrompt("hello"), TextPrompt("no"))))
        with pytest.raises(EngineRequestError, match="makes embeddings and does not generate text") as raised:
            await answer(engine, request(FRANCE))
    assert same[0].vector == pytest.approx(same[1].vector)
    assert raised.value.code == "model_not_supported"


async def test_workers_make_the_same_vectors(build: Build, pooling_smollm2: Path) -> None:
    with worker(build, "node-1") as (first, _), worker(build, "node-2") as (second, _):
        async with embedding(build, pooling_smollm2, first, second) as engine:
            assert_alike(await vectors(engine, TEXTS), plainly(build, pooling_smollm2, TEXTS))


async def test_requests_at_once_and_a_cancelled_one_do_not_mix(build: Build, tmp_path: Path) -> None:
    model = BY_NAME["bert"].write(tmp_path)
    expected = plainly(build, model, TEXTS)
    async with embedding(build, model) as engine:
        many = EmbedRequest("many", (TokenPrompt(tuple(range(100))),) * 2000)
        cancelled = asyncio.ensure_future(engine.embed(many))
        found = await asyncio.gather(*(vectors(engine, [text], str(n)) for n, text in enumerate(TEXTS)))
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert_alike([each for (each,) in found], expected)


@pytest.mark.parametrize(
    ("text", "code"),
    [((1,) * 129, "context_length_exceeded"), ((10**6,), "invalid_prompt"), ((), "invalid_prompt")],
)
async def test_a_text_that_cannot_be_embedded_fails_alone(
    build: Build, tmp_path: Path, text: tuple[int, ...], code: str
) -> None:
    async with embedding(build, BY_NAME["bert"].write(tmp_path)) as engine:
        with pytest.raises(EngineRequestError) as raised:
            await engine.embed(EmbedRequest("bad", (TokenPrompt((1,)), TokenPrompt(text))))
        assert raised.value.code == code
        assert len(await vectors(engine, [(1,) * 128], "good")) == 1


async def test_a_model_that_ranks_is_not_loaded(build: Build, tmp_path: Path) -> None:
    bert = BY_NAME["bert"]
    model = dataclasses.replace(bert, name="ranking", arch="bert", keys=bert.keys | {"pooling_type": 4}).write(tmp_path)
    async with await start(build) as engine:
        with pytest.raises(EngineLoadError, match="ranks texts"):
            await engine.load(LoadSpec("m", str(model)))


@pytest.mark.parametrize("encoding", ["float", openai.omit])
async def test_the_openai_client_gets_vectors(
    build: Build, pooling_smollm2: Path, tmp_path: Path, encoding: Any
) -> None:
    async with one_engine.running(build.lib_dir, pooling_smollm2, tmp_path) as gateway:
        found = await gateway.client.embeddings.create(
            model=one_engine.MODEL,
            input=["The sky is blue.", "The sky is blue today.", "x = 5;"],
            # Without a word about it the client asks for base64, and decodes it.
            encoding_format=encoding,
        )
        with pytest.raises(openai.BadRequestError) as caught:
            await gateway.client.completions.create(model=one_engine.MODEL, prompt="hi")

    first, second, other = (np.array(each.embedding) for each in found.data)
    assert first @ second > first @ other
    assert found.usage.prompt_tokens > 10
    assert (caught.value.code, caught.value.param) == ("model_not_supported", "model")


async def test_a_model_that_generates_makes_no_vectors(build: Build, smollm2: Path, tmp_path: Path) -> None:
    async with one_engine.running(build.lib_dir, smollm2, tmp_path) as gateway:
        with pytest.raises(openai.BadRequestError) as caught:
            await gateway.client.embeddings.create(model=one_engine.MODEL, input="hi")
    assert (caught.value.code, caught.value.param) == ("model_not_supported", "model")
