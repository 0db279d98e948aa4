"""The tunnel's status document, read from its Unix socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from rpcmesh.errors import RpcmeshError

TIMEOUT_S = 2.0
MAX_BYTES = 4 << 20


class Session(msgspec.Struct, frozen=True):
    """A live connection. In egress ``route`` is ``<node>.<service>``, in ingress the ALPN."""

    id: int
    route: str
    peer: str
    remote: str
    tls_version: str
    cipher: str
    age_s: float
    bytes_in: int
    bytes_out: int


class Refusal(msgspec.Struct, frozen=True):
    """The last session that was refused or frame that was: ``at`` in UTC, ``route`` and ``detail`` where known."""

    reason: str
    route: str
    detail: str
    at: str


class Totals(msgspec.Struct, frozen=True):
    """Counts since the start; refusals and failures by reason."""

    accepted: int = 0
    sessions: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    handshake_failures: dict[str, int] = {}
    refused: dict[str, int] = {}
    last_refusal: Refusal | None = None


class TunnelStatus(msgspec.Struct, frozen=True):
    mode: str
    version: str
    pid: int
    listen: str
    uptime_s: float
    reloads: int
    last_reload_error: str | None
    sessions: tuple[Session, ...]
    totals: Totals
    crl_number: int | None = None
    # Egress only: the routes whose last attempt failed, and the tunnel's word for why.
    failing_routes: dict[str, str] = {}


async def fetch(socket: Path) -> TunnelStatus:
    """Raises :class:`RpcmeshError` when no tunnel answers or what it says makes no sense."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(str(socket), limit=MAX_BYTES)
            try:
                document = await reader.read(-1)
            finally:
                writer.close()
        return msgspec.json.decode(document, type=TunnelStatus)
    except (OSError, TimeoutError, msgspec.DecodeError) as error:
        raise RpcmeshError(f"the tunnel's status at {str(socket)!r} cannot be read: {error}") from error
