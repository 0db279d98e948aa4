"""The agent's HTTP API, on a Unix socket. Who reaches it came through the tunnel as the coordinator, or is us."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import structlog
from aiohttp import web

from rpcmesh.errors import PeerError, RpcmeshError
from rpcmesh.firewall import membership
from rpcmesh.node import probe
from rpcmesh.node.measure import Measurements
from rpcmesh.node.status import AgentStatus
from rpcmesh.observe import error_log
from rpcmesh.paths import Home
from rpcmesh.pki import identity
from rpcmesh.pki.revocation import Reason, RevocationsRefusedError

log = structlog.get_logger(__name__)

SOCKET_NAME = "agent"
# A revocation list grows by about 40 bytes an entry.
MAX_BODY_BYTES = 1 << 20


class Agent:
    """``reload_tunnel`` makes the ingress tunnel read its identity and revocation list again."""

    def __init__(
        self,
        *,
        home: Home,
        status: Callable[[], AgentStatus],
        reload_tunnel: Callable[[], None],
        want_guest: Callable[[], Awaitable[None]],
    ) -> None:
        self._home = home
        self._status = status
        self._reload_tunnel = reload_tunnel
        self._want_guest = want_guest
        self._measurements = Measurements()
        self._prober = probe.Prober()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_refusals])
        app.add_routes(
            [
                web.get("/status", self._get_status),
                web.get("/errors", self._get_errors),
                web.post("/identity/csr", self._begin_renewal),
                web.put("/identity/certificate", self._finish_renewal),
                web.put("/revocations", self._put_revocations),
                web.put("/coordinator/addresses", self._put_coordinator_addresses),
                web.put("/workers/guest", self._put_guest),
                web.post("/probe", self._post_probe),
                *self._measurements.routes(),
            ]
        )
        return app

    async def _get_status(self, _: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._status()), content_type="application/json")

    async def _get_errors(self, request: web.Request) -> web.Response:
        """A page of the error log: those after the place ``after``, or the last ``last``."""
        after, last = error_log.parse_query(request.query)
        page = error_log.page(error_log.path_of(self._home), after=after, last=last)
        return web.Response(body=msgspec.json.encode(page), content_type="application/json")

    async def _begin_renewal(self, _: web.Request) -> web.Response:
        """A signing request (DER) for the pending key, which stays here."""
        return web.Response(body=identity.begin_renewal(self._home.identity), content_type="application/pkcs10")

    async def _finish_renewal(self, request: web.Request) -> web.Response:
        identity.finish_renewal(self._home.identity, await request.read())
        self._reload_tunnel()
        return web.Response()

    async def _put_revocations(self, request: web.Request) -> web.Response:
        sent = await request.read()
        try:
            identity.install_revocations(self._home.identity, sent)
        except RevocationsRefusedError as error:
            # The list in force, signed once more, changes nothing and is no fault of the sender's.
            if error.reason is not Reason.NOT_NEWER or error.number != error.in_force:
                raise
            return web.Response()
        self._reload_tunnel()
        return web.Response()

    async def _put_coordinator_addresses(self, request: web.Request) -> web.Response:
        """A JSON list of IP addresses: where this node's firewall must let the coordinator in from."""
        try:
            sent = msgspec.json.decode(await request.read(), type=tuple[str, ...])
        except msgspec.DecodeError as error:
            raise PeerError(f"not a list of addresses: {error}") from error
        known = membership.Membership(peers=membership.single_addresses(sent))
        if membership.write(self._home.root, known):
            log.info("coordinator_addresses", addresses=known.peers)
        return web.Response()

    async def _put_guest(self, _: web.Request) -> web.Response:
        await self._want_guest()
        return web.Response()

    async def _post_probe(self, request: web.Request) -> web.Response:
        probed = await self._prober.probe(probe.parse(await request.read()))
        return web.Response(body=msgspec.json.encode(probed), content_type="application/json")


@web.middleware
async def _refusals(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except PeerError as error:
        return web.Response(status=409, text=error.message)
    except RpcmeshError as error:
        return web.Response(status=500, text=error.message)
