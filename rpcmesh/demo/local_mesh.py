"""A coordinator and its nodes on one machine, each a process tree with its own home and identity.

The same verbs that an admin types are what runs here: ``serve`` and ``node run``, with a real join in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from rpcmesh import config
from rpcmesh.coordinator import admin, founding
from rpcmesh.coordinator.report import StatusReport
from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import Build
from rpcmesh.node import joining
from rpcmesh.paths import Home
from rpcmesh.pki.files import write_private
from rpcmesh.supervise import child

# A stopped coordinator lets open answers end, a stopped node its worker.
STOP_GRACE_S = 15.0
DRAIN_S = 5.0
START_LIMIT_S = 60.0
POLL_S = 0.05
MESH = "demo"
# What the processes see of our environment, besides their home.
PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "RPCMESH_CACHE", "XDG_CACHE_HOME", "CXX")

T = TypeVar("T")


class LocalMesh:
    """Use :func:`running`. ``processes`` maps ``coordinator`` and each node's name to its process."""

    def __init__(self, home: Home, build: Build, stack: contextlib.AsyncExitStack) -> None:
        self.home = home
        self.build = build
        self.processes: dict[str, child.Child] = {}
        self.listen = f"127.0.0.1:{free_port()}"
        self._stack = stack

    @property
    def url(self) -> str:
        return f"https://{self.listen}/v1"

    @property
    def ca_file(self) -> Path:
        return self.home.authority / "ca.pem"

    @property
    def admin(self) -> admin.AdminClient:
        return admin.AdminClient(self.home.socket(admin.SOCKET_NAME))

    def node_home(self, name: str) -> Home:
        return Home(self.home.root / "nodes" / name)

    async def found(self, engine: config.Engine, drain_s: float = DRAIN_S) -> None:
        """Make the mesh and start its coordinator."""
        settings = config.Config(
            mesh=config.Mesh(name=MESH),
            coordinator=config.Coordinator(listen=self.listen, drain_s=drain_s),
            engine=engine,
            build=config.Build(backend=self.build.backend),
        )
        founding.found(self.home, settings, time.time())
        await self.run_coordinator()

    async def run_coordinator(self) -> None:
        """Start the coordinator and wait until it can be asked."""
        await self.start("coordinator", self.home, "serve")

        async def answers() -> StatusReport | None:
            try:
                return await self.admin.status()
            except admin.NotRunningError:
                return None

        await self.until(answers, START_LIMIT_S, "the coordinator did not start")

    async def join(self, name: str, *, memory_limit_mib: int = 0) -> None:
        """Mint a join token and join with it. The node's worker gives no more than its limit, if there is one."""
        with founding.open_mesh(self.home) as mesh:
            token = mesh.create_token(name, ttl_s=600.0, now=time.time())
        home = self.node_home(name)
        listen = f"127.0.0.1:{free_port()}"
        await joining.join(home, token, listen, self.build.build_id, time.time())
        node = config.Node(name=name, listen=listen, worker_threads=1, memory_limit_mib=memory_limit_mib)
        settings = config.Config(mesh=config.Mesh(name=MESH), node=node, build=config.Build(backend=self.build.backend))
        write_private(home.config, config.render(settings).encode())

    async def run_node(self, name: str) -> None:
        await self.start(name, self.node_home(name), "node", "run")

    async def ready(self, on_report: Callable[[StatusReport], None], limit_s: float) -> StatusReport:
        """Wait until a real token came back. Raises :class:`RpcmeshError` with the reason when it never does."""

        async def is_ready() -> StatusReport | None:
            report = await self.admin.status()
            on_report(report)
            if report.model.state == "failed":
                raise RpcmeshError(f"the model could not be loaded: {report.model.reason}", hint=self._log_hint())
            return report if report.ready else None

        return await self.until(is_ready, limit_s, "the mesh did not become ready")

    async def start(self, name: str, home: Home, *verb: str) -> None:
        """Start ``rpcmesh VERB`` in ``home``; its output goes to a file in the home's logs."""
        log = self._stack.enter_context((home.ensure().logs / f"{name}.log").open("a", encoding="utf-8", buffering=1))
        env = {key: os.environ[key] for key in PASSED_ON if key in os.environ} | {"RPCMESH_HOME": str(home.root)}
        argv = [sys.executable, "-m", "rpcmesh", *verb]
        self.processes[name] = await self._stack.enter_async_context(
            child.running(name, argv, env=env, on_line=lambda line: print(line, file=log), grace_s=STOP_GRACE_S)
        )

    async def until(self, done: Callable[[], Awaitable[T | None]], limit_s: float, otherwise: str) -> T:
        """Wait until ``done`` gives something, or a process ended that should run."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            for name, process in self.processes.items():
                if process.exit is not None:
                    said = (
                        [line for line in process.tail if line.startswith("error:")] or list(process.tail)[-1:] or [""]
                    )
                    raise RpcmeshError(f"{name} ended ({process.exit}): {said[0]}", hint=self._log_hint())
            if (result := await done()) is not None:
                return result
            await asyncio.sleep(POLL_S)
        raise RpcmeshError(f"{otherwise} within {limit_s:.0f} s", hint=self._log_hint())

    def _log_hint(self) -> str:
        return f"the logs lie in {self.home.root}: logs/ and nodes/*/logs/"


@contextlib.asynccontextmanager
async def running(home: Home, build: Build) -> AsyncIterator[LocalMesh]:
    """A mesh whose processes end with the block, however it is left. Its files stay."""
    async with contextlib.AsyncExitStack() as stack:
        yield LocalMesh(home, build, stack)


def free_port() -> int:
    """A TCP port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
