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
from typing import TypeVar

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
    build: Build,
    model_file: Path,
    *,
    min_workers: int,
    failover_wait_s: float = LIMIT_S,
    drain_s: float = local_mesh.DRAIN_S,
    n_ctx: int = 512,
) -> AsyncIterator[LocalMesh]:
    """A coordinator that wants the model and has no node yet."""
    with short_home() as home:
        library.add(home, model_file, MODEL)
        async with local_mesh.running(home, build) as mesh:
            await mesh.found(
                config.Engine(
                    model=MODEL, min_workers=min_workers, n_ctx=n_ctx, n_seq_max=4, failover_wait_s=failover_wait_s
                ),
                drain_s,
            )
            yield mesh


@contextlib.asynccontextmanager
async def ready(
    build: Build,
    model_file: Path,
    nodes: int = 2,
    min_workers: int | None = None,
    drain_s: float = local_mesh.DRAIN_S,
    n_ctx: int = 512,
) -> AsyncIterator[LocalMesh]:
    """A mesh of ``node-1`` … that answers."""
    async with founded(build, model_file, min_workers=min_workers or nodes, drain_s=drain_s, n_ctx=n_ctx) as mesh:
        for number in range(1, nodes + 1):
            await mesh.join(f"node-{number}")
            await mesh.run_node(f"node-{number}")
        await mesh.ready(lambda _: None, READY_LIMIT_S)
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
