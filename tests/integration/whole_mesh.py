"""A whole mesh of real processes, and short ways to ask it and to look at it. No test lives here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil

from rpcmesh import config
from rpcmesh.coordinator import founding
from rpcmesh.coordinator.report import NodeReport, StatusReport
from rpcmesh.demo import ask, local_mesh
from rpcmesh.demo.local_mesh import LocalMesh
from rpcmesh.gateway import keys
from rpcmesh.models import library
from rpcmesh.native_build import Build
from rpcmesh.paths import Home

MODEL = "smollm2"
FRANCE = "What is the capital of France? Answer in one sentence."
READY_LIMIT_S = 120.0
LIMIT_S = 60.0
T = TypeVar("T")
RPCMESH = (sys.executable, "-m", "rpcmesh")
LOADED_CLI = """
import sys
import rpcmesh.cli.{verb}
from rpcmesh.cli.main import main
print("loaded", flush=True)
sys.stdin.readline()
main()
"""


@contextlib.contextmanager
def short_home() -> Iterator[Home]:
    """A home whose sockets fit into their addresses; removed at the end."""
    root = Path(tempfile.mkdtemp(prefix="rm-", dir="/tmp"))
    try:
        yield Home(root).ensure()
    finally:
        shutil.rmtree(root)


@contextlib.asynccontextmanager
async def founded(
    build: Build, model_file: Path, drain_s: float = local_mesh.DRAIN_S, **engine: Any
) -> AsyncIterator[LocalMesh]:
    """A coordinator that wants the model and has no node yet. ``engine`` are settings of its section."""
    settings = {"model": MODEL, "n_ctx": 512, "n_seq_max": 4, "failover_wait_s": LIMIT_S, **engine}
    with short_home() as home:
        library.add(home, model_file, MODEL)
        async with local_mesh.running(home, build) as mesh:
            await mesh.found(config.Engine(**settings), drain_s)
            yield mesh


@contextlib.asynccontextmanager
async def ready(
    build: Build,
    model_file: Path,
    nodes: int = 2,
    memory_limit_mib: int = 0,
    drain_s: float = local_mesh.DRAIN_S,
    **engine: Any,
) -> AsyncIterator[LocalMesh]:
    """A mesh of ``node-1`` … that answers, with layers on each."""
    async with founded(build, model_file, drain_s, **{"min_workers": nodes, **engine}) as mesh:
        for number in range(1, nodes + 1):
            await mesh.join(f"node-{number}", memory_limit_mib=memory_limit_mib)
            await mesh.run_node(f"node-{number}")
        await mesh.ready(lambda _: None, READY_LIMIT_S)
        # Where fewer are enough, one that came late has none yet.
        await until_report(mesh, lambda seen: seen.ready and len(holders(seen)) == nodes, "layers on all nodes")
        yield mesh


def new_key(home: Home) -> str:
    now = time.time()
    secret, made = keys.mint("test", now)
    with founding.open_mesh(home) as opened:
        opened.store.add_key(made, founding.ACTOR, now)
    return secret


def endpoint(mesh: LocalMesh) -> ask.Endpoint:
    return ask.Endpoint(url=mesh.url, api_key=new_key(mesh.home), ca_file=mesh.ca_file, model=MODEL)


async def answer(at: ask.Endpoint, question: str, max_tokens: int = 24) -> ask.Answer:
    return await tell(at, question, max_tokens, lambda _: None)


async def tell(at: ask.Endpoint, question: str, max_tokens: int, on_text: Callable[[str], None]) -> ask.Answer:
    """An answer, each piece of which is shown to ``on_text`` as it comes."""
    turns = [ask.Turn(role="user", content=question)]
    return await ask.stream(at, turns, max_tokens=max_tokens, temperature=0.0, on_text=on_text)


async def until(done: Callable[[], Awaitable[T | None]], what: str, limit_s: float = LIMIT_S) -> T:
    """Ask until there is something, or fail saying what did not come."""
    deadline = time.monotonic() + limit_s
    while (found := await done()) is None:
        assert time.monotonic() < deadline, f"{what} did not come within {limit_s:.0f} s"
        await asyncio.sleep(0.02)
    return found


async def until_report(mesh: LocalMesh, true: Callable[[StatusReport], bool], what: str) -> StatusReport:
    async def look() -> StatusReport | None:
        report = await mesh.admin.status()
        return report if true(report) else None

    return await until(look, what)


async def until_told(pieces: list[str], count: int) -> None:
    """Until more than ``count`` pieces of an answer have come."""

    async def enough() -> bool | None:
        return len(pieces) > count or None

    await until(enough, f"{count} pieces of the answer")


def holders(report: StatusReport) -> set[str]:
    return {part.node for part in report.model.placement if part.layers and part.node}


def node_in(report: StatusReport, name: str) -> NodeReport:
    return next(node for node in report.nodes if node.name == name)


def run_cli(home: Home | Path, *verb: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """One verb, run to its end as a user would."""
    root = home.root if isinstance(home, Home) else home
    return subprocess.run(
        [*RPCMESH, *verb],
        env={**os.environ, "RPCMESH_HOME": str(root), **env},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextlib.asynccontextmanager
async def typed_but_for_enter(home: Home, *verb: str) -> AsyncIterator[Callable[[], Awaitable[tuple[int, str, str]]]]:
    """Enter gives the verb's exit status and what it said on both outputs.

    Its program is loaded before, which on a busy machine takes as long as an answer that it is to come into.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LOADED_CLI.format(verb=verb[0]), *verb),
        env={**os.environ, "RPCMESH_HOME": str(home.root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"loaded\n"

    async def enter() -> tuple[int, str, str]:
        said, complained = await process.communicate(b"\n")
        assert process.returncode is not None
        return process.returncode, said.decode(), complained.decode()

    try:
        yield enter
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def _scratch_of(pid: int) -> str:
    """Of a confined worker, which is told its folder by a descriptor and not by name."""
    try:
        return str(Path(f"/proc/{pid}/fd/3").readlink())
    except OSError:
        return ""


def processes_below(root: Path) -> list[str]:
    """Command lines of all processes that know ``root``: arguments, environment or a worker's own folder name it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if process.pid != os.getpid() and (
                any(str(root) in part for part in process.cmdline())
                or str(root) in process.environ().get("RPCMESH_HOME", "")
                or str(root) in _scratch_of(process.pid)
            ):
                found.append(" ".join(process.cmdline()))
    return found
