"""The listening side of the gateway: one address, TLS, and limits for clients that dawdle. Routes are app's."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from rpcmesh.errors import RpcmeshError

# A client that connects must be through the handshake, and then send whole request headers, within these.
HANDSHAKE_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 75.0
# How long open answers may go on when the gateway is told to stop.
SHUTDOWN_TIMEOUT_S = 5.0
CLOSE_NOTIFY_TIMEOUT_S = 2.0


@asynccontextmanager
async def serving(
    app: web.Application,
    tls: ssl.SSLContext,
    host: str,
    port: int,
    *,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    shutdown_timeout_s: float = SHUTDOWN_TIMEOUT_S,
) -> AsyncIterator[int]:
    """Serve ``app`` on ``host:port`` while the block runs; gives the port, which matters when ``port`` is 0.

    Raises :class:`RpcmeshError` if the address cannot be bound.
    """
    async with listening(
        app, tls, host, port, idle_timeout_s=idle_timeout_s, shutdown_timeout_s=shutdown_timeout_s
    ) as server:
        yield int(server.sockets[0].getsockname()[1])


@asynccontextmanager
async def listening(
    app: web.Application,
    tls: ssl.SSLContext,
    host: str,
    port: int,
    *,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    shutdown_timeout_s: float = SHUTDOWN_TIMEOUT_S,
) -> AsyncIterator[asyncio.Server]:
    """As :func:`serving`; gives the server, whose ``close`` refuses new connections while those there are go on."""
    runner = web.AppRunner(
        app,
        handler_cancellation=True,  # a client that hangs up frees its slot in the engine at once
        access_log=None,
        keepalive_timeout=idle_timeout_s,  # counts from the connect and from each answer to the next whole headers
        shutdown_timeout=shutdown_timeout_s,
    )
    await runner.setup()
    try:
        server = await _listen(runner, tls, host, port)
        try:
            yield server
        finally:
            server.close()
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, tls: ssl.SSLContext, host: str, port: int) -> asyncio.Server:
    assert runner.server is not None  # noqa: S101 - setup() made it
    try:
        # Not aiohttp's TCPSite: that one leaves no say over the handshake's time limit.
        return await asyncio.get_running_loop().create_server(
            runner.server,
            host,
            port,
            ssl=tls,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
            ssl_shutdown_timeout=CLOSE_NOTIFY_TIMEOUT_S,
            reuse_address=True,
        )
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        raise RpcmeshError(
            f"the gateway cannot listen on {host!r} port {port}: {'it is in use' if in_use else error.strerror}",
            hint="set [coordinator] listen in config.toml to a free address of this machine",
        ) from error
