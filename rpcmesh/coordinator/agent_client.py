"""What the coordinator says to a node's agent, over the tunnel. Every call fails as :class:`PeerError`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec

from rpcmesh import bounded
from rpcmesh.errors import PeerError
from rpcmesh.node import probe
from rpcmesh.node.measure import ClockReading, Received
from rpcmesh.node.status import AgentStatus
from rpcmesh.observe import error_log

# An agent answers at once or not at all; silence beyond this counts as loss.
TIMEOUT_S = 3.0
# A stream takes as long as the link is slow.
STREAM_TIMEOUT_S = 4.0
MAX_BYTES = 1 << 20
_PIECE = bytes(1 << 18)

T = TypeVar("T")


class AgentClient:
    """Speaks HTTP on the egress tunnel's Unix socket for one node's agent, over a connection that is kept open."""

    def __init__(self, socket: Path) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(socket), limit=1),
        )

    async def close(self) -> None:
        await self._session.close()

    async def status(self) -> AgentStatus:
        return _read(await self._call("GET", "/status", b""), AgentStatus)

    async def errors(self, after: int | None, last: int) -> error_log.Page:
        """A page of the node's error log."""
        return _read(await self._call("GET", f"/errors?{error_log.query(after, last)}", b""), error_log.Page)

    async def begin_renewal(self) -> bytes:
        """The signing request (DER) for the node's next key."""
        return await self._call("POST", "/identity/csr", b"")

    async def finish_renewal(self, cert_pem: bytes) -> None:
        await self._call("PUT", "/identity/certificate", cert_pem)

    async def put_revocations(self, crl_pem: bytes) -> None:
        await self._call("PUT", "/revocations", crl_pem)

    async def put_coordinator_addresses(self, addresses: tuple[str, ...]) -> None:
        await self._call("PUT", "/coordinator/addresses", msgspec.json.encode(addresses))

    async def want_guest(self) -> None:
        """Keep the node's guest worker running for the next few seconds."""
        await self._call("PUT", "/workers/guest", b"")

    async def clock(self) -> float:
        """The node's time in Unix seconds."""
        return _read(await self._call("GET", "/clock", b""), ClockReading).now

    async def probe(self, address: str, port: int) -> probe.Probed:
        """Let the node try to connect to ``port`` of another machine at ``address``."""
        target = msgspec.json.encode(probe.Target(address=address, port=port))
        return _read(await self._call("POST", "/probe", target), probe.Probed)

    async def send_zeros(self, count: int) -> None:
        """Returns when the node has taken all of ``count`` bytes."""
        length = {"Content-Length": str(count)}
        async with self._asked("PUT", "/measure", _zeros(count), STREAM_TIMEOUT_S, headers=length) as response:
            answer = await bounded.body(response, MAX_BYTES, "the agent")
        taken = _read(answer, Received).bytes
        if taken != count:
            raise PeerError(f"the agent took {taken} of {count} bytes")

    async def receive_zeros(self, count: int) -> None:
        """Returns when all of ``count`` bytes have arrived, of which none is kept."""
        arrived = 0
        async with self._asked("GET", f"/measure?bytes={count}", None, STREAM_TIMEOUT_S) as response:
            async for piece in response.content.iter_any():
                arrived += len(piece)
        if arrived != count:
            raise PeerError(f"the agent sent {arrived} of {count} bytes")

    async def _call(self, method: str, path: str, body: bytes) -> bytes:
        async with self._asked(method, path, body, TIMEOUT_S) as response:
            return await bounded.body(response, MAX_BYTES, "the agent")

    @contextlib.asynccontextmanager
    async def _asked(
        self,
        method: str,
        path: str,
        body: bytes | AsyncIterator[bytes] | None,
        timeout_s: float,
        headers: dict[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer of status 200, whose body is read inside the block."""
        limit = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(
                method, f"http://agent{path}", data=body, headers=headers, timeout=limit
            ) as response:
                if response.status != 200:
                    refusal = await bounded.body(response, MAX_BYTES, "the agent")
                    said = refusal[:200].decode(errors="replace")
                    raise PeerError(f"the agent answered {response.status} to {method} {path}: {said!r}")
                yield response
        except TimeoutError as error:
            raise PeerError(f"the agent did not answer within {timeout_s:.0f} s") from error
        except aiohttp.ClientError as error:
            raise PeerError("the agent cannot be reached") from error


async def _zeros(count: int) -> AsyncIterator[bytes]:
    for start in range(0, count, len(_PIECE)):
        yield _PIECE[: count - start]


def _read(answer: bytes, of: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=of)
    except msgspec.DecodeError as error:
        raise PeerError(f"the agent's answer cannot be read (another version of rpcmesh?): {error}") from error
