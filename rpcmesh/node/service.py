"""A node: its worker, its ingress tunnel and its agent, wired together and stopped together."""

from __future__ import annotations

import asyncio
import time

import structlog

import rpcmesh
from rpcmesh import config
from rpcmesh.errors import RpcmeshError
from rpcmesh.firewall import membership
from rpcmesh.firewall.watch import State
from rpcmesh.firewall.watcher import Watcher
from rpcmesh.native_build import Build
from rpcmesh.node import api, sandbox, telemetry, walls, worker
from rpcmesh.node.guest import Guest
from rpcmesh.node.incidents import Incidents
from rpcmesh.node.status import AgentStatus, CertificateStatus, WorkerStatus
from rpcmesh.paths import Home
from rpcmesh.pki import identity, names
from rpcmesh.serving import unix_site
from rpcmesh.supervise.supervisor import Service, Supervisor
from rpcmesh.tunnel import command, routes

log = structlog.get_logger(__name__)

TUNNEL_STATUS = "tunnel"
MAX_MEMORY_MIB = 1 << 30


class Node:
    """Everything that one node runs. :meth:`run` until ``stop`` is set."""

    def __init__(self, home: Home, settings: config.Config, build: Build) -> None:
        self._home = home
        self._firewall_required = settings.node.firewall == "required"
        self._stop_on_drift = settings.firewall.on_drift == "stop"
        self._watcher = Watcher(home.root)
        self._build = build
        self._started = time.monotonic()
        self._principal = identity.load(home.identity).principal
        self._memory_mib = settings.node.memory_limit_mib or _all_memory_mib(build.backend)
        self._walls = walls.find(home, build, settings.node, self._memory_mib)
        self._incidents = incidents = Incidents()
        threads = settings.node.worker_threads
        self._worker = incidents.worker(
            worker.ENGINE_WORKER, worker.service(home, build, worker.ENGINE_WORKER, threads, self._walls)
        )
        self._guest = Guest(
            worker.service(home, build, worker.GUEST_WORKER, threads, self._walls),
            supervise=lambda service: incidents.worker(worker.GUEST_WORKER, service),
        )
        self._tunnel = incidents.tunnel(self._ingress(settings.node))
        self._agent = api.Agent(
            home=home,
            status=self.status,
            reload_tunnel=self._tunnel.reload,
            want_guest=self._guest.want,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Raises :class:`RpcmeshError` when the settings require a verified firewall and there is none."""
        seen = await self._watcher.look()
        if self._firewall_required and seen.state is not State.VERIFIED:
            raise RpcmeshError(
                f'[node] firewall is "required", and it is not verified: {seen.reason}',
                hint="as root: rpcmesh firewall keep, or rpcmesh service install --role firewall",
            )
        self._write_routes()
        # In every line from here on, also in those of the tasks below.
        structlog.contextvars.bind_contextvars(node=self._principal.node)
        log.info("node_starting", mesh=self._principal.mesh, build_id=self._build.build_id)
        async with unix_site(self._agent.app(), self._home.socket(api.SOCKET_NAME)), asyncio.TaskGroup() as group:
            services = [
                group.create_task(self._worker.run()),
                group.create_task(self._guest.run()),
                group.create_task(self._watcher.run()),
                group.create_task(self._run_tunnel_behind_firewall() if self._stop_on_drift else self._tunnel.run()),
            ]
            await stop.wait()
            for service in services:
                service.cancel()
        self._incidents.close()
        log.info("node_stopped")

    async def _run_tunnel_behind_firewall(self) -> None:
        while True:
            await self._watcher.until(lambda state: state is State.VERIFIED)
            async with asyncio.TaskGroup() as group:
                running = group.create_task(self._tunnel.run())
                await self._watcher.until(lambda state: state is not State.VERIFIED)
                log.error("tunnel_stopped", reason=self._watcher.status.reason)
                running.cancel()

    def status(self) -> AgentStatus:
        held = identity.load(self._home.identity)
        seen = telemetry.machine()
        supervisors = [self._worker, *([self._guest.supervisor] if self._guest.supervisor else [])]
        return AgentStatus(
            name=self._principal.node or "",
            mesh=self._principal.mesh,
            version=rpcmesh.__version__,
            build_id=self._build.build_id,
            backend=self._build.backend,
            os=seen.os,
            arch=seen.arch,
            uptime_s=time.monotonic() - self._started,
            memory_total_bytes=seen.memory_total_bytes,
            memory_available_bytes=seen.memory_available_bytes,
            load_1min=seen.load_1min,
            workers=tuple(_worker_status(supervisor, self._walls) for supervisor in supervisors),
            certificate=CertificateStatus(
                uri=held.uri, serial=held.serial, not_before=held.not_before, not_after=held.not_after
            ),
            crl_number=held.revocations.number,
            tunnel_state=self._tunnel.snapshot.state.value,
            coordinator_addresses=membership.read(self._home.root).peers,
            firewall=self._watcher.status,
            memory_limit_bytes=self._memory_mib << 20,
        )

    def _ingress(self, settings: config.Node) -> Service:
        home = self._home
        argv = command.ingress(
            self._build.tunnel,
            listen=settings.listen,
            identity=home.identity,
            routes=home.run / "ingress.routes",
            status=home.socket(TUNNEL_STATUS),
            memory_mib=self._memory_mib,
            allow_ops=settings.allow_ops,
            compute_timeout_s=settings.compute_timeout_s,
            stall_timeout_s=settings.stall_timeout_s,
        )
        return Service(
            name="tunnel",
            argv=argv,
            env={},
            socket=home.socket(TUNNEL_STATUS),
            fatal={command.EXIT_ADDRESS_IN_USE: command.address_in_use(settings.listen)},
            prepare=self._build.verify,
        )

    def _write_routes(self) -> None:
        peer = names.coordinator_uri(self._principal.mesh)
        home = self._home
        routes.write_ingress(
            home.run / "ingress.routes",
            [
                routes.IngressRoute(routes.AGENT_ALPN, home.socket(api.SOCKET_NAME), peer),
                *(
                    routes.IngressRoute(routes.rpc_alpn(name), home.worker_socket(name), peer)
                    for name in (worker.ENGINE_WORKER, worker.GUEST_WORKER)
                ),
            ],
        )


def _all_memory_mib(backend: str) -> int:
    """What a session may allocate when nothing is configured. A card's own memory ends by itself."""
    return telemetry.machine().memory_total_bytes >> 20 if backend in {"cpu", "metal"} else MAX_MEMORY_MIB


async def run_node(home: Home, settings: config.Config, build: Build, stop: asyncio.Event) -> None:
    """Run the node of ``home`` until ``stop`` is set."""
    await Node(home, settings, build).run(stop)


def _worker_status(supervisor: Supervisor, confined: sandbox.Walls) -> WorkerStatus:
    snapshot = supervisor.snapshot
    return WorkerStatus(
        name=snapshot.name.removeprefix("worker-"),
        state=snapshot.state.value,
        pid=snapshot.pid,
        restarts=snapshot.restarts,
        last_exit=snapshot.last_exit,
        rss_bytes=telemetry.rss_bytes(snapshot.pid),
        devices=telemetry.devices(supervisor.first_lines),
        sandbox=sandbox.status(confined, supervisor.first_lines),
    )
