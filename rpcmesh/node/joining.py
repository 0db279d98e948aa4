"""How a node becomes a member: one join string in, an identity on disk out. Runs once; nothing of it stays running."""

from __future__ import annotations

import hmac
import platform
import socket
import ssl

import aiohttp
import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from rpcmesh import bounded
from rpcmesh.errors import PeerError, RpcmeshError
from rpcmesh.firewall import membership
from rpcmesh.paths import Home
from rpcmesh.pki import certificate, identity, join_string, messages, names, signing_request, tokens
from rpcmesh.pki.certificate import Certificate
from rpcmesh.pki.join_string import JoinString
from rpcmesh.pki.messages import JoinGranted, JoinRefused, JoinRequest

TIMEOUT_S = 15.0
MAX_ANSWER_BYTES = 1 << 20

# OpenSSL's X509_V_ERR_*: what a joiner can do something about.
_NOT_YET_VALID, _EXPIRED, _HOST_MISMATCH, _IP_MISMATCH = 9, 10, 62, 64


class JoinResult(msgspec.Struct, frozen=True):
    """What this node is now. ``not_after`` is when its first certificate ends, in Unix seconds."""

    mesh: str
    node: str
    uri: str
    coordinator_uri: str
    not_after: float


async def join(
    home: Home, join_string_text: str, address: str, build_id: str, now: float, *, node: str | None = None
) -> JoinResult:
    """Join the mesh that ``join_string_text`` is for, and install the identity that it gives.

    ``address`` is HOST:PORT at which the coordinator will reach this node's tunnel. ``node`` is a name to take if the
    string leaves it open; by default it is made from the host name. ``now`` is in Unix seconds.

    Raises :class:`RpcmeshError`: the string is damaged, the coordinator is out of reach or refuses, or this home
    already has an identity; :class:`PeerError` if who answers is not the mesh's coordinator. Then nothing was written.
    """
    invitation = join_string.decode(join_string_text)
    name = _choose_name(invitation, node)
    if not messages.is_dialable(address):
        raise RpcmeshError(
            f"{address!r} is not an address at which the coordinator could reach this node",
            hint="set [node] listen to ADDR:PORT of one interface",
        )
    home.ensure()
    if identity.exists(home.identity):
        held = identity.load(home.identity).uri
        raise RpcmeshError(
            f"this home already holds the identity {held!r}",
            hint=f"to join anew, stop the node and: mv {home.identity} {home.identity}.old",
        )
    ca_pem = await _fetch_ca(invitation)
    key_pem, csr_der = signing_request.new_key_and_csr()
    request = _signed_request(invitation, name, address, build_id, csr_der)
    granted = await _ask(invitation, ca_pem, request)
    leaf = _check_grant(invitation, granted, name, now)
    # The CA is the one that the pin vouches for, not the one in the answer.
    installed = identity.install(home.identity, key_pem, leaf.pem, ca_pem, granted.crl_pem.encode())
    if granted.coordinator_addresses:
        known = membership.Membership(peers=membership.single_addresses(granted.coordinator_addresses))
        membership.write(home.root, known)
    return JoinResult(granted.mesh, name, installed.uri, granted.coordinator_uri, installed.not_after)


def _choose_name(invitation: JoinString, wanted: str | None) -> str:
    if invitation.node is None:
        return names.check_name(wanted, "node") if wanted is not None else names.suggest(socket.gethostname())
    if wanted not in (None, invitation.node):
        raise RpcmeshError(
            f"the join string is for node {invitation.node!r}, not for {wanted!r}",
            hint=f"on the coordinator: rpcmesh token create --node {wanted}",
        )
    return invitation.node


async def _fetch_ca(invitation: JoinString) -> bytes:
    """The mesh's CA certificate, from whoever answers, if it is the one that the join string's pin names.

    This connection is not verified, and that is safe: nothing secret is sent on it, and what comes back is public and
    is believed only if its key hashes to the pin, which came by way of the admin. A liar in the middle can make the
    join fail, no more. The key must have signed its own certificate, so the rest of it cannot be made up around a
    copied key either. Everything after this is sent on a new connection that this CA vouches for.
    """
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    status, body = await _exchange(invitation, "GET", messages.CA_PATH, anybody, None)
    if status != 200:
        raise PeerError(
            f"{invitation.address!r} answers, but not as a coordinator does: status {status}",
            hint=f"check that rpcmesh serve runs there: curl -k https://{invitation.address}/health",
        )
    ca = certificate.parse(body, f"what {invitation.address!r} calls its certificate authority")
    genuine = hmac.compare_digest(certificate.spki_pin(ca).encode(), invitation.pin.encode())
    if not genuine or not certificate.is_issued_by(ca, ca):
        raise PeerError(
            f"the certificate authority at {invitation.address!r} is not the one this join string was made for",
            hint="check the address; if the mesh was founded again, on the coordinator: rpcmesh token create",
        )
    return ca.public_bytes(Encoding.PEM)


def _signed_request(invitation: JoinString, node: str, address: str, build_id: str, csr_der: bytes) -> JoinRequest:
    system = f"{platform.system()} {platform.release()} {platform.machine()}"[:128]
    request = JoinRequest(invitation.token_id, node, address, build_id, system, csr_der, mac=b"")
    key = tokens.mac_key(invitation.token_id, invitation.secret)
    return msgspec.structs.replace(request, mac=messages.mac_of(request, key))


async def _ask(invitation: JoinString, ca_pem: bytes, request: JoinRequest) -> JoinGranted:
    mesh_only = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies the chain and the host name
    mesh_only.minimum_version = ssl.TLSVersion.TLSv1_3
    mesh_only.verify_flags |= ssl.VERIFY_X509_STRICT
    mesh_only.load_verify_locations(cadata=ca_pem.decode())
    body = msgspec.json.encode(request)
    status, answer = await _exchange(invitation, "POST", messages.JOIN_PATH, mesh_only, body)
    try:
        if status == 200:
            return msgspec.json.decode(answer, type=JoinGranted)
        refused = msgspec.json.decode(answer, type=JoinRefused)
    except msgspec.DecodeError as error:
        raise PeerError(f"the coordinator's answer makes no sense: status {status}") from error
    raise _refusal(invitation, status, refused)


def _refusal(invitation: JoinString, status: int, refused: JoinRefused) -> RpcmeshError:
    match status, refused:
        case _, JoinRefused(message=str(message), hint=hint):
            return RpcmeshError(f"the coordinator refused: {message}", hint=hint)
        case 403, _:
            token = f"the join token {invitation.token_id!r}"
            return RpcmeshError(
                f"the coordinator refused {token}: it is unknown, expired or already used",
                hint="on the coordinator: rpcmesh token create",
            )
        case 429, _:
            return RpcmeshError("the coordinator got too many join requests from here", hint="try again in a minute")
        case _:
            return RpcmeshError(
                f"the coordinator refused: {refused.error} (status {status})",
                hint="install the same version of rpcmesh on both machines",
            )


async def _exchange(
    invitation: JoinString, method: str, path: str, tls: ssl.SSLContext, body: bytes | None
) -> tuple[int, bytes]:
    """One request on a connection of its own. Returns status and body."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session,
            session.request(
                method,
                f"https://{invitation.address}{path}",
                data=body,
                headers=headers,
                ssl=tls,
                allow_redirects=False,
            ) as response,
        ):
            return response.status, await bounded.body(response, MAX_ANSWER_BYTES, repr(invitation.address))
    except aiohttp.ClientConnectorCertificateError as error:
        raise _distrust(invitation, error.certificate_error) from error
    except TimeoutError as error:
        raise _out_of_reach(invitation, f"no answer within {TIMEOUT_S:.0f} s") from error
    except aiohttp.ClientConnectorError as error:
        raise _out_of_reach(invitation, error.os_error.strerror or str(error.os_error)) from error
    except aiohttp.ClientError as error:
        raise _out_of_reach(invitation, str(error) or type(error).__name__) from error


def _out_of_reach(invitation: JoinString, reason: str) -> RpcmeshError:
    return RpcmeshError(
        f"cannot reach the coordinator at {invitation.address!r}: {reason}",
        hint="on the coordinator: rpcmesh serve, and check that its firewall lets this machine in",
    )


def _distrust(invitation: JoinString, error: Exception) -> PeerError:
    match getattr(error, "verify_code", None):
        case code if code in (_HOST_MISMATCH, _IP_MISMATCH):
            return PeerError(
                f"the coordinator's certificate is not for {invitation.address!r}",
                hint="on the coordinator: add this name to [coordinator] names, then rpcmesh serve",
            )
        case code if code in (_NOT_YET_VALID, _EXPIRED):
            return PeerError(
                f"the certificate at {invitation.address!r} is not valid at this machine's time",
                hint="compare the clocks of both machines: date -u",
            )
        case _:
            return PeerError(f"the certificate at {invitation.address!r} is not this mesh's: {error}")


def _check_grant(invitation: JoinString, granted: JoinGranted, node: str, now: float) -> Certificate:
    leaf = certificate.describe(certificate.parse(granted.cert_pem.encode(), "the granted certificate"))
    uri = names.node_uri(granted.mesh, node)
    if leaf.uri != uri or granted.node != node or granted.coordinator_uri != names.coordinator_uri(granted.mesh):
        raise PeerError(f"the coordinator at {invitation.address!r} granted {leaf.uri!r}, not {uri!r}")
    if not leaf.not_before <= now < leaf.not_after:
        raise PeerError(
            "the granted certificate is not valid at this machine's time",
            hint="compare the clocks of both machines: date -u",
        )
    return leaf
