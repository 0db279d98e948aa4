"""Decoding over two workers: through mutual TLS as rpcmesh does it, and over llama.cpp's own plaintext RPC."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from rpcmesh import config
from rpcmesh.bench import rounds
from rpcmesh.demo import local_mesh
from rpcmesh.engine.client import Engine
from rpcmesh.engine.messages import DeviceSpec, GenerateRequest, LoadSpec, Sampling, TextPrompt
from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import Build
from rpcmesh.native_build.manifest import WORKER
from rpcmesh.paths import Home
from rpcmesh.supervise import child

NODES = ("node-1", "node-2")
PROMPT = TextPrompt("The history of the city of Paris began when")
START_LIMIT_S = 20.0


class StockWorker(msgspec.Struct, frozen=True):
    endpoint: str
    pid: int


async def compare(
    home: Home, build: Build, stock_dir: Path, model: Path, *, tokens: int, repeats: int
) -> rounds.Comparison:
    """Tokens a second of one stream, SmolLM2 or another ``model`` split over two workers with one thread each."""
    async with contextlib.AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(free_workers(home, build))
        ours = await engine(
            stack,
            build.lib_dir,
            model,
            [f"{mesh.home.socket(f'{node}.w0')}:1" for node in NODES],
        )
        workers = [await stack.enter_async_context(stock_worker(stock_dir)) for _ in NODES]
        rival = await engine(stack, stock_dir, model, [worker.endpoint for worker in workers])
        pairs = await rounds.alternate(lambda: turn(ours, tokens), lambda: turn(rival, tokens), repeats)
    return rounds.compare("decode, 1 stream, 2 workers", "tokens/s", "stock RPC, plaintext TCP", pairs)


@contextlib.asynccontextmanager
async def free_workers(home: Home, build: Build) -> AsyncIterator[local_mesh.LocalMesh]:
    """A mesh without a model, whose workers are free for an engine of ours."""
    async with local_mesh.running(home, build) as mesh:
        await mesh.found(config.Engine())
        for node in NODES:
            await mesh.join(node)
            await mesh.run_node(node)

        async def all_up() -> bool | None:
            report = await mesh.admin.status()
            return True if [node.state for node in report.nodes] == ["up"] * len(NODES) else None

        await mesh.until(all_up, START_LIMIT_S, "the nodes did not come up")
        yield mesh


@contextlib.asynccontextmanager
async def stock_worker(stock_dir: Path) -> AsyncIterator[StockWorker]:
    """A plaintext worker on loopback, with one thread."""
    port = local_mesh.free_port()
    argv = [str(stock_dir / WORKER), "-H", "127.0.0.1", "-p", str(port), "-t", "1"]
    async with child.running("stock-worker", argv, env={}, on_line=lambda _: None) as process:
        deadline = time.monotonic() + START_LIMIT_S
        while not _accepts(port):
            if time.monotonic() > deadline:
                raise RpcmeshError(f"the stock worker did not listen on port {port}")
            await asyncio.sleep(0.05)
        yield StockWorker(f"127.0.0.1:{port}", process.pid)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def engine(stack: contextlib.AsyncExitStack, lib_dir: Path, model: Path, endpoints: list[str]) -> Engine:
    """An engine with ``model`` loaded over the workers at ``endpoints``, two at most; ``stack`` ends it."""
    started = await stack.enter_async_context(await Engine.start(lib_dir=lib_dir, on_log=lambda _: None))
    devices = tuple(DeviceSpec(endpoint, node, "w0") for endpoint, node in zip(endpoints, NODES, strict=False))
    await started.load(LoadSpec("bench", str(model), devices, n_ctx=1024, n_seq_max=1))
    return started


async def turn(engine: Engine, tokens: int) -> float:
    """Tokens a second from the first token to the last."""
    request = GenerateRequest(f"bench-{time.monotonic_ns()}", PROMPT, tokens, Sampling(temperature=0), ignore_eos=True)
    seen = 0
    first = last = 0.0
    async for delta in engine.generate(request):
        last = time.perf_counter()
        first = first or last
        seen += len(delta.token_ids)
    return (seen - 1) / (last - first)
