"""Keeps in touch with every member: asks for its status, renews its certificate, sends it the revocation list.

What is due is decided by :func:`chores`; the class carries it out and reports what it saw as events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from enum import StrEnum

import structlog

from rpcmesh.coordinator import founding, state
from rpcmesh.coordinator.addresses import addresses_towards, membership_of
from rpcmesh.coordinator.agent_client import AgentClient
from rpcmesh.coordinator.founding import OpenMesh
from rpcmesh.coordinator.records import Action, Member, MemberState
from rpcmesh.errors import PeerError, RpcmeshError
from rpcmesh.firewall import membership
from rpcmesh.node.status import AgentStatus
from rpcmesh.node.worker import ENGINE_WORKER, GUEST_WORKER
from rpcmesh.observe import error_log
from rpcmesh.pki import identity, names, renewal
from rpcmesh.tunnel import routes
from rpcmesh.tunnel import status as tunnel_status

log = structlog.get_logger(__name__)

ACTOR = "coordinator"
# A node that lives answers within milliseconds, under load within a second; open answers wait for this look.
AT_ONCE_S = 1.5
# The name of the egress tunnel's status socket.
TUNNEL_STATUS = "tunnel"


class Chore(StrEnum):
    """What a node needs from its coordinator."""

    REVOCATIONS = "revocations"
    ADDRESSES = "addresses"
    RENEWAL = "renewal"


def chores(agent: AgentStatus, *, crl_number: int, now: float, addresses: tuple[str, ...] = ()) -> tuple[Chore, ...]:
    """What is due on a node that just answered. ``addresses`` are those that we connect to it from, if known."""
    leaf = agent.certificate
    due = []
    if agent.crl_number < crl_number:
        due.append(Chore.REVOCATIONS)
    if addresses and agent.coordinator_addresses != addresses:
        due.append(Chore.ADDRESSES)
    if renewal.is_due(leaf.not_before, leaf.not_after, renewal.jitter_of(leaf.serial), now):
        due.append(Chore.RENEWAL)
    return tuple(due)


_FAILURES = {
    "peer_unreachable": "nothing answers at {address}: is the node running, does its firewall let us in?",
    "refused_by_peer": "{address} refuses the coordinator's certificate",
    "untrusted_ca": "{address} has a certificate of another authority",
    "certificate_expired": "the certificate at {address} has expired: compare the clocks, or join the node anew",
    "certificate_not_yet_valid": "the certificate at {address} is not valid yet: compare the clocks of both machines",
    "certificate_revoked": "the certificate at {address} is revoked",
    "wrong_identity": "another member of the mesh answers at {address}",
    "not_tls": "what answers at {address} is not a tunnel",
    "handshake_timeout": "{address} accepts the connection and then says nothing",
}


def said_of_failure(word: str, address: str) -> str:
    """The tunnel's word for a failed connection to ``address``, for people."""
    return _FAILURES.get(word, f"{{address}}: {word}").format(address=address)


class Members:
    """``reload_tunnel`` makes the egress tunnel read its routes and identity again."""

    def __init__(
        self,
        mesh: OpenMesh,
        *,
        build_id: str,
        emit: Callable[[state.Event], None],
        reload_tunnel: Callable[[], None],
    ) -> None:
        self._mesh = mesh
        self._build_id = build_id
        self._emit = emit
        self._reload_tunnel = reload_tunnel
        self._clients: dict[str, AgentClient] = {}

    def begin(self) -> None:
        """Put every member into the state and its routes into the file, before the tunnel starts."""
        for member in self._live():
            self._emit(state.NodeJoined(member.name, member.address, drained=member.drained_at is not None))
        self._write_routes()
        self._write_membership()

    def joined(self, member: Member) -> None:
        """A node was admitted: route to it."""
        self._emit(state.NodeJoined(member.name, member.address))
        self._write_routes()
        self._write_membership()
        self._reload_tunnel()

    async def revoke(self, name: str) -> None:
        """Cut ``name`` off: its live connections here at once, and at every other node as soon as the list arrives."""
        revoked = self._mesh.revoke(name, time.time())
        # First, so that its engine ends by plan and not by losing a worker.
        self._emit(state.NodeRevoked(name))
        self._write_routes()
        self._write_membership()
        self._reload_tunnel()
        log.info("node_revoked", node=name, crl_number=revoked.number)
        await self.poll()

    def drain(self, name: str) -> None:
        """Use ``name`` no longer for layers, also after a restart. Raises :class:`RpcmeshError` if it is no member."""
        self._mesh.store.drain_member(name, founding.ACTOR, time.time())
        self._emit(state.NodeDrained(name))

    def resume(self, name: str) -> None:
        """Use ``name`` again. Raises :class:`RpcmeshError` if it is no member."""
        self._mesh.store.resume_member(name, founding.ACTOR, time.time())
        self._emit(state.NodeResumed(name))

    async def errors(self, name: str, after: int | None, last: int) -> error_log.Page:
        """A page of node ``name``'s error log. Raises :class:`RpcmeshError` without such a node or answer."""
        member = next((member for member in self._live() if member.name == name), None)
        if member is None:
            raise RpcmeshError(f"no node of this mesh is named {name!r}", hint="rpcmesh node ls")
        try:
            return await self._client(member).errors(after, last)
        except PeerError as error:
            raise RpcmeshError(
                f"node {name!r} does not tell its errors: {await self._why(member, error)}",
                hint=f"rpcmesh status; on {name} itself: rpcmesh logs",
            ) from error

    async def poll(self) -> None:
        """Ask every member once, all at the same time."""
        async with asyncio.TaskGroup() as group:
            for member in self._live():
                group.create_task(self._visit(member))

    async def look(self, names: Collection[str]) -> None:
        """Ask those named, in a hurry: who does not answer at once counts as unreachable until the next poll."""
        async with asyncio.TaskGroup() as group:
            for member in self._live():
                if member.name in names:
                    group.create_task(self._visit_at_once(member))

    async def _visit_at_once(self, member: Member) -> None:
        try:
            async with asyncio.timeout(AT_ONCE_S):
                await self._visit(member)
        except TimeoutError:
            reason = f"the agent did not answer within {AT_ONCE_S} s"
            self._emit(state.NodeUnreachable(member.name, reason, time.monotonic()))

    async def run(self, interval_s: float) -> None:
        """Poll until cancelled."""
        try:
            while True:
                try:
                    self._renew_own()
                except OSError as error:
                    log.error("own_renewal_failed", reason=str(error))  # a full disk: there are days left to mend it
                await self.poll()
                await asyncio.sleep(interval_s)
        finally:
            for client in self._clients.values():
                await client.close()

    async def _visit(self, member: Member) -> None:
        client = self._client(member)
        try:
            agent = await client.status()
            self._emit(self._judge(member, agent))
            due = chores(
                agent,
                crl_number=self._mesh.store.mesh().crl_number,
                now=time.time(),
                addresses=addresses_towards(member.address),
            )
            for chore in due:
                await self._do(chore, member, client)
        except PeerError as error:
            self._emit(state.NodeUnreachable(member.name, await self._why(member, error), time.monotonic()))
        except RpcmeshError as error:
            # Revoked while its certificate was being renewed, for one: there is nothing to renew then.
            log.warning("node_chore_failed", node=member.name, reason=error.message)

    def _client(self, member: Member) -> AgentClient:
        if member.name not in self._clients:
            self._clients[member.name] = AgentClient(self._mesh.home.socket(f"{member.name}.agent"))
        return self._clients[member.name]

    async def _why(self, member: Member, error: PeerError) -> str:
        """The tunnel knows better than the failed request why nothing came through."""
        try:
            failing = (await tunnel_status.fetch(self._mesh.home.socket(TUNNEL_STATUS))).failing_routes
        except RpcmeshError:
            return error.message
        word = failing.get(f"{member.name}.agent")
        return f"{error.message}: {said_of_failure(word, member.address)}" if word else error.message

    def _judge(self, member: Member, agent: AgentStatus) -> state.Event:
        if agent.build_id != self._build_id:
            reason = f"its build is {agent.build_id!r} and the coordinator's is {self._build_id!r}"
            return state.NodeRefused(member.name, agent, reason, time.monotonic())
        return state.NodeAnswered(member.name, agent, time.monotonic())

    async def _do(self, chore: Chore, member: Member, client: AgentClient) -> None:
        log.info("node_chore", node=member.name, chore=chore.value)
        match chore:
            case Chore.REVOCATIONS:
                await client.put_revocations(self._mesh.revocation_list())
            case Chore.ADDRESSES:
                await client.put_coordinator_addresses(addresses_towards(member.address))
            case Chore.RENEWAL:
                now = time.time()
                csr = await client.begin_renewal()
                leaf = self._mesh.authority.sign_csr(csr, names.node_uri(self._mesh.name, member.name), now)
                self._mesh.store.record_certificate(leaf, Action.CERTIFICATE_RENEWED, ACTOR, now)
                await client.finish_renewal(leaf.pem)

    def _renew_own(self) -> None:
        now = time.time()
        own = identity.load(self._mesh.home.identity)
        if renewal.is_due(own.not_before, own.not_after, renewal.jitter_of(own.serial), now):
            csr = identity.begin_renewal(self._mesh.home.identity)
            leaf = self._mesh.authority.sign_csr(csr, own.uri, now)
            self._mesh.store.record_certificate(leaf, Action.CERTIFICATE_RENEWED, ACTOR, now)
            identity.finish_renewal(self._mesh.home.identity, leaf.pem)
            self._reload_tunnel()
            log.info("own_certificate_renewed", not_after=leaf.not_after)

    def _live(self) -> list[Member]:
        return [member for member in self._mesh.store.members() if member.state is MemberState.JOINED]

    def _write_membership(self) -> None:
        membership.write(self._mesh.home.root, membership_of(self._mesh.store.members()))

    def _write_routes(self) -> None:
        home, mesh = self._mesh.home, self._mesh.name
        routes.write_egress(
            home.run / "egress.routes",
            [
                routes.EgressRoute(
                    listen=home.socket(f"{member.name}.{service}"),
                    address=member.address,
                    alpn=alpn,
                    peer=names.node_uri(mesh, member.name),
                )
                for member in self._live()
                for service, alpn in (
                    ("agent", routes.AGENT_ALPN),
                    (ENGINE_WORKER, routes.rpc_alpn(ENGINE_WORKER)),
                    (GUEST_WORKER, routes.rpc_alpn(GUEST_WORKER)),
                )
            ],
        )
