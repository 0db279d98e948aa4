"""What an API key is and whether a presented one is good. Pure but for the store's lookup and the dice in ``mint``."""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
import secrets
from typing import Protocol

import msgspec

SECRET_BYTES = 32
# The secret may itself hold "-", the id never does: the first two dashes are the separators.
_SHAPE = re.compile(r"rpcmesh-([0-9a-f]{12})-([A-Za-z0-9_-]{43})", re.ASCII)


class ApiKey(msgspec.Struct, frozen=True):
    """What is stored of a key. The secret itself is shown once by :func:`mint` and kept nowhere."""

    id: str
    name: str
    secret_hash: bytes
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    models: tuple[str, ...] = ()  # empty: every model

    def allows(self, model: str) -> bool:
        return not self.models or model in self.models


class KeyStore(Protocol):
    """Where keys are looked up. Called on the event loop for every request: answer from memory or a local index."""

    def find_key(self, key_id: str) -> ApiKey | None: ...


class Reason(enum.StrEnum):
    """Why a key was refused. For the log only: a stranger learns nothing but that the key is not good."""

    MISSING = "missing"
    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    MISMATCH = "mismatch"  # a known id with another secret
    REVOKED = "revoked"
    EXPIRED = "expired"


class Refusal(msgspec.Struct, frozen=True):
    """A key that is not good. ``key_id`` is None when nothing that looks like a key was presented."""

    reason: Reason
    key_id: str | None = None


class Presented(msgspec.Struct, frozen=True):
    """A key string taken apart, not yet checked."""

    key_id: str
    secret: str

    def __repr__(self) -> str:
        return f"Presented(key_id={self.key_id!r}, secret=…)"


def mint(name: str, now: float, expires_at: float | None = None, models: tuple[str, ...] = ()) -> tuple[str, ApiKey]:
    """A new key: the string to show once, ``rpcmesh-<12 hex>-<43 url-safe characters>``, and what to store of it."""
    key_id = secrets.token_hex(6)
    secret = secrets.token_urlsafe(SECRET_BYTES)
    key = ApiKey(
        id=key_id, name=name, secret_hash=hash_secret(secret), created_at=now, expires_at=expires_at, models=models
    )
    return f"rpcmesh-{key_id}-{secret}", key


def parse(presented: str) -> Presented | None:
    """The id and the secret of a key string, or None if it does not have a key's shape."""
    match = _SHAPE.fullmatch(presented)
    return None if match is None else Presented(key_id=match[1], secret=match[2])


def hash_secret(secret: str) -> bytes:
    """SHA-256 of the secret's ASCII bytes.

    No slow hash and no salt: those make guessing dear where people choose the secret. This one is 256 random bits, so
    there is nothing to guess and no table to build, and a check costs microseconds instead of a tenth of a second on
    every request.
    """
    return hashlib.sha256(secret.encode("ascii")).digest()


def verify(key: ApiKey, secret: str) -> bool:
    """Whether ``secret`` is this key's, in time that does not depend on where the hashes differ."""
    return hmac.compare_digest(key.secret_hash, hash_secret(secret))


# Compared against when the id is unknown, so that a wrong id takes as long as a wrong secret.
_NOBODY = ApiKey(id="", name="", secret_hash=bytes(hashlib.sha256().digest_size), created_at=0.0)


def check(presented: str | None, store: KeyStore, now: float) -> ApiKey | Refusal:
    """The key that ``presented`` proves possession of, or why it does not count. ``now`` is in Unix seconds.

    The secret is checked before the dates: only its owner can make the log say "revoked" or "expired".
    """
    if not presented:
        return Refusal(Reason.MISSING)
    parsed = parse(presented)
    if parsed is None:
        return Refusal(Reason.MALFORMED)
    found = store.find_key(parsed.key_id)
    genuine = verify(found or _NOBODY, parsed.secret)
    if found is None:
        return Refusal(Reason.UNKNOWN, parsed.key_id)
    reason = ended(found, now) if genuine else Reason.MISMATCH
    return found if reason is None else Refusal(reason, parsed.key_id)


def ended(key: ApiKey, now: float) -> Reason | None:
    """Why a genuine key no longer counts at ``now``, or None while it does. Its last moment is already outside."""
    if key.revoked_at is not None and key.revoked_at <= now:
        return Reason.REVOKED
    if key.expires_at is not None and key.expires_at <= now:
        return Reason.EXPIRED
    return None
