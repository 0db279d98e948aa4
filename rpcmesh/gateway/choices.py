"""Several answers to one prompt, side by side: each is a request of its own to the engine. No JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from rpcmesh.engine.messages import Delta, GenerateRequest
from rpcmesh.gateway.backend import closing
from rpcmesh.gateway.reply import Choices

# Deltas that wait for whoever reads them: a step of all choices. Beyond it the choices wait, as a single one does.
WAITING_MAX = 16


def requests(request: GenerateRequest, n: int) -> tuple[GenerateRequest, ...]:
    """``n`` requests of one family: the first is the request itself, and with a seed each has the next one."""
    return (request, *(_sibling(request, place) for place in range(1, n)))


def _sibling(request: GenerateRequest, place: int) -> GenerateRequest:
    seed = request.sampling.seed
    # The sampler takes 32 bits of a seed, so nothing is lost, and the greatest seed has a next one.
    following = None if seed is None else (seed + place) & 0xFFFFFFFF
    return msgspec.structs.replace(
        request,
        id=f"{request.id}.{place}",
        sampling=msgspec.structs.replace(request.sampling, seed=following),
    )


@asynccontextmanager
async def side_by_side(answers: Sequence[AsyncIterator[Delta]]) -> AsyncIterator[Choices]:
    """The deltas of all answers as they come, each with its answer's number.

    All of them are closed on the way out. The first error of one is raised to the reader, and so ends them all.
    """
    if len(answers) == 1:
        async with closing(answers[0]) as deltas:
            yield _numbered(deltas)
        return
    waiting: asyncio.Queue[_News] = asyncio.Queue(WAITING_MAX)
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_pass_on(place, answer, waiting)) for place, answer in enumerate(answers)]
        try:
            yield _merged(waiting, len(answers))
        except Exception as error:  # noqa: BLE001 - raised below: a group would wrap it
            failure = error
        finally:
            for task in tasks:
                task.cancel()
    if failure is not None:
        raise failure


# A delta of an answer, its error, or None at its end.
_News = tuple[int, Delta | Exception | None]


async def _pass_on(place: int, answer: AsyncIterator[Delta], waiting: asyncio.Queue[_News]) -> None:
    async with closing(answer) as deltas:
        try:
            async for delta in deltas:
                await waiting.put((place, delta))
        except Exception as error:  # noqa: BLE001 - not swallowed: _merged() raises it
            await waiting.put((place, error))
        else:
            await waiting.put((place, None))


async def _merged(waiting: asyncio.Queue[_News], n: int) -> AsyncGenerator[tuple[int, Delta], None]:
    n_open = n
    while n_open:
        match await waiting.get():
            case _, None:
                n_open -= 1
            case _, Exception() as error:
                raise error
            case place, Delta() as delta:
                yield place, delta


async def _numbered(deltas: AsyncIterator[Delta]) -> AsyncGenerator[tuple[int, Delta], None]:
    async for delta in deltas:
        yield 0, delta
