"""Whom the coordinator admits: the decision, and the two HTTPS routes that carry it out.

The node's key never leaves the node and the token's secret is never sent: a request carries a signing request and an
HMAC over it. The order is decide → consume the token → sign → record → answer, so that whatever dies in between costs
a token and never leaves a certificate that nobody knows of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum

import msgspec
import structlog
from aiohttp import web

from rpcmesh.coordinator.addresses import addresses_towards
from rpcmesh.coordinator.records import Action, Member
from rpcmesh.coordinator.source_limit import SourceLimit
from rpcmesh.coordinator.store import NameTakenError, Store
from rpcmesh.pki import messages, names, signing_request, tokens
from rpcmesh.pki.authority import Authority
from rpcmesh.pki.messages import JoinGranted, JoinRefused, JoinRequest
from rpcmesh.pki.tokens import JoinToken, Problem

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 16 << 10
BODY_TIMEOUT_S = 10.0

_NEW_TOKEN = "on the coordinator: rpcmesh token create"  # noqa: S105


class Reason(StrEnum):
    """Why a join was refused, for the log and the audit trail."""

    UNKNOWN_TOKEN = "unknown_token"  # noqa: S105
    BAD_MAC = "bad_mac"
    TOKEN_CONSUMED = "token_consumed"  # noqa: S105
    TOKEN_EXPIRED = "token_expired"  # noqa: S105
    OTHER_NODE = "other_node"
    BAD_ADDRESS = "bad_address"
    OTHER_BUILD = "other_build"
    BAD_CSR = "bad_csr"
    NAME_TAKEN = "name_taken"


class Accept(msgspec.Struct, frozen=True):
    """Consume ``token`` and sign."""

    token: JoinToken


class Refuse(msgspec.Struct, frozen=True):
    """``message`` is None for strangers: only who proved to hold the token's secret learns what was wrong."""

    reason: Reason
    message: str | None = None
    hint: str | None = None


# Checked against when the id is unknown, so that a wrong id takes as long as a wrong secret.
_NO_TOKEN = JoinToken(id="", mac_key=bytes(32), node=None, created_at=0.0, expires_at=0.0)


def decide_join(
    token: JoinToken | None, request: JoinRequest, now: float, *, build_id: str, name_taken: bool
) -> Accept | Refuse:
    """Whether ``request`` is to be granted. ``build_id`` is the coordinator's own; ``name_taken`` by a live node."""
    if not tokens.is_genuine(messages.mac_of(request, (token or _NO_TOKEN).mac_key), request.mac):
        return Refuse(Reason.UNKNOWN_TOKEN if token is None else Reason.BAD_MAC)
    if token is None:
        return Refuse(Reason.UNKNOWN_TOKEN)
    problem = tokens.problem(token, now)
    if problem is not None:
        return _refuse_token(problem, token, now)
    if token.node is not None and token.node != request.node:
        return Refuse(
            Reason.OTHER_NODE, f"the join token is for node {token.node!r}, not for {request.node!r}", _NEW_TOKEN
        )
    if not messages.is_dialable(request.address):
        return Refuse(Reason.BAD_ADDRESS, f"{request.address!r} is not an address that the coordinator could dial")
    if request.build_id != build_id:
        return Refuse(
            Reason.OTHER_BUILD,
            f"this node's build is {request.build_id!r} and the coordinator's is {build_id!r}: they must be the same",
            "install the same version on both, then on both: rpcmesh build",
        )
    if name_taken:
        taken = NameTakenError(request.node)
        return Refuse(Reason.NAME_TAKEN, taken.message, taken.hint)
    try:
        signing_request.checked_public_key(request.csr)
    except signing_request.BadRequestError as error:
        return Refuse(Reason.BAD_CSR, error.message)
    return Accept(token)


def _refuse_token(problem: Problem, token: JoinToken, now: float) -> Refuse:
    match problem:
        case Problem.EXPIRED:
            age_min = int((now - token.expires_at) // 60)
            return Refuse(Reason.TOKEN_EXPIRED, f"the join token {token.id!r} expired {age_min} min ago", _NEW_TOKEN)
        case Problem.CONSUMED:
            # Said plainly: if its owner did not use it, somebody else did.
            return Refuse(Reason.TOKEN_CONSUMED, f"the join token {token.id!r} was already used", _NEW_TOKEN)
        case Problem.UNKNOWN:
            return Refuse(Reason.UNKNOWN_TOKEN)


def join_routes(
    store: Store,
    authority: Authority,
    build_id: str,
    clock: Callable[[], float],
    on_joined: Callable[[Member], None],
) -> list[web.RouteDef]:
    """``GET /join/ca`` and ``POST /join``, to be mounted in the gateway. They guard themselves.

    ``on_joined`` is called once the member is recorded, before it is answered.
    """
    door = _Door(store, authority, build_id, clock, on_joined)
    return [web.get(messages.CA_PATH, door.ca), web.post(messages.JOIN_PATH, door.join)]


class _Door:
    def __init__(
        self,
        store: Store,
        authority: Authority,
        build_id: str,
        clock: Callable[[], float],
        on_joined: Callable[[Member], None],
    ) -> None:
        self._store = store
        self._authority = authority
        self._build_id = build_id
        self._clock = clock
        self._on_joined = on_joined
        self._limit = SourceLimit()

    async def ca(self, _: web.Request) -> web.Response:
        """Public, as every CA certificate is. The joiner compares it with the pin in its join string."""
        return web.Response(body=self._authority.ca_pem, content_type="application/x-pem-file")

    async def join(self, request: web.Request) -> web.Response:
        source = request.remote or "unknown"
        wait_s = self._limit.retry_after_s(source, self._clock())
        if wait_s is not None:
            response = _answer(429, JoinRefused("too_many_requests"))
            response.headers["Retry-After"] = str(int(wait_s) + 1)
            return response
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await request.clone(client_max_size=MAX_BODY_BYTES).read()
        except TimeoutError:
            return _answer(408, JoinRefused("too_slow"))
        except web.HTTPRequestEntityTooLarge:
            return _answer(413, JoinRefused("too_large"))
        try:
            wanted = msgspec.json.decode(body, type=JoinRequest)
        except msgspec.DecodeError:
            return _answer(400, JoinRefused("malformed"))
        # Nothing is awaited from here on: a joiner that hangs up cannot stop it half way.
        match self._admit(wanted, f"joiner {source}"):
            case Refuse() as refused:
                self._note_refusal(wanted, refused, source)
                return _answer(403, JoinRefused("refused", refused.message, refused.hint))
            case granted:
                return _answer(200, granted)

    def _admit(self, wanted: JoinRequest, actor: str) -> JoinGranted | Refuse:
        now = self._clock()
        found = self._store.find_token(wanted.token_id)
        name_taken = self._store.is_live(wanted.node)
        match decide_join(found, wanted, now, build_id=self._build_id, name_taken=name_taken):
            case Refuse() as refused:
                return refused
            case Accept(token):
                return self._let_in(wanted, token, actor, now)

    def _let_in(self, wanted: JoinRequest, token: JoinToken, actor: str, now: float) -> JoinGranted | Refuse:
        # Somebody else may have used it since it was read: the database has the last word.
        problem = self._store.consume_token(token.id, wanted.node, actor, now)
        if problem is not None:
            return _refuse_token(problem, token, now)
        mesh = self._authority.mesh
        leaf = self._authority.sign_csr(wanted.csr, names.node_uri(mesh, wanted.node), now)
        member = Member(wanted.node, wanted.address, wanted.build_id, wanted.os, joined_at=now)
        try:
            self._store.admit(member, leaf, actor, now)
        except NameTakenError as error:
            return Refuse(Reason.NAME_TAKEN, error.message, error.hint)
        log.info("node_joined", node=member.name, address=member.address, serial=leaf.serial)
        self._on_joined(member)
        return JoinGranted(
            cert_pem=leaf.pem.decode(),
            ca_pem=self._authority.ca_pem.decode(),
            crl_pem=self._authority.sign_revocations(self._store.revocations()).decode(),
            mesh=mesh,
            node=member.name,
            coordinator_uri=names.coordinator_uri(mesh),
            coordinator_addresses=addresses_towards(member.address),
        )

    def _note_refusal(self, wanted: JoinRequest, refused: Refuse, source: str) -> None:
        log.warning(
            "join_refused", reason=refused.reason.value, token_id=wanted.token_id, node=wanted.node, source=source
        )
        self._store.append_audit(
            self._clock(),
            f"joiner {source}",
            Action.JOIN_REFUSED,
            wanted.token_id,
            reason=refused.reason.value,
            node=wanted.node,
        )


def _answer(status: int, body: JoinGranted | JoinRefused) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")
