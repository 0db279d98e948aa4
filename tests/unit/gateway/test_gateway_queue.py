"""The queue as clients see it over real HTTPS: statuses, headers and events. One place to wait, see conftest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from scripted_gateway import PARIS, Gateway

from rpcmesh.engine.messages import Delta
from rpcmesh.gateway.request_queue import AHEAD

FIRST = Delta(id="", text="Par", token_ids=(1,))
LIMIT_S = 5.0


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not true():  # noqa: ASYNC110 (the queue's figures are looked at, as a monitoring system does)
            await asyncio.sleep(0.005)


@asynccontextmanager
async def busy(gateway: Gateway) -> AsyncIterator[asyncio.Event]:
    """Every place in the engine is taken, by answers that end with the event."""
    end = asyncio.Event()
    gateway.backend.n_slots = 1
    gateway.backend.script = (end, *PARIS)
    async with asyncio.TaskGroup() as group:
        for _ in range(1 + AHEAD):
            group.create_task(asked(gateway))
        await until(lambda: len(gateway.backend.requests) == 1 + AHEAD)
        yield end
        end.set()


async def asked(gateway: Gateway, **body: Any) -> tuple[int, str | None, str | None]:
    """Status, the error's code, and the header Retry-After of one whole answer."""
    async with gateway.chat(**body) as response:
        told = (await response.json()).get("error", {})
        return response.status, told.get("code"), response.headers.get("Retry-After")


async def embedded(gateway: Gateway) -> tuple[int, str | None]:
    async with gateway.post("/v1/embeddings", model="tiny", input="a") as response:
        return response.status, (await response.json()).get("error", {}).get("code")


async def last_event(response: aiohttp.ClientResponse) -> dict[str, Any]:
    *_, last = [line for line in (await response.text()).split("\n\n") if line]
    event: dict[str, Any] = json.loads(last.removeprefix("data: "))
    return event


async def test_a_request_beyond_the_places_waits_and_is_answered(gateway: Gateway) -> None:
    async with busy(gateway) as end, asyncio.TaskGroup() as group:
        waiting = group.create_task(asked(gateway))
        await until(lambda: gateway.queue.figures().waiting == 1 + AHEAD)
        end.set()

    assert waiting.result() == (200, None, None)


async def test_embeddings_wait_in_the_same_queue(gateway: Gateway) -> None:
    async with busy(gateway) as end, asyncio.TaskGroup() as group:
        waiting = group.create_task(embedded(gateway))
        await until(lambda: gateway.queue.figures().waiting == 1 + AHEAD)
        asked_early = list(gateway.backend.embed_requests)
        end.set()

    assert asked_early == []
    assert waiting.result() == (200, None)


async def test_embeddings_that_are_made_count_as_running(gateway: Gateway) -> None:
    end = asyncio.Event()
    gateway.backend.script = (end,)
    async with asyncio.TaskGroup() as group:
        group.create_task(embedded(gateway))
        await until(lambda: gateway.queue.figures().running == 1)
        end.set()

    await asyncio.wait_for(gateway.queue.empty(), LIMIT_S)


async def test_a_closed_queue_takes_no_embeddings_and_cuts_those_that_are_made(gateway: Gateway) -> None:
    gateway.backend.script = (asyncio.Event(),)
    async with asyncio.TaskGroup() as group:
        made = group.create_task(embedded(gateway))
        await until(lambda: gateway.queue.figures().running == 1)
        gateway.queue.close()
        late = await embedded(gateway)
        gateway.queue.cut()

    assert late == (503, "shutting_down")
    assert made.result() == (503, "shutting_down")


async def test_a_full_queue_is_429_at_once_with_the_seconds_to_wait(gateway: Gateway) -> None:
    async with busy(gateway) as end, asyncio.TaskGroup() as group:
        group.create_task(asked(gateway))
        await until(lambda: gateway.queue.figures().waiting == 1 + AHEAD)

        status, code, retry_after = await asked(gateway)
        end.set()

    assert (status, code) == (429, "queue_full")
    assert retry_after is not None
    assert 1 <= int(retry_after) <= 60


async def test_a_client_that_hangs_up_in_the_queue_frees_its_place(gateway: Gateway) -> None:
    async with busy(gateway) as end:
        leaving = asyncio.ensure_future(asked(gateway, stream=True))
        await until(lambda: gateway.queue.figures().waiting == 1 + AHEAD)
        leaving.cancel()
        await until(lambda: gateway.queue.figures().waiting == AHEAD)

        async with asyncio.TaskGroup() as group:
            next_one = group.create_task(asked(gateway))
            await until(lambda: gateway.queue.figures().waiting == 1 + AHEAD)
            end.set()

    assert next_one.result() == (200, None, None)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_that_passes_in_the_queue_is_503(gateway: Gateway, stream: bool) -> None:
    async with busy(gateway):
        status, code, retry_after = await asked(gateway, deadline_s=0.05, stream=stream)

    assert (status, code) == (503, "deadline_exceeded")
    assert retry_after is not None


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_that_passes_before_the_first_token_is_504(gateway: Gateway, stream: bool) -> None:
    gateway.backend.script = (asyncio.Event(),)

    assert await asked(gateway, deadline_s=0.05, stream=stream) == (504, "deadline_exceeded", None)
    assert gateway.backend.closed.is_set()


async def test_a_deadline_that_passes_in_mid_stream_is_the_last_event(gateway: Gateway) -> None:
    gateway.backend.script = (FIRST, asyncio.Event())

    async with gateway.chat(deadline_s=0.2, stream=True) as response:
        assert response.status == 200
        told = (await last_event(response))["error"]

    assert (told["code"], told["param"]) == ("deadline_exceeded", "deadline_s")
    assert gateway.backend.closed.is_set()


async def test_while_an_engine_is_replaced_requests_for_its_model_wait_and_readiness_says_so(gateway: Gateway) -> None:
    gateway.backend.n_slots, gateway.backend.reason = 0, "loading"
    gateway.backend.names, gateway.backend.awaits = (), ("tiny",)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(asked(gateway))
        await until(lambda: gateway.queue.figures().waiting == 1)
        async with gateway.session.get(f"{gateway.url}/readyz") as response:
            assert (response.status, (await response.json())["reason"]) == (503, "loading")
        assert (await asked(gateway, model="gpt-4o"))[:2] == (404, "model_not_found")

        gateway.backend.n_slots = 1
        gateway.queue.look()

    assert waiting.result() == (200, None, None)


async def test_a_cluster_that_cannot_run_its_model_any_more_says_so_at_once(gateway: Gateway) -> None:
    gateway.backend.n_slots, gateway.backend.reason, gateway.backend.names = 0, "cluster_capacity", ()

    status, code, retry_after = await asked(gateway)

    assert (status, code) == (503, "cluster_capacity")
    assert retry_after is not None


async def test_a_gateway_that_is_being_stopped_refuses_what_comes_on_kept_connections(gateway: Gateway) -> None:
    assert (await asked(gateway))[0] == 200

    gateway.queue.close()

    assert (await asked(gateway))[:2] == (503, "shutting_down")
    async with gateway.session.get(f"{gateway.url}/readyz") as response:
        assert (response.status, (await response.json())["reason"]) == (503, "shutting_down")


async def test_a_stream_that_is_cut_ends_with_a_typed_event(gateway: Gateway) -> None:
    gateway.backend.script = (FIRST, asyncio.Event())
    async with gateway.chat(stream=True) as response:
        gateway.queue.close()
        gateway.queue.cut()
        told = await last_event(response)

    assert told["error"]["code"] == "shutting_down"
