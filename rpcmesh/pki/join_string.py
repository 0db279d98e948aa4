"""The one string that an admin carries from the coordinator to a new node. Text only: nothing is looked up here."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Annotated

import msgspec

from rpcmesh.errors import RpcmeshError
from rpcmesh.pki import names, tokens

_PREFIX = "rpcmesh1."
_CHECKSUM_BYTES = 4
_PIN_PREFIX = "sha256:"
_HINT = "copy all of it again, or make a new one; on the coordinator: rpcmesh token create"


class JoinString(msgspec.Struct, frozen=True):
    """Where to join, how to know that it is the right place (``pin``), and the one-time secret."""

    address: str  # HOST:PORT of the coordinator's HTTPS endpoint
    pin: str  # sha256:<hex> of the CA's public key
    token_id: str
    secret: bytes
    node: str | None = None  # None: the node may choose its name

    def __repr__(self) -> str:
        return f"JoinString(address={self.address!r}, token_id={self.token_id!r}, node={self.node!r}, secret=…)"


class _Payload(msgspec.Struct, frozen=True, array_like=True):
    a: Annotated[str, msgspec.Meta(pattern=r"\A[!-~]{3,300}\Z")]
    p: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    t: Annotated[str, msgspec.Meta(pattern=rf"\A{tokens.ID}\Z")]
    s: Annotated[bytes, msgspec.Meta(min_length=tokens.SECRET_BYTES, max_length=tokens.SECRET_BYTES)]
    n: Annotated[str, msgspec.Meta(pattern=rf"\A{names.NAME}\Z")] | None = None


def encode(join: JoinString) -> str:
    """``rpcmesh1.`` and URL-safe base64 of MessagePack and a checksum: one word that no shell touches."""
    pin = bytes.fromhex(join.pin.removeprefix(_PIN_PREFIX))
    payload = msgspec.msgpack.encode(_Payload(join.address, pin, join.token_id, join.secret, join.node))
    return _PREFIX + _base64(payload + _checksum(payload))


def decode(text: str) -> JoinString:
    """The inverse of :func:`encode`; white space around it is a paste's and is dropped.

    Raises :class:`RpcmeshError` for anything else. No error quotes the text: it may be most of a live secret.
    """
    text = text.strip()
    if not text.startswith(_PREFIX):
        if _PREFIX.startswith(text):
            raise RpcmeshError("the join string is cut off or mistyped", hint=_HINT)
        if re.match(r"rpcmesh\d+\.", text):
            raise RpcmeshError(
                "the join string was made by another version of rpcmesh", hint="use the same version on both machines"
            )
        raise RpcmeshError(f"this is not a join string: it does not begin with {_PREFIX!r}", hint=_HINT)
    try:
        framed = base64.b64decode(_padded(text.removeprefix(_PREFIX)), altchars=b"-_", validate=True)
        payload, checksum = framed[:-_CHECKSUM_BYTES], framed[-_CHECKSUM_BYTES:]
        # Encoded again it must be the same text: the last character has bits that decoding does not look at.
        if checksum != _checksum(payload) or _PREFIX + _base64(framed) != text:
            raise ValueError("checksum")
        found = msgspec.msgpack.decode(payload, type=_Payload)
    except (ValueError, binascii.Error, msgspec.DecodeError):
        # Not chained: the cause would carry the text into a traceback.
        raise RpcmeshError("the join string is cut off or mistyped", hint=_HINT) from None
    return JoinString(address=found.a, pin=_PIN_PREFIX + found.p.hex(), token_id=found.t, secret=found.s, node=found.n)


def _checksum(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()[:_CHECKSUM_BYTES]


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)
