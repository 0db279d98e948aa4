"""What a running stream feels of a long prompt beside it: the pauses between its tokens, with one and without."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec

from rpcmesh import config
from rpcmesh.bench.rounds import percentile
from rpcmesh.bench.streams import connected
from rpcmesh.demo import local_mesh
from rpcmesh.demo.ask import Endpoint
from rpcmesh.errors import RpcmeshError
from rpcmesh.models import library
from rpcmesh.native_build import Build
from rpcmesh.paths import Home

MODEL = "smollm2"
NODES = ("node-1", "node-2")
READY_LIMIT_S = 180.0
TURN_LIMIT_S = 300.0
# What the engine learns the cost of its steps from: more than a batch, or they would not count as a long prompt.
LEARNING_TOKENS = 600
# Prompts are drawn from these ids: the model need not understand them.
FIRST_TOKEN, LAST_TOKEN = 1000, 40000
# The prompt comes while the stream is well under way.
FIRST_TOKENS = 16
# A running stream is broken off, it never ends by itself.
STREAM_TOKENS = 1_000_000


class Wishes(msgspec.Struct, frozen=True):
    """``prompt_tokens`` are prefilled beside one running stream, ``rounds`` times."""

    prompt_tokens: int
    rounds: int


class Turn(msgspec.Struct, frozen=True):
    """Pauses between one stream's tokens. ``first_token_s``: how long the prompt beside it took, if there was one."""

    tokens: int
    p50_ms: float
    p95_ms: float
    max_ms: float
    first_token_s: float | None = None


class Pair(msgspec.Struct, frozen=True):
    """Two turns, one after the other."""

    alone: Turn
    beside: Turn

    @property
    def p95_ratio(self) -> float:
        return self.beside.p95_ms / self.alone.p95_ms


class Fairness(msgspec.Struct, frozen=True):
    """Medians over ``pairs``; the ratio's is that of the pairs' ratios."""

    prompt_tokens: int
    alone: Turn
    beside: Turn
    p95_ratio: float
    pairs: tuple[Pair, ...]


async def run(home: Home, build: Build, model_file: Path, wishes: Wishes, make_key: Callable[[Home], str]) -> Fairness:
    """The home is the caller's to remove. Raises :class:`RpcmeshError` when a stream breaks off."""
    library.add(home.ensure(), model_file, MODEL)
    async with local_mesh.running(home, build) as mesh:
        # The stream runs as long as the prompt is prefilled, and is never to be cut by its context.
        n_ctx = max(2 * wishes.prompt_tokens, 1024)
        await mesh.found(config.Engine(model=MODEL, min_workers=len(NODES), n_ctx=n_ctx, n_seq_max=2))
        for name in NODES:
            await mesh.join(name)
            await mesh.run_node(name)
        await mesh.ready(lambda _: None, READY_LIMIT_S)
        endpoint = Endpoint(mesh.url, make_key(home), mesh.ca_file, MODEL)
        async with connected(endpoint, limit_s=TURN_LIMIT_S) as client:
            pairs = await _alternate(client, endpoint, wishes)
    return summary(wishes.prompt_tokens, pairs)


async def _alternate(client: aiohttp.ClientSession, endpoint: Endpoint, wishes: Wishes) -> list[Pair]:
    """One pair unrecorded, in which the engine learns what its steps cost.

    The stream alone is timed over as many tokens as the one beside the prompt, because pauses grow with a context.
    """
    chance = random.Random(wishes.prompt_tokens)  # noqa: S311 (repeatable on purpose)
    pairs = []
    for n_tokens in (min(LEARNING_TOKENS, wishes.prompt_tokens), *[wishes.prompt_tokens] * wishes.rounds):
        # A new one each time: none may be in the cache.
        tokens = [chance.randrange(FIRST_TOKEN, LAST_TOKEN) for _ in range(n_tokens)]
        beside = await _beside(client, endpoint, tokens)
        pairs.append(Pair(alone=await _alone(client, endpoint, beside.tokens), beside=beside))
    return pairs[1:]


async def _beside(client: aiohttp.ClientSession, endpoint: Endpoint, prompt: list[int]) -> Turn:
    """One stream until the prompt beside it has its first token."""
    async with _streaming(client, endpoint) as arrivals:
        began, start = time.perf_counter(), len(arrivals.times)
        await _read(client, endpoint, prompt, 1, _Arrivals(), asyncio.Event())
        first_token_s = time.perf_counter() - began
        return turn(arrivals.times[start - 1 :], first_token_s)


async def _alone(client: aiohttp.ClientSession, endpoint: Endpoint, n_tokens: int) -> Turn:
    """One stream for ``n_tokens``."""
    async with _streaming(client, endpoint) as arrivals:
        start = len(arrivals.times)
        await arrivals.until(start + n_tokens)
        return turn(arrivals.times[start - 1 :], None)


@asynccontextmanager
async def _streaming(client: aiohttp.ClientSession, endpoint: Endpoint) -> AsyncIterator[_Arrivals]:
    """A stream that is well under way, and is broken off afterwards."""
    arrivals, enough = _Arrivals(), asyncio.Event()
    async with asyncio.timeout(TURN_LIMIT_S), asyncio.TaskGroup() as group:
        group.create_task(_read(client, endpoint, "Once upon a time", STREAM_TOKENS, arrivals, enough))
        await arrivals.until(FIRST_TOKENS)
        yield arrivals
        enough.set()


class _Arrivals:
    """When each token of a stream came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._more = asyncio.Event()

    def note(self) -> None:
        self.times.append(time.perf_counter())
        self._more.set()

    async def until(self, n_tokens: int) -> None:
        while len(self.times) < n_tokens:
            self._more.clear()
            await self._more.wait()


async def _read(
    client: aiohttp.ClientSession,
    endpoint: Endpoint,
    prompt: str | list[int],
    max_tokens: int,
    arrivals: _Arrivals,
    enough: asyncio.Event,
) -> None:
    """Note when each token came, until it is ``enough``."""
    body = {
        "model": endpoint.model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
    }
    async with client.post(f"{endpoint.url}/completions", data=msgspec.json.encode(body)) as response:
        if response.status != 200:
            raise RpcmeshError(f"the endpoint answered {response.status}: {(await response.text())[:200]!r}")
        async for line in response.content:
            if b'"token_ids"' in line:
                arrivals.note()
            if enough.is_set():
                return


def turn(arrivals: list[float], first_token_s: float | None) -> Turn:
    """What the times of consecutive tokens, two at least, amount to."""
    pauses_ms = sorted(1000 * (after - before) for before, after in itertools.pairwise(arrivals))
    return Turn(
        tokens=len(pauses_ms),
        p50_ms=percentile(pauses_ms, 0.5),
        p95_ms=percentile(pauses_ms, 0.95),
        max_ms=percentile(pauses_ms, 1.0),
        first_token_s=first_token_s,
    )


def summary(prompt_tokens: int, pairs: list[Pair]) -> Fairness:
    """The medians of one pair at least."""
    return Fairness(
        prompt_tokens=prompt_tokens,
        alone=_median([pair.alone for pair in pairs]),
        beside=_median([pair.beside for pair in pairs]),
        p95_ratio=statistics.median(pair.p95_ratio for pair in pairs),
        pairs=tuple(pairs),
    )


def _median(turns: list[Turn]) -> Turn:
    firsts = [each.first_token_s for each in turns if each.first_token_s is not None]
    return Turn(
        tokens=sum(each.tokens for each in turns),
        p50_ms=statistics.median(each.p50_ms for each in turns),
        p95_ms=statistics.median(each.p95_ms for each in turns),
        max_ms=statistics.median(each.max_ms for each in turns),
        first_token_s=statistics.median(firsts) if firsts else None,
    )
