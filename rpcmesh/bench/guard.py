"""What the guard costs: alone, of a processor; and in a mesh, decoding with it beside decoding without it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from rpcmesh.bench import decode, link, rounds
from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import Build, Progress, programs
from rpcmesh.paths import Home
from rpcmesh.supervise import child
from rpcmesh.tunnel import routes

PROGRAM = "guard_bench"
# By its ALPN a tunnel knows what is RPC and needs a guard. The same bytes under this name get none.
BARE_ALPN = "rpcmesh/bare"
# Of two equal workers one is always a little faster, by where its memory happens to lie: so the pairs are those of
# several starts of everything, in both orders.
STARTS = 4


class Alone(msgspec.Struct, frozen=True):
    """Medians of native/tests/guard_bench.cpp, in time of one processor.

    ``graph_check_us`` is for collecting, checking and rewriting a graph of ``graph_nodes`` nodes, ``graph_tensors``
    tensors in all; ``payloads_gb_s`` for SET_TENSOR's data in frames of 256 KiB.
    """

    graph_nodes: int
    graph_tensors: int
    graph_check_us: float
    payloads_gb_s: float


def alone(cache: Path, native: Path, progress: Progress) -> Alone:
    """Compile the native program in the cache, and run it."""
    with programs.compiled(cache=cache, native=native, options=(), targets=[PROGRAM], progress=progress) as objects:
        done = subprocess.run([objects / "bin" / PROGRAM], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RpcmeshError(f"{PROGRAM} failed: {done.stderr.strip()!r}")
    said = {name: float(value) for name, value, _unit in (line.split() for line in done.stdout.splitlines())}
    return Alone(
        graph_nodes=int(said["graph_nodes"]),
        graph_tensors=int(said["graph_tensors"]),
        graph_check_us=said["graph_check"],
        payloads_gb_s=said["payloads"],
    )


async def compare(home: Home, build: Build, model: Path, *, tokens: int, repeats: int) -> rounds.Comparison:
    """Tokens a second of one stream through the same two tunnels, to a worker behind a guard and to one behind none.

    Each has a worker with one thread of its own: a worker serves one engine at a time.
    """
    pairs: list[tuple[float, float]] = []
    for start in range(STARTS):
        order = ("guarded", "bare") if start % 2 == 0 else ("bare", "guarded")
        pairs += await _pairs(Home(home.root / str(start)), build, model, order, tokens, repeats)
    return rounds.compare("decode, 1 stream, 1 worker", "tokens/s", "the same without the guard", pairs)


async def _pairs(
    home: Home, build: Build, model: Path, order: Sequence[str], tokens: int, repeats: int
) -> list[tuple[float, float]]:
    """Workers and engines are started in this ``order``."""
    ways = {
        "guarded": link.Way(routes.rpc_alpn("w0"), home.ensure().socket("worker-guarded")),
        "bare": link.Way(BARE_ALPN, home.socket("worker-bare")),
    }
    async with contextlib.AsyncExitStack() as stack:
        # Where the path is long they lie elsewhere.
        stack.callback(shutil.rmtree, home.run, ignore_errors=True)
        for name in order:
            await stack.enter_async_context(_worker(build, ways[name].socket))
        before = await stack.enter_async_context(link.tunnels(home, build, ways))
        engines = {name: await decode.engine(stack, build.lib_dir, model, [f"{before[name]}:1"]) for name in order}
        return await rounds.alternate(
            lambda: decode.turn(engines["guarded"], tokens), lambda: decode.turn(engines["bare"], tokens), repeats
        )


@contextlib.asynccontextmanager
async def _worker(build: Build, socket: Path) -> AsyncIterator[None]:
    argv = [str(build.worker), "-H", str(socket), "-p", "1", "-t", "1"]
    async with child.running(socket.stem, argv, env={}, on_line=lambda _: None):
        await link.until_socket(socket)
        yield
