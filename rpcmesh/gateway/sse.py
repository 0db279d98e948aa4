"""Server-sent events over aiohttp: framing, keep-alive, and the end of either side. Knows nothing of models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from aiohttp import web

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx in front would otherwise hold tokens back
}
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
KEEP_ALIVE_S = 15.0
# A client that takes nothing for this long is gone, whatever its kernel says.
WRITE_TIMEOUT_S = 60.0


def frame(payload: bytes) -> bytes:
    """One event. ``payload`` is JSON as msgspec writes it: on one line, so it needs one ``data`` field."""
    return b"data: " + payload + b"\n\n"


class Mailbox:
    """Frames made and not yet written: one task fills it, another empties it, and what piled up leaves in one write.

    It is unbounded because an answer is: at most the context's length in tokens. So a client that reads slowly never
    holds up the engine, and its slot there is free when the last token is made, not when it is read.
    """

    def __init__(self) -> None:
        self.ended = False
        self.failure: Exception | None = None
        self._frames: list[bytes] = []
        self._news = asyncio.Event()

    async def fill(self, frames: AsyncIterator[bytes]) -> None:
        """Take in all of ``frames``. Whatever they raise is kept in ``failure`` for the reader."""
        try:
            async for each in frames:
                self._frames.append(each)
                self._news.set()
        except Exception as error:  # noqa: BLE001 - not swallowed: deliver() tells the client, respond() the caller
            self.failure = error
        self.ended = True
        self._news.set()

    async def wait(self, timeout_s: float) -> bool:
        """Whether there is news (frames or the end) within ``timeout_s``."""
        if self._news.is_set():  # the usual case under load: no timer needed
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def take(self) -> bytes:
        frames, self._frames = self._frames, []
        if not self.ended:
            self._news.clear()
        return b"".join(frames)


async def respond(
    request: web.Request,
    frames: AsyncIterator[bytes],
    error_event: Callable[[Exception], bytes],
    *,
    keep_alive_s: float = KEEP_ALIVE_S,
    write_timeout_s: float = WRITE_TIMEOUT_S,
) -> web.StreamResponse:
    """Answer with ``frames``, which end with the source's own last event.

    What ``frames`` raise before anything was sent is raised here, so that it can become an HTTP status. Later it is the
    last event, ``error_event(exception)``. A client that is gone is a ``ConnectionError`` or a cancellation; either way
    ``frames`` are cancelled first.
    """
    response = web.StreamResponse(headers=HEADERS)
    mailbox = Mailbox()
    failure: Exception | None
    async with asyncio.TaskGroup() as group:
        pump = group.create_task(mailbox.fill(frames))
        try:
            failure = await _deliver(_Client(request, response, write_timeout_s), mailbox, error_event, keep_alive_s)
        except OSError as error:  # raised below: a group would wrap it
            failure = error
        finally:
            pump.cancel()
    if failure is not None:
        raise failure
    return response


@dataclass(frozen=True)
class _Client:
    request: web.Request
    response: web.StreamResponse
    write_timeout_s: float

    async def write(self, piece: bytes) -> None:
        """Raises ``ConnectionError`` when the client is gone, by its own will or by taking nothing."""
        try:
            async with asyncio.timeout(self.write_timeout_s):
                if not self.response.prepared:
                    await self.response.prepare(self.request)
                if piece:
                    await self.response.write(piece)
        except TimeoutError as error:
            if self.request.transport is not None:
                self.request.transport.abort()
            raise ConnectionAbortedError(f"the client took nothing for {self.write_timeout_s} s") from error


async def _deliver(
    client: _Client, mailbox: Mailbox, error_event: Callable[[Exception], bytes], keep_alive_s: float
) -> Exception | None:
    """Write until the end. Returns a failure for which nothing was sent yet."""
    while True:
        news = await mailbox.wait(keep_alive_s)
        ended, failure = mailbox.ended, mailbox.failure
        if failure is not None and not client.response.prepared:
            return failure
        piece = mailbox.take() if news else KEEP_ALIVE
        if failure is not None:
            piece += frame(error_event(failure))
        await client.write(piece)
        if ended:
            await client.response.write_eof()
            return None
