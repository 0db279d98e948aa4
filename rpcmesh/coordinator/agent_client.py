"""What the coordinator says to a node's agent, over the tunnel. Every call fails as :class:`PeerError`."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import msgspec

from rpcmesh import bounded
from rpcmesh.errors import PeerError
from rpcmesh.node.status import AgentStatus

# An agent answers at once or not at all; silence beyond this counts as loss.
TIMEOUT_S = 3.0
MAX_BYTES = 1 << 20


class AgentClient:
    """Speaks HTTP on the egress tunnel's Unix socket for one node's agent, over a connection that is kept open."""

    def __init__(self, socket: Path) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(socket), limit=1),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        )

    async def close(self) -> None:
        await self._session.close()

    async def status(self) -> AgentStatus:
        answer = await self._call("GET", "/status", b"")
        try:
            return msgspec.json.decode(answer, type=AgentStatus)
        except msgspec.DecodeError as error:
            raise PeerError(f"the agent's status cannot be read (another version of rpcmesh?): {error}") from error

    async def begin_renewal(self) -> bytes:
        """The signing request (DER) for the node's next key."""
        return await self._call("POST", "/identity/csr", b"")

    async def finish_renewal(self, cert_pem: bytes) -> None:
        await self._call("PUT", "/identity/certificate", cert_pem)

    async def put_revocations(self, crl_pem: bytes) -> None:
        await self._call("PUT", "/revocations", crl_pem)

    async def want_guest(self) -> None:
        """Keep the node's guest worker running for the next few seconds."""
        await self._call("PUT", "/workers/guest", b"")

    async def _call(self, method: str, path: str, body: bytes) -> bytes:
        try:
            async with self._session.request(method, f"http://agent{path}", data=body) as response:
                answer = await bounded.body(response, MAX_BYTES, "the agent")
        except TimeoutError as error:
            raise PeerError(f"the agent did not answer within {TIMEOUT_S:.0f} s") from error
        except aiohttp.ClientError as error:
            raise PeerError("the agent cannot be reached") from error
        if response.status != 200:
            raise PeerError(f"the agent answered {response.status} to {method} {path}: {answer[:200]!r}")
        return answer
