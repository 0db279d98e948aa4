"""Join tokens: what is made, what is stored, and the proof of possession. Pure but for the dice in ``mint``."""

from __future__ import annotations

import enum
import hashlib
import hmac
import secrets
from collections.abc import Callable

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rpcmesh.pki import names

SECRET_BYTES = 32
TTL_S = 600.0
ID = r"[0-9a-f]{12}"


class JoinToken(msgspec.Struct, frozen=True):
    """What the coordinator stores. ``node`` is None if the joiner may choose its name. Times are Unix seconds."""

    id: str
    mac_key: bytes
    node: str | None
    created_at: float
    expires_at: float
    consumed_at: float | None = None

    def __repr__(self) -> str:
        return f"JoinToken(id={self.id!r}, node={self.node!r}, mac_key=…)"


class Problem(enum.StrEnum):
    """Why a token does not count."""

    UNKNOWN = "unknown"
    CONSUMED = "consumed"
    EXPIRED = "expired"


def mint(
    now: float, node: str | None = None, ttl_s: float = TTL_S, rng: Callable[[int], bytes] = secrets.token_bytes
) -> tuple[bytes, JoinToken]:
    """A new token: the secret, which goes into the join string and is kept nowhere, and what to store.

    Raises :class:`~rpcmesh.errors.RpcmeshError` if ``node`` is not a node name.
    """
    if node is not None:
        names.check_name(node, "node")
    token_id, secret = rng(6).hex(), rng(SECRET_BYTES)
    token = JoinToken(id=token_id, mac_key=mac_key(token_id, secret), node=node, created_at=now, expires_at=now + ttl_s)
    return secret, token


def mac_key(token_id: str, secret: bytes) -> bytes:
    """HKDF-SHA256 of the secret, bound to the token's id.

    Whoever reads the database can forge a request while the token lives, but cannot rebuild the join string; a database
    that leaks later is worth nothing. Nothing slow is needed: the secret is 256 random bits.
    """
    derivation = HKDF(hashes.SHA256(), length=32, salt=None, info=b"rpcmesh join token v1 " + token_id.encode())
    return derivation.derive(secret)


def mac(key: bytes, *, token_id: str, node: str, address: str, build_id: str, os: str, csr_der: bytes) -> bytes:
    """HMAC-SHA256 over everything that a joiner claims, so nothing of it can be changed on the way."""
    texts = ("rpcmesh join request v1", token_id, node, address, build_id, os)
    return hmac.digest(key, _canonical(*(text.encode() for text in texts), csr_der), hashlib.sha256)


def is_genuine(expected: bytes, presented: bytes) -> bool:
    """Compare in time that does not depend on where the two differ."""
    return hmac.compare_digest(expected, presented)


def problem(token: JoinToken | None, now: float) -> Problem | None:
    """Why ``token`` does not count at ``now``, or None while it does. Its last moment is already outside."""
    if token is None:
        return Problem.UNKNOWN
    if token.consumed_at is not None:
        return Problem.CONSUMED
    return Problem.EXPIRED if token.expires_at <= now else None


def _canonical(*fields: bytes) -> bytes:
    # Each length goes first: without it ("ab", "c") and ("a", "bc") would have the same MAC.
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)
