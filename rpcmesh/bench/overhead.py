"""What the gateway adds to the time to a first token: the same engine asked directly and over HTTPS, turn about.

The engine computes on this machine's processor, without workers: what lies behind it is the same for both. Gateway and
client share one process and one thread here, so what is found also holds the client's own work: it is an upper bound.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import msgspec

from rpcmesh import config
from rpcmesh.bench import closed_loop, rounds, streams
from rpcmesh.bench.streams import Told
from rpcmesh.coordinator import founding
from rpcmesh.demo.ask import Endpoint
from rpcmesh.engine.client import Engine
from rpcmesh.engine.messages import (
    Delta,
    Embedded,
    EmbedRequest,
    GenerateRequest,
    LoadedModel,
    LoadSpec,
    Sampling,
    TextPrompt,
)
from rpcmesh.errors import RpcmeshError
from rpcmesh.gateway.app import make_app
from rpcmesh.gateway.server import serving
from rpcmesh.gateway.tls import server_tls
from rpcmesh.native_build import Build
from rpcmesh.paths import Home

REQUESTS = 100
TOKENS = 2


class Overhead(msgspec.Struct, frozen=True):
    """Milliseconds to the first token. ``added_p50_ms`` is the median of the pairs' differences."""

    direct_p50_ms: float
    gateway_p50_ms: float
    added_p50_ms: float


class _Alone:
    """The gateway's backend: one engine, always there."""

    def __init__(self, engine: Engine, loaded: LoadedModel) -> None:
        self._engine = engine
        self._loaded = loaded

    def models(self) -> tuple[LoadedModel, ...]:
        return (self._loaded,)

    def not_ready_reason(self) -> str | None:
        return None

    def slots(self) -> int:
        return 1

    def awaited(self) -> tuple[str, ...]:
        return ()

    def generate(self, model: str, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        return self._engine.generate(request)

    async def embed(self, model: str, request: EmbedRequest) -> tuple[Embedded, ...]:
        return await self._engine.embed(request)


async def measure(home: Home, build: Build, model: Path, make_key: Callable[[Home], str]) -> Overhead:
    """``REQUESTS`` pairs of one short question each. The home is the caller's to remove."""
    founding.found(home, config.Config(), time.time())
    key = make_key(home)
    async with await Engine.start(lib_dir=build.lib_dir, on_log=lambda _: None) as engine:
        loaded = await engine.load(LoadSpec("alone", str(model), n_ctx=1024, n_seq_max=1, n_threads=1))
        with founding.open_mesh(home) as mesh:
            mesh.ensure_gateway_certificate(time.time())
            app = make_app(_Alone(engine, loaded), mesh.store)
            context = server_tls(home.gateway / "cert.pem", home.gateway / "key.pem")
            async with serving(app, context, "127.0.0.1", 0) as port:
                endpoint = Endpoint(f"https://127.0.0.1:{port}/v1", key, home.authority / "ca.pem", "alone")
                pairs = await _pairs(engine, endpoint)
    return summary(pairs)


async def _pairs(engine: Engine, endpoint: Endpoint) -> list[tuple[float, float]]:
    """Seconds to the first token, through the gateway and directly."""
    async with streams.connected(endpoint) as session:
        numbers = iter(range(2 * REQUESTS + 2))

        async def through() -> float:
            answer = Told(_prompt(next(numbers)), began=time.perf_counter())
            await streams.ask(session, endpoint, answer, TOKENS)
            if answer.error:
                raise RpcmeshError(f"{endpoint.url} gave no whole answer: {answer.error}")
            return answer.arrivals[0] - answer.began

        async def direct() -> float:
            number = next(numbers)
            prompt = TextPrompt(_prompt(number))
            request = GenerateRequest(f"direct-{number}", prompt, TOKENS, Sampling(temperature=0), ignore_eos=True)
            began = time.perf_counter()
            arrivals = [time.perf_counter() async for _ in engine.generate(request)]
            return arrivals[0] - began

        return await rounds.alternate(through, direct, REQUESTS)


def _prompt(number: int) -> str:
    """Five words, of about as many tokens whatever the number."""
    return " ".join(closed_loop.WORDS[(number * step) % len(closed_loop.WORDS)] for step in (1, 3, 5, 9, 11))


def summary(pairs: list[tuple[float, float]]) -> Overhead:
    """``pairs`` are seconds, through the gateway and directly."""
    through, direct = (sorted(side) for side in zip(*pairs, strict=True))
    return Overhead(
        direct_p50_ms=rounds.percentile(direct, 0.5) * 1000,
        gateway_p50_ms=rounds.percentile(through, 0.5) * 1000,
        added_p50_ms=rounds.percentile(sorted(mine - its for mine, its in pairs), 0.5) * 1000,
    )
