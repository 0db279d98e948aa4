"""Reading what a peer sends, up to a limit. A peer decides how much it sends; we decide how much we keep."""

from __future__ import annotations

import aiohttp

from rpcmesh.errors import PeerError

_CHUNK_BYTES = 1 << 16


async def body(response: aiohttp.ClientResponse, max_bytes: int, who: str) -> bytes:
    """The whole body of ``response``. Raises :class:`PeerError` naming ``who`` when it exceeds ``max_bytes``."""
    received = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        received += chunk
        if len(received) > max_bytes:
            raise PeerError(f"the answer of {who} is longer than {max_bytes} bytes")
    return bytes(received)
