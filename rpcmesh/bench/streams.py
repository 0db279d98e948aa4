"""Clients that ask for one answer after the other and note when each token came."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import AsyncIterator

import aiohttp
import msgspec

from rpcmesh.demo.ask import Endpoint

SUBJECTS = ("the sea", "a lighthouse", "an old clock", "the first snow", "a river in spring", "the night train")
LIMIT_S = 180.0


class Told(msgspec.Struct):
    """One answer; ``error`` is empty if all is well, ``ended`` is 0 until it has.

    ``arrivals`` are the times (perf_counter) of its tokens, or of its pieces of text where no tokens are told.
    """

    prompt: str
    began: float
    token_ids: list[int] = []
    arrivals: list[float] = []
    counted: int | None = None
    ended: float = 0.0
    error: str = ""


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Choice(msgspec.Struct):
    text: str = ""
    token_ids: list[int] = []


class _Error(msgspec.Struct):
    message: str
    code: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


async def ask_on(
    endpoint: Endpoint, number: int, seed: int, max_tokens: int, told: list[Told], stop: asyncio.Event
) -> None:
    """One client: greedy answers of exactly ``max_tokens`` tokens, until ``stop`` is set and the last has ended.

    Each is in ``told`` from its beginning on.

    A refusal before the first token (503) is asked again, as its Retry-After says that a client should.
    """
    chance = random.Random(f"{seed}/{number}")  # noqa: S311 (repeatable on purpose)
    async with connected(endpoint) as session:
        while not stop.is_set():
            prompt = f"A story about {chance.choice(SUBJECTS)}, number {chance.randrange(1000)}. Once upon a time"
            answer = Told(prompt, began=time.perf_counter())
            told.append(answer)
            if not await ask(session, endpoint, answer, max_tokens):
                told.remove(answer)
                await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def connected(
    endpoint: Endpoint, *, keep_alive: bool = True, limit_s: float = LIMIT_S
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose connection is open and has been used. ``keep_alive`` False: each request has one of its own.

    ``limit_s``: how long an answer may take.
    """
    trust = ssl.create_default_context(cafile=endpoint.ca_file)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trust, force_close=not keep_alive),
        headers={"Authorization": f"Bearer {endpoint.api_key}", "Content-Type": "application/json"},
        timeout=aiohttp.ClientTimeout(total=limit_s),
    ) as session:
        async with session.get(f"{endpoint.url}/models") as response:
            await response.read()
        yield session


async def ask(session: aiohttp.ClientSession, endpoint: Endpoint, answer: Told, max_tokens: int) -> bool:
    """Fill in ``answer``, greedily and with exactly ``max_tokens`` tokens. False when the endpoint was not ready."""
    body = msgspec.json.encode(
        {
            "model": endpoint.model,
            "prompt": answer.prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
    )
    try:
        async with session.post(f"{endpoint.url}/completions", data=body) as response:
            if response.status == 503:
                return False
            if response.status != 200:
                answer.error = f"status {response.status}"
            async for line in response.content:
                _take(answer, line)
    except (aiohttp.ClientError, TimeoutError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.ended = time.perf_counter()
    if not answer.error and answer.counted is None:
        answer.error = "the stream ended without its usage"
    return True


def _take(answer: Told, line: bytes) -> None:
    payload = line.strip().removeprefix(b"data:").strip()
    if not line.startswith(b"data:") or payload == b"[DONE]":
        return
    chunk = msgspec.json.decode(payload, type=_Chunk)
    if chunk.error:
        answer.error = chunk.error.code or chunk.error.message
    for choice in chunk.choices:
        answer.token_ids += choice.token_ids
        answer.arrivals += [time.perf_counter()] * (len(choice.token_ids) or bool(choice.text))
    if chunk.usage:
        answer.counted = chunk.usage.completion_tokens
