"""Whether this node can connect to a port of another one. The coordinator asks, for nodes should not reach each other.

So that nobody can look around in a network with it: numeric addresses of other machines and unprivileged ports only,
one at a time and five a second. It tells whether a connection comes about, and never sends or reads a byte.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from typing import Literal

import msgspec

from rpcmesh.errors import PeerError

LIMIT_S = 2.0
INTERVAL_S = 0.2
# Tunnels do not run as root. This keeps ssh, mail, file shares and most else of a machine out of the question.
LOWEST_PORT = 1024

# ``silent``: no answer within the limit, as when a firewall drops. ``unreachable``: the network says there is no way.
Result = Literal["connected", "refused", "silent", "unreachable"]


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /probe``."""

    address: str
    port: int


class Probed(msgspec.Struct, frozen=True):
    result: Result
    after_s: float


def parse(body: bytes) -> Target:
    """Raises :class:`PeerError` for anything that is not to be probed."""
    try:
        target = msgspec.json.decode(body, type=Target)
        address = ipaddress.ip_address(target.address)
    except (msgspec.DecodeError, ValueError) as error:
        raise PeerError(f"a probe needs a numeric address and a port: {error}") from error
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_reserved:
        raise PeerError(f"{target.address!r} is no address of another machine")
    if not LOWEST_PORT <= target.port <= 65535:
        raise PeerError(f"port {target.port} is none that a tunnel listens on: {LOWEST_PORT} to 65535")
    return target


async def connect(address: str, port: int, limit_s: float = LIMIT_S) -> Probed:
    """Connect and hang up at once."""
    began = time.monotonic()
    result: Result
    try:
        async with asyncio.timeout(limit_s):
            _, writer = await asyncio.open_connection(address, port)
        writer.transport.abort()
        result = "connected"
    except ConnectionRefusedError:
        result = "refused"
    except TimeoutError:
        result = "silent"
    except OSError:
        result = "unreachable"
    return Probed(result=result, after_s=time.monotonic() - began)


class Prober:
    """One probe at a time, and a pause between two."""

    def __init__(self) -> None:
        self._busy = False
        self._next = 0.0

    async def probe(self, target: Target) -> Probed:
        """Raises :class:`PeerError` while another probe is under way."""
        if self._busy:
            raise PeerError("another probe is under way")
        self._busy = True
        try:
            await asyncio.sleep(max(0.0, self._next - time.monotonic()))
            return await connect(target.address, target.port)
        finally:
            self._next = time.monotonic() + INTERVAL_S
            self._busy = False
