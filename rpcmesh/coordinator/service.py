"""The coordinator: gateway, join door, engine, egress tunnel and admin socket, wired together and stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Collection

import structlog
from aiohttp import web

import rpcmesh
from rpcmesh import config
from rpcmesh.coordinator import admin, members, metrics, said, state
from rpcmesh.coordinator.founding import OpenMesh
from rpcmesh.coordinator.join import join_routes
from rpcmesh.coordinator.members import TUNNEL_STATUS, Members
from rpcmesh.coordinator.model_host import ModelHost
from rpcmesh.coordinator.report import StatusReport, report
from rpcmesh.errors import RpcmeshError
from rpcmesh.firewall.watcher import Watcher
from rpcmesh.gateway import tls
from rpcmesh.gateway.admission import Limits
from rpcmesh.gateway.app import make_app
from rpcmesh.gateway.request_queue import RequestQueue
from rpcmesh.gateway.server import SHUTDOWN_TIMEOUT_S, listening
from rpcmesh.models import library
from rpcmesh.native_build import Build
from rpcmesh.serving import unix_site
from rpcmesh.supervise.supervisor import Service, Supervisor
from rpcmesh.tunnel import command
from rpcmesh.tunnel import status as tunnel_status
from rpcmesh.tunnel.status import TunnelStatus

log = structlog.get_logger(__name__)

GATEWAY_RENEWAL_CHECK_S = 3600.0
# How often the engine's connections are looked at: a machine that freezes or vanishes says nothing of it.
LINK_WATCH_S = 0.5


class CoordinatorService:
    """Everything that the coordinator runs."""

    def __init__(self, mesh: OpenMesh, build: Build) -> None:
        self._mesh = mesh
        self._build = build
        self._started = time.monotonic()
        self._watcher = Watcher(mesh.home.root)
        self._cluster = state.Cluster(hold_out_max_s=mesh.settings.engine.hold_out_max_s)
        self._tunnel = Supervisor(self._egress())
        self._members = Members(mesh, build_id=build.build_id, emit=self._emit, reload_tunnel=self._tunnel.reload)
        self._host = ModelHost(
            settings=mesh.settings,
            lib_dir=build.lib_dir,
            socket_of=lambda node, worker: mesh.home.socket(f"{node}.{worker}"),
            model_path=lambda name: library.find(mesh.home, name).path,
            cluster=lambda: self._cluster,
            emit=self._emit,
            look_again=self._look_again,
            on_seat=lambda: self._queue.look(),  # noqa: PLW0108 (the queue is made after the host, and with it)
        )
        engine = mesh.settings.engine
        self._queue = RequestQueue(
            self._host, Limits(engine.queue_max, engine.per_key_max), engine_wait_s=engine.failover_wait_s
        )

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        settings = self._mesh.settings
        self._members.begin()
        if settings.engine.model:
            self._emit(state.ModelWanted(settings.engine.model))
        self._mesh.ensure_gateway_certificate(time.time())
        async with contextlib.AsyncExitStack() as sites:
            context = tls.server_tls(self._mesh.home.gateway / "cert.pem", self._mesh.home.gateway / "key.pem")
            host, port = config.parse_address(settings.coordinator.listen)
            server = await sites.enter_async_context(listening(self._gateway(), context, host, port))
            admin_app = admin.make_app(self._verbs())
            await sites.enter_async_context(unix_site(admin_app, self._mesh.home.socket(admin.SOCKET_NAME)))
            log.info(
                "coordinator_serving",
                mesh=self._mesh.name,
                listen=settings.coordinator.listen,
                build_id=self._build.build_id,
            )
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._tunnel.run()),
                    group.create_task(self._run_members()),
                    group.create_task(self._host.run()),
                    group.create_task(self._watcher.run()),
                    group.create_task(self._keep_gateway_certificate(context)),
                ]
                await stop.wait()
                server.close()
                await self._let_answers_end(hurry)
                for task in tasks:
                    task.cancel()
        log.info("coordinator_stopped")

    async def _let_answers_end(self, hurry: asyncio.Event) -> None:
        """Take no request any more. Answers that have not ended when the time is up, or in a ``hurry``, are cut."""
        limit_s = self._mesh.settings.coordinator.drain_s
        self._queue.close()
        log.info("coordinator_draining", answers=self._queue.figures().running, limit_s=limit_s)
        async with asyncio.TaskGroup() as group:
            empty, hurried = group.create_task(self._queue.empty()), group.create_task(hurry.wait())
            await asyncio.wait({empty, hurried}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            self._queue.cut()
            await asyncio.wait({empty}, timeout=SHUTDOWN_TIMEOUT_S)
            empty.cancel()
            hurried.cancel()

    async def status(self) -> StatusReport:
        tunnel = await self._tunnel_status()
        # The rest is of one moment: a mesh that is ready has a loaded model.
        return report(
            self._cluster,
            tunnel,
            mesh=self._mesh.name,
            version=rpcmesh.__version__,
            build_id=self._build.build_id,
            endpoint=f"https://{self._mesh.settings.coordinator.listen}/v1",
            uptime_s=time.monotonic() - self._started,
            reason=self._queue.not_ready_reason(),
            requests=self._queue.figures(),
            firewall=self._watcher.status,
            now=time.monotonic(),
        )

    def _verbs(self) -> admin.Verbs:
        return admin.Verbs(
            status=self.status,
            revoke=self._members.revoke,
            drain=self._drain,
            resume=self._members.resume,
            load=self._host.load,
            errors=self._members.errors,
        )

    def _drain(self, name: str, force: bool) -> None:
        if not force:
            self._host.require_without(name)
        self._members.drain(name)

    def _emit(self, event: state.Event) -> None:
        before = self._cluster
        self._cluster = state.apply(before, event)
        for line in said.changes(before, self._cluster):
            log.info("cluster_changed", change=line)
        self._host.wake()
        self._queue.look()

    async def _run_members(self) -> None:
        # Before the tunnel is up, every node would look lost.
        await self._tunnel.until_ready()
        interval_s = self._mesh.settings.coordinator.agent_poll_s
        async with asyncio.TaskGroup() as group:
            group.create_task(self._members.run(interval_s))
            group.create_task(self._watch_links())

    async def _look_again(self, names: Collection[str]) -> None:
        """Ask these nodes at once, once there is a tunnel to ask them through: ours may be what was lost."""
        try:
            await self._tunnel.until_ready(members.AT_ONCE_S)
        except RpcmeshError as error:
            log.warning("tunnel_not_ready", reason=error.message)
        await self._members.look(names)

    async def _watch_links(self) -> None:
        received: dict[str, int] = {}
        while True:
            received, silent = await self._look_at_links(received)
            suspects = state.suspects(self._cluster, silent) if self._host.answering else ()
            if suspects:
                # A worker may be computing for long; a machine that lives says so in the meantime.
                await self._members.look(suspects)
                received, _ = await self._look_at_links(received)
            await asyncio.sleep(LINK_WATCH_S)

    async def _look_at_links(self, former: dict[str, int]) -> tuple[dict[str, int], frozenset[str]]:
        """Bytes received by each live route, and the routes that received nothing since ``former``."""
        loaded = self._cluster.model.loaded
        # A tunnel that does not answer is busy or starts again; the one that comes then has no session.
        if (seen := await self._tunnel_status()) is None:
            return former, frozenset()
        received = {session.route: session.bytes_in for session in seen.sessions}
        silent = frozenset(route for route, count in received.items() if former.get(route) == count)
        self._emit(state.LinksSeen(loaded, frozenset(received), silent))
        return received, silent

    async def _tunnel_status(self) -> TunnelStatus | None:
        """None between two starts of the tunnel, when there is none to ask."""
        try:
            return await tunnel_status.fetch(self._mesh.home.socket(TUNNEL_STATUS))
        except RpcmeshError:
            return None

    async def _keep_gateway_certificate(self, context: ssl.SSLContext) -> None:
        while True:
            await asyncio.sleep(GATEWAY_RENEWAL_CHECK_S)
            if self._mesh.ensure_gateway_certificate(time.time()):
                tls.reload_tls(context, self._mesh.home.gateway / "cert.pem", self._mesh.home.gateway / "key.pem")
                log.info("gateway_certificate_renewed")

    def _gateway(self) -> web.Application:
        door = join_routes(
            self._mesh.store, self._mesh.authority, self._build.build_id, time.time, self._members.joined
        )
        extra = [*door, metrics.route(self.status)]
        return make_app(self._host, self._mesh.store, queue=self._queue, extra_routes=extra)

    def _egress(self) -> Service:
        home = self._mesh.home
        return Service(
            name="tunnel",
            argv=command.egress(
                self._build.tunnel,
                identity=home.identity,
                routes=home.run / "egress.routes",
                status=home.socket(TUNNEL_STATUS),
            ),
            env={},
            socket=home.socket(TUNNEL_STATUS),
            prepare=self._build.verify,
        )


async def run_coordinator(mesh: OpenMesh, build: Build, stop: asyncio.Event, hurry: asyncio.Event) -> None:
    """Run the coordinator of ``mesh`` until ``stop`` is set, and open answers have ended or ``hurry`` is set too."""
    await CoordinatorService(mesh, build).run(stop, hurry)
