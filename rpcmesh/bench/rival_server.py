"""llama-server over two stock workers on plaintext loopback, as its own documentation starts it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp

from rpcmesh import config
from rpcmesh.bench import decode
from rpcmesh.bench.contender import Contender
from rpcmesh.demo import local_mesh
from rpcmesh.demo.ask import Endpoint
from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build.rival import SERVER
from rpcmesh.supervise import child

START_LIMIT_S = 120.0
POLL_S = 0.1


def arguments(model: Path, port: int, workers: Sequence[str], engine: config.Engine) -> tuple[str, ...]:
    """The command line behind ``llama-server``, with what ``engine`` says of our own.

    Its context is shared out among the slots. With layers on workers our engine computes with one thread, so this one
    does too. Whatever else there is, batch sizes and caches among it, is as upstream chose it.
    """
    return (
        *("--model", str(model), "--alias", engine.model),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--rpc", ",".join(workers), "--gpu-layers", "999"),
        *("--ctx-size", str(engine.n_ctx * engine.n_seq_max), "--parallel", str(engine.n_seq_max)),
        *("--threads", "1", "--threads-batch", "1"),
    )


@contextlib.asynccontextmanager
async def running(rival: Path, model: Path, engine: config.Engine, scratch: Path) -> AsyncIterator[Contender]:
    """The server and its workers, from the folder ``rival``. Raises :class:`RpcmeshError` if they do not start."""
    port = local_mesh.free_port()
    async with contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(decode.stock_worker(rival)) for _ in decode.NODES]
        argv = (str(rival / SERVER), *arguments(model, port, [worker.endpoint for worker in workers], engine))
        # It keeps what it downloads there, and wants to know where even if it downloads nothing.
        env = {"LLAMA_CACHE": str(scratch), "HOME": str(scratch)}
        server = await stack.enter_async_context(child.running(SERVER, argv, env=env, on_line=lambda _: None))
        await _answers(port, server)
        endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", "", None, engine.model)
        # It promises to keep connections and closes each after a streamed answer.
        yield Contender(endpoint, (server.pid, *(worker.pid for worker in workers)), keep_alive=False)


async def _answers(port: int, server: child.Child) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    async with aiohttp.ClientSession() as session:
        while server.exit is None and time.monotonic() < deadline:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/health") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(POLL_S)
    last = server.tail[-1] if server.tail else "it said nothing"
    raise RpcmeshError(f"{SERVER} did not come up on port {port}: {last!r}")
