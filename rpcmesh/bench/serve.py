"""Our endpoint beside llama-server's: the same questions over HTTP, turn about, while the other side is idle.

What is the same for both: the model file, two workers with one thread each, one thread for whatever is computed beside
them, the context's length and its slots, the questions of a turn, and how the clients ask them: greedily, streaming,
one answer after the other. No two prompts begin alike, so that neither side's cache of prompts helps it. llama.cpp is
the same source, compiled with the same options.

What is not: ours speaks HTTPS with an API key, and mutual TLS with a guard to workers that are confined; the rival's
way is plaintext throughout. Our clients keep their connections, which are open before the clock runs; llama-server
closes one after each streamed answer, so its clients open another, without TLS. Each side batches and samples as its
defaults say.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import aiohttp
import msgspec

from rpcmesh import config
from rpcmesh.bench import closed_loop, decode, rival_server, rounds, streams
from rpcmesh.bench.closed_loop import Latency, Question, Turn
from rpcmesh.bench.contender import Contender, cpu_s
from rpcmesh.bench.streams import Told
from rpcmesh.demo import local_mesh
from rpcmesh.demo.ask import Endpoint
from rpcmesh.errors import RpcmeshError
from rpcmesh.models import library
from rpcmesh.native_build import Build
from rpcmesh.paths import Home

MODEL = "smollm2"
NODES = decode.NODES
ENGINE = config.Engine(model=MODEL, min_workers=len(NODES), n_ctx=1024, n_seq_max=16)
READY_LIMIT_S = 180.0
RIVAL_NAME = "llama-server, plaintext RPC"


class Wishes(msgspec.Struct, frozen=True):
    """``tokens`` is the length of a whole answer, ``rounds`` the pairs of turns for each stream count."""

    streams: tuple[int, ...]
    rounds: int
    tokens: int


class Side(msgspec.Struct, frozen=True):
    """``tokens_per_s`` is the median over the turns, all clients together.

    ``clients_cpu`` and ``idle_cpu`` are the most of any turn, see :class:`Turn`.
    """

    tokens_per_s: float
    latency: Latency
    clients_cpu: float
    idle_cpu: float


class Row(msgspec.Struct, frozen=True):
    """One stream count. ``rival`` and ``ratio`` are None without one; ``pairs`` are tokens/s, ours and the rival's."""

    streams: int
    ours: Side
    rival: Side | None = None
    ratio: float | None = None
    pairs: tuple[tuple[float, float], ...] = ()


async def compare(
    home: Home,
    build: Build,
    rival: Path | None,
    model: Path,
    wishes: Wishes,
    make_key: Callable[[Home], str],
    say: Callable[[str, float], None],
) -> tuple[Row, ...]:
    """One row a stream count. ``rival`` is the folder with llama-server. The home is the caller's to remove."""
    async with contextlib.AsyncExitStack() as stack:
        say("start a mesh", 0.0)
        ours = await stack.enter_async_context(_mesh(home, build, model, make_key))
        theirs = None
        if rival is not None:
            say("start llama-server", 0.0)
            theirs = await stack.enter_async_context(rival_server.running(rival, model, ENGINE, home.root))
        rows = []
        for number, clients in enumerate(wishes.streams):
            say(f"{clients} streams", number / len(wishes.streams))
            rows.append(await _row(ours, theirs, clients, wishes))
        return tuple(rows)


@contextlib.asynccontextmanager
async def _mesh(home: Home, build: Build, model: Path, make_key: Callable[[Home], str]) -> AsyncIterator[Contender]:
    library.add(home.ensure(), model, MODEL)
    async with local_mesh.running(home, build) as mesh:
        await mesh.found(ENGINE)
        for node in NODES:
            await mesh.join(node)
            await mesh.run_node(node)
        await mesh.ready(lambda _: None, READY_LIMIT_S)
        endpoint = Endpoint(mesh.url, make_key(home), mesh.ca_file, MODEL)
        yield Contender(endpoint, tuple(process.pid for process in mesh.processes.values()))


async def _row(ours: Contender, theirs: Contender | None, clients: int, wishes: Wishes) -> Row:
    async def turn(asked: Contender, idle: Contender | None, number: int) -> Turn:
        return await _turn(asked, idle, number, clients, wishes.tokens)

    # The questions of a turn are its number's, and so the same for both sides.
    mine, its = itertools.count(), itertools.count()
    if theirs is None:
        alone = [await turn(ours, None, next(mine)) for _ in range(wishes.rounds + 1)][1:]
        return Row(clients, _side(alone))
    pairs = await rounds.alternate(
        lambda: turn(ours, theirs, next(mine)), lambda: turn(theirs, ours, next(its)), wishes.rounds
    )
    speeds = [(one.tokens_per_s, other.tokens_per_s) for one, other in pairs]
    compared = rounds.compare(f"{clients} streams", "tokens/s", RIVAL_NAME, speeds)
    return Row(
        clients, _side([one for one, _ in pairs]), _side([other for _, other in pairs]), compared.ratio, compared.pairs
    )


async def _turn(asked: Contender, idle: Contender | None, number: int, clients: int, tokens: int) -> Turn:
    told: list[Told] = []
    async with contextlib.AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(streams.connected(asked.endpoint, keep_alive=asked.keep_alive))
            for _ in range(clients)
        ]
        began, clients_cpu_s, idle_cpu_s = time.perf_counter(), time.process_time(), cpu_s(idle)
        async with asyncio.TaskGroup() as group:
            for client, session in enumerate(sessions):
                asks = closed_loop.questions(number, client, clients, tokens)
                group.create_task(_ask_all(session, asked.endpoint, asks, told))
        taken_s = time.perf_counter() - began
        clients_cpu_s, idle_cpu_s = time.process_time() - clients_cpu_s, cpu_s(idle) - idle_cpu_s
    return closed_loop.outcome(told, clients_cpu_s / taken_s, idle_cpu_s / taken_s)


async def _ask_all(
    session: aiohttp.ClientSession, endpoint: Endpoint, asks: Sequence[Question], told: list[Told]
) -> None:
    for question in asks:
        answer = Told(question.prompt, began=time.perf_counter())
        if not await streams.ask(session, endpoint, answer, question.max_tokens):
            answer.error = "not ready"
        if answer.error:
            raise RpcmeshError(f"{endpoint.url} gave no whole answer: {answer.error}")
        told.append(answer)


def _side(turns: Sequence[Turn]) -> Side:
    return Side(
        tokens_per_s=statistics.median(turn.tokens_per_s for turn in turns),
        latency=closed_loop.latency(turns),
        clients_cpu=max(turn.clients_cpu for turn in turns),
        idle_cpu=max(turn.idle_cpu for turn in turns),
    )
