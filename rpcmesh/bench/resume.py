"""A lost engine's answer goes on with the next one: with what was saved of its KV cells, and with a prefill instead."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec

from rpcmesh.bench import decode
from rpcmesh.engine.client import Engine
from rpcmesh.engine.messages import (
    DeviceSpec,
    GenerateRequest,
    LoadSpec,
    Piece,
    Restored,
    Sampling,
    Saved,
    Snapshot,
    TextPrompt,
    TokenPrompt,
)
from rpcmesh.native_build import Build
from rpcmesh.paths import Home

GREEDY = Sampling(temperature=0)
N_CTX = 4096
# Decoded behind the last piece of the prompt: what the stream beside it is like when nothing is saved.
CALM_TOKENS = 24
# Each piece is saved, to see what all of them cost.
SAVE_FROM = 1


class Measured(msgspec.Struct, frozen=True):
    """Medians for one length of prompt. Seconds are from the loss of the engine to the first new token.

    ``gap`` is the longest time between two tokens of another stream: while the prompt's cells were saved, and then.
    """

    prompt_tokens: int
    saved_bytes: int
    saving_ms: float
    gap_saving_ms: float
    gap_calm_ms: float
    prefilled_s: float
    restored_s: float
    ratio: float
    pairs: tuple[tuple[float, float], ...]


class _Round(msgspec.Struct, frozen=True):
    saved_bytes: int
    saving_ms: float
    gap_saving_ms: float
    gap_calm_ms: float
    prefilled_s: float
    restored_s: float


class _Keep:
    """Keeps one answer's file, and when its pieces came."""

    def __init__(self) -> None:
        self.file = -1
        self.fingerprint = ""
        self.pieces: list[Piece] = []
        self.seconds = 0.0
        self.last_at = 0.0

    def saved(self, saved: Saved, file: int | None) -> tuple[str, ...]:
        if saved.id != "long":
            if file is not None:
                os.close(file)
            return (saved.id,)
        if file is not None:
            self.file = file
        self.fingerprint = saved.fingerprint
        self.pieces.append(saved.piece)
        self.seconds += saved.seconds
        self.last_at = time.perf_counter()
        return ()

    def restored(self, restored: Restored) -> None:
        """The first token's time says it."""

    @property
    def n_tokens(self) -> int:
        return self.pieces[-1].stop if self.pieces else 0


class Bench:
    """Use :func:`compare`."""

    def __init__(self, build: Build, spec: LoadSpec) -> None:
        self._build = build
        self._spec = spec

    async def round(self, n_tokens: int, number: int) -> _Round:
        """One prompt, whose engine is lost; then two engines go on with it, each lost in its turn."""
        keep = _Keep()
        prompt = TokenPrompt(tuple(200 + (token * 7919 + number * 101) % 40_000 for token in range(n_tokens)))
        async with contextlib.AsyncExitStack() as stack:
            engine = await self._start(stack, keep)
            await engine.load(self._spec)
            sent, gaps = await _answer_until_saved(engine, prompt, keep)
            stack.callback(os.close, keep.file)
            snapshot = Snapshot(keep.fingerprint, tuple(keep.pieces))
            took: dict[bool, float] = {}
            for restored in (True, False) if number % 2 else (False, True):
                request = GenerateRequest(
                    "long", prompt, None, GREEDY, True, tuple(sent), snapshot=snapshot if restored else None
                )
                engine, took[restored] = await self._lose(stack, engine, request, keep.file)
        n_bytes = sum(piece.n_bytes for piece in keep.pieces)
        return _Round(n_bytes, 1000 * keep.seconds, 1000 * gaps[0], 1000 * gaps[1], took[False], took[True])

    async def _lose(
        self, stack: contextlib.AsyncExitStack, engine: Engine, request: GenerateRequest, file: int
    ) -> tuple[Engine, float]:
        """Kill ``engine``; the one that goes on, and the seconds until it had a new token."""
        following = await self._start(stack, _Keep())
        lost_at = time.perf_counter()
        engine.kill()
        await engine.lost()
        # What it saves itself is not measured.
        await following.load(msgspec.structs.replace(self._spec, snapshot_min_tokens=N_CTX))
        async with contextlib.aclosing(following.generate(request, file)) as deltas:
            await anext(deltas)
        return following, time.perf_counter() - lost_at

    async def _start(self, stack: contextlib.AsyncExitStack, keep: _Keep) -> Engine:
        engine = await Engine.start(lib_dir=self._build.lib_dir, on_log=lambda _: None, keeper=keep)
        return await stack.enter_async_context(engine)


async def _answer_until_saved(
    engine: Engine, prompt: TokenPrompt, keep: _Keep
) -> tuple[list[int], tuple[float, float]]:
    """The tokens sent by then, and the longest gaps of another stream while its cells are saved, and after it."""
    arrivals: list[float] = []
    sent: list[int] = []
    began = 0.0
    calm = 0
    async with asyncio.TaskGroup() as group:
        beside = group.create_task(_note_arrivals(engine, arrivals))
        async with contextlib.aclosing(engine.generate(GenerateRequest("long", prompt, None, GREEDY, True))) as deltas:
            async for delta in deltas:
                began = began or time.perf_counter()
                sent += delta.token_ids
                calm += keep.n_tokens >= len(prompt.token_ids)
                if calm > CALM_TOKENS:
                    break
        beside.cancel()
    return sent, (_longest_gap(arrivals, began, keep.last_at), _longest_gap(arrivals, keep.last_at, arrivals[-1]))


async def _note_arrivals(engine: Engine, arrivals: list[float]) -> None:
    request = GenerateRequest("beside", TextPrompt("Once upon a time"), None, GREEDY, True)
    async with contextlib.aclosing(engine.generate(request)) as deltas:
        async for delta in deltas:
            arrivals += [time.perf_counter()] * len(delta.token_ids)


def _longest_gap(arrivals: Sequence[float], start: float, end: float) -> float:
    within = [arrival for arrival in arrivals if start <= arrival <= end]
    return max((after - before for before, after in itertools.pairwise(within)), default=0.0)


async def compare(
    home: Home, build: Build, model: Path, *, lengths: Sequence[int], repeats: int, say: Callable[[Measured], None]
) -> tuple[Measured, ...]:
    """For each length of prompt ``repeats`` rounds, over two workers behind mutual TLS; ``say`` gets each when done."""
    measured = []
    async with _bench(home, build, model) as bench:
        for n_tokens in lengths:
            rounds = [await bench.round(n_tokens, number) for number in range(repeats)]
            measured.append(_medians(n_tokens, rounds))
            say(measured[-1])
    return tuple(measured)


@contextlib.asynccontextmanager
async def _bench(home: Home, build: Build, model: Path) -> AsyncIterator[Bench]:
    async with decode.free_workers(home, build) as mesh:
        devices = tuple(DeviceSpec(f"{mesh.home.socket(f'{node}.w0')}:1", node, "w0") for node in decode.NODES)
        spec = LoadSpec("bench", str(model), devices, n_ctx=N_CTX, n_seq_max=2)
        yield Bench(build, msgspec.structs.replace(spec, snapshot_min_tokens=SAVE_FROM, snapshot_bytes=1 << 40))


def _medians(n_tokens: int, rounds: Sequence[_Round]) -> Measured:
    return Measured(
        prompt_tokens=n_tokens,
        saved_bytes=rounds[0].saved_bytes,
        saving_ms=statistics.median(each.saving_ms for each in rounds),
        gap_saving_ms=statistics.median(each.gap_saving_ms for each in rounds),
        gap_calm_ms=statistics.median(each.gap_calm_ms for each in rounds),
        prefilled_s=statistics.median(each.prefilled_s for each in rounds),
        restored_s=statistics.median(each.restored_s for each in rounds),
        ratio=statistics.median(each.prefilled_s / each.restored_s for each in rounds),
        pairs=tuple((each.restored_s, each.prefilled_s) for each in rounds),
    )
