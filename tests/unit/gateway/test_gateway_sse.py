"""Server-sent events as a client on a real socket sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcmesh.gateway import sse

KEEP_ALIVE_S = 0.05
WRITE_TIMEOUT_S = 0.5


def parse(stream: str) -> list[str]:
    """The data of each event, by the algorithm of the HTML standard, section 9.2.6."""
    events: list[str] = []
    data: list[str] = []
    for line in stream.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        name, _, value = line.partition(":")
        if line == "":
            events += ["\n".join(data)] if data else []
            data = []
        elif name == "data":
            data.append(value.removeprefix(" "))
    return events


@settings(deadline=None)
@given(st.lists(st.text()))
def test_any_json_survives_the_framing(texts: list[str]) -> None:
    stream = b"".join(sse.KEEP_ALIVE + sse.frame(msgspec.json.encode(text)) for text in texts)
    assert [msgspec.json.decode(data) for data in parse(stream.decode())] == texts


async def test_what_piles_up_leaves_together() -> None:
    async def three() -> AsyncIterator[bytes]:
        for each in (b"a", b"b", b"c"):
            yield each

    mailbox = sse.Mailbox()
    await mailbox.fill(three())
    assert await mailbox.wait(0)
    assert (mailbox.take(), mailbox.ended, mailbox.failure) == (b"abc", True, None)


async def test_no_news_is_no_news() -> None:
    assert not await sse.Mailbox().wait(0.01)


Frames = Callable[[], AsyncIterator[bytes]]


@asynccontextmanager
async def served(
    frames: Frames, *, handler_cancellation: bool = True
) -> AsyncIterator[Callable[[], Coroutine[Any, Any, aiohttp.ClientResponse]]]:
    """A server that answers each GET with ``frames``; gives what makes one."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await sse.respond(
                request,
                frames(),
                lambda error: f"<{error}>".encode(),
                keep_alive_s=KEEP_ALIVE_S,
                write_timeout_s=WRITE_TIMEOUT_S,
            )
        except ValueError as error:
            return web.Response(status=418, text=str(error))

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app, handler_cancellation=handler_cancellation, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with aiohttp.ClientSession() as session:
        host, port = runner.addresses[0][:2]

        async def get() -> aiohttp.ClientResponse:
            return await session.get(f"http://{host}:{port}/")

        yield get
    await runner.cleanup()


async def test_frames_arrive_in_order_with_streaming_headers() -> None:
    async def frames() -> AsyncIterator[bytes]:
        yield sse.frame(b"1") + sse.frame(b"2")
        yield sse.DONE

    async with served(frames) as get:
        response = await get()
        assert parse(await response.text()) == ["1", "2", "[DONE]"]
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache"


async def test_silence_is_filled_with_comments_that_no_parser_shows() -> None:
    heard_before, heard_after = asyncio.Event(), asyncio.Event()

    async def frames() -> AsyncIterator[bytes]:
        await heard_before.wait()
        yield sse.frame(b"late")
        await heard_after.wait()
        yield sse.DONE

    text = ""
    async with served(frames) as get:
        async for piece in (await get()).content.iter_any():
            text += piece.decode()
            if text.endswith(sse.KEEP_ALIVE.decode()):
                (heard_after if "late" in text else heard_before).set()
    before, _, after = text.partition("data: late")
    assert before.startswith(": keep-alive\n\n")
    assert ": keep-alive\n\n" in after
    assert parse(text) == ["late", "[DONE]"]


async def test_an_error_before_the_first_frame_is_the_callers() -> None:
    async def frames() -> AsyncIterator[bytes]:
        raise ValueError("too long")
        yield b""  # type: ignore[unreachable]

    async with served(frames) as get:
        response = await get()
        assert (response.status, await response.text()) == (418, "too long")


@pytest.mark.parametrize("pause_s", [0, 3 * KEEP_ALIVE_S])
async def test_an_error_after_something_was_sent_is_the_last_event(pause_s: float) -> None:
    sent = asyncio.Event()

    async def frames() -> AsyncIterator[bytes]:
        yield sse.frame(b"1")
        await sent.wait()
        await asyncio.sleep(pause_s)
        raise ValueError("engine lost")

    async with served(frames) as get:
        response = await get()
        assert response.status == 200
        sent.set()
        assert parse(await response.text()) == ["1", "<engine lost>"]


async def test_an_error_after_only_a_keep_alive_is_an_event_too() -> None:
    async def frames() -> AsyncIterator[bytes]:
        await asyncio.sleep(3 * KEEP_ALIVE_S)
        raise ValueError("engine lost")
        yield b""  # type: ignore[unreachable]

    async with served(frames) as get:
        assert parse(await (await get()).text()) == ["<engine lost>"]


@pytest.mark.parametrize("first", [[], [sse.frame(b"1")]])
async def test_a_client_that_leaves_ends_the_source(first: list[bytes]) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def frames() -> AsyncIterator[bytes]:
        try:
            started.set()
            for each in first:
                yield each
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with served(frames) as get:
        async with asyncio.TaskGroup() as group:
            client: asyncio.Task[aiohttp.ClientResponse] = group.create_task(get())
            await started.wait()
            if first:
                (await client).close()
            else:
                client.cancel()
        await asyncio.wait_for(ended.wait(), timeout=5)


async def test_a_client_that_reads_slowly_does_not_hold_up_the_source() -> None:
    made = asyncio.Event()
    payload = b"x" * 65536

    async def frames() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield sse.frame(payload)
        made.set()
        yield sse.DONE

    async with served(frames) as get:
        response = await get()
        await asyncio.wait_for(made.wait(), timeout=5)
        events = parse(await response.text())
        assert (len(events), events[-1]) == (201, "[DONE]")


async def test_a_client_that_leaves_is_noticed_by_the_next_write_at_the_latest() -> None:
    ended = asyncio.Event()

    async def frames() -> AsyncIterator[bytes]:
        try:
            yield sse.frame(b"1")
            await asyncio.Event().wait()  # only keep-alives are written from here on
        finally:
            ended.set()

    async with served(frames, handler_cancellation=False) as get:
        (await get()).close()
        await asyncio.wait_for(ended.wait(), timeout=5)


async def test_a_client_that_takes_nothing_is_given_up() -> None:
    ended = asyncio.Event()

    async def frames() -> AsyncIterator[bytes]:
        try:
            for _ in range(32):
                yield sse.frame(b"x" * (1 << 20))  # more than the sockets on the way can hold
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with served(frames) as get:
        response = await get()
        await asyncio.wait_for(ended.wait(), timeout=10)
        with pytest.raises(aiohttp.ClientError):
            await response.read()
