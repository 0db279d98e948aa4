"""The queue before the engine: carries out what admission decides, for requests that wait, run, leave or are cut.

It owns no task: who waits is a future that the next change resolves.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from rpcmesh.engine.messages import Delta, Embedded, EmbedRequest, GenerateRequest
from rpcmesh.gateway import admission
from rpcmesh.gateway.admission import Limits, Line, Ticket
from rpcmesh.gateway.backend import Backend, closing
from rpcmesh.gateway.errors import (
    CLUSTER_CAPACITY,
    SHUTTING_DOWN,
    ApiError,
    cluster_capacity,
    deadline_exceeded,
    deadline_exceeded_waiting,
    overloaded,
    queue_full,
    shutting_down,
)

# So many more than decode are in the engine, tokenized: when one ends, the next is in the very next step. Between two
# steps there would be no time to fetch it from here.
AHEAD = 1
ENGINE_WAIT_S = 60.0
# The codes of what the queue refuses.
REASONS = ("queue_full", "overloaded", "deadline_exceeded", CLUSTER_CAPACITY, SHUTTING_DOWN)

T = TypeVar("T")


class Claim(msgspec.Struct, frozen=True):
    """What a request goes by. ``deadline`` is a time of the event loop's clock, by which the answer must be whole."""

    key: str = ""
    priority: int = 0
    deadline: float | None = None


class Figures(msgspec.Struct, frozen=True):
    """How many requests decode and how many wait now; how many were refused since the start, by reason."""

    running: int = 0
    waiting: int = 0
    refused: dict[str, int] = {}


@dataclass(eq=False)
class _Place:
    """One request's. ``turn`` resolves to None when it may start, else to why it never will."""

    ticket: Ticket
    deadline: float | None
    turn: asyncio.Future[ApiError | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    started_at: float | None = None
    end: ApiError | None = None
    _waiting: asyncio.Timeout | None = None

    async def wait(self) -> None:
        """Until it may start. Raises why it may not."""
        try:
            async with asyncio.timeout_at(self.deadline):
                refusal = await self.turn
        except TimeoutError:
            raise deadline_exceeded_waiting() from None
        if refusal is not None:
            raise refusal

    async def within(self, work: Awaitable[T]) -> T:
        """What ``work`` comes to. Raises :class:`ApiError` when the deadline passes before, or the request is cut."""
        # A scope around each wait and none around a yield: it would cancel whatever the reader is doing.
        scope = asyncio.timeout_at(self.deadline)
        try:
            async with scope:
                self._waiting = scope
                return await work
        except TimeoutError:
            if not scope.expired():
                raise
            raise self.end or deadline_exceeded() from None
        finally:
            self._waiting = None

    def cut(self, end: ApiError) -> None:
        """End it where it stands, with ``end``."""
        self.end = end
        self.deadline = asyncio.get_running_loop().time()
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(self.deadline)


class RequestQueue:
    """Lets requests into ``backend`` in the order of :mod:`admission`.

    ``engine_wait_s``: how long requests wait while an engine is being replaced, from its loss on.
    """

    def __init__(self, backend: Backend, limits: Limits, *, engine_wait_s: float = ENGINE_WAIT_S) -> None:
        self._backend = backend
        self._limits = limits
        self._engine_wait_s = engine_wait_s
        self._numbers = itertools.count()
        self._line = Line()
        self._places: dict[Ticket, _Place] = {}
        self._run_s: float | None = None
        self._refused: Counter[str] = Counter()
        self._engine_limit: asyncio.TimerHandle | None = None
        self._engine_is_late = False
        self._closed = False
        self._left = asyncio.Event()

    async def generate(self, model: str, request: GenerateRequest, claim: Claim) -> AsyncGenerator[Delta, None]:
        """As :meth:`Backend.generate`, when it is this request's turn.

        Raises :class:`ApiError` too: for a full queue, a deadline, an end of the gateway, an engine that does not come.
        Whoever leaves frees its place at once, waiting or running.
        """
        async with self._turn(claim) as place, closing(self._backend.generate(model, request)) as deltas:
            while (delta := await place.within(anext(deltas, None))) is not None:
                yield delta

    async def embed(self, model: str, request: EmbedRequest, claim: Claim) -> tuple[Embedded, ...]:
        """As :meth:`Backend.embed`, when it is this request's turn. Raises as :meth:`generate` does."""
        async with self._turn(claim) as place:
            return await place.within(self._backend.embed(model, request))

    def figures(self) -> Figures:
        # A request that is in the engine ahead of its time waits there.
        slots = self._backend.slots()
        running = len(self._line.running)
        ahead = max(0, running - slots) if slots else 0
        refused = {reason: self._refused[reason] for reason in REASONS}
        return Figures(running - ahead, len(self._line.waiting) + ahead, refused)

    def not_ready_reason(self) -> str | None:
        """The backend's, while anything is taken here."""
        return SHUTTING_DOWN if self._closed else self._backend.not_ready_reason()

    def look(self) -> None:
        """To be called when the backend may have got, lost or given up an engine."""
        there, awaited = self._backend.slots() > 0, bool(self._backend.awaited())
        if there or not awaited:
            self._engine_is_late = False
            self._stop_waiting_for_engine()
        elif self._engine_limit is None and not self._engine_is_late:
            self._engine_limit = asyncio.get_running_loop().call_later(self._engine_wait_s, self._too_late)
        if not there and not awaited:
            self._refuse_waiting(cluster_capacity)
        self._start()

    def close(self) -> None:
        """Take nothing any more and refuse those that wait. What runs goes on."""
        self._closed = True
        self._stop_waiting_for_engine()
        self._refuse_waiting(shutting_down)

    async def empty(self) -> None:
        """Wait until nothing waits or runs."""
        while self._places:
            self._left.clear()
            await self._left.wait()

    def cut(self) -> None:
        """End what still runs, after :meth:`close`."""
        for ticket in self._line.running:
            self._places[ticket].cut(shutting_down())

    @asynccontextmanager
    async def _turn(self, claim: Claim) -> AsyncIterator[_Place]:
        """Wait for a place, and have it until the block is left. What the block raises is counted too."""
        place = self._enter(claim)
        try:
            await place.wait()
            yield place
        except ApiError as refusal:
            self._refused[refusal.code or ""] += 1
            raise
        finally:
            self._leave(place)

    def _enter(self, claim: Claim) -> _Place:
        place = _Place(Ticket(next(self._numbers), claim.key, claim.priority), claim.deadline)
        self._places[place.ticket] = place
        self._line = admission.join(self._line, place.ticket)
        if self._closed:
            self._refuse(place.ticket, shutting_down())
        elif self._engine_is_late:
            self._refuse(place.ticket, cluster_capacity())
        self._start()
        if (surplus := admission.one_too_many(self._line, self._limits)) is not None:
            self._refuse(surplus, self._turned_away(surplus))
        return place

    def _leave(self, place: _Place) -> None:
        del self._places[place.ticket]
        self._line = admission.leave(self._line, place.ticket)
        if place.started_at is not None:
            run_s = asyncio.get_running_loop().time() - place.started_at
            self._run_s = admission.mean_run_s(self._run_s, run_s)
        self._left.set()
        self._start()

    def _start(self) -> None:
        self._line, started = admission.start(self._line, self._n_places(), self._limits)
        for ticket in started:
            place = self._places[ticket]
            place.started_at = asyncio.get_running_loop().time()
            _settle(place.turn, None)

    def _refuse(self, ticket: Ticket, refusal: ApiError) -> None:
        self._line = admission.leave(self._line, ticket)
        _settle(self._places[ticket].turn, refusal)

    def _turned_away(self, ticket: Ticket) -> ApiError:
        waiting = len(self._line.waiting)
        retry_s = admission.retry_after_s(waiting, self._n_places(), self._run_s)
        if admission.waits_behind_its_own(self._line, ticket):
            return queue_full(self._limits.waiting_max, retry_s)
        return overloaded(retry_s)

    def _n_places(self) -> int:
        slots = self._backend.slots()
        return slots + AHEAD if slots else 0

    def _too_late(self) -> None:
        self._engine_limit = None
        self._engine_is_late = True
        self._refuse_waiting(cluster_capacity)

    def _refuse_waiting(self, refusal: Callable[[], ApiError]) -> None:
        for ticket in self._line.waiting:
            self._refuse(ticket, refusal())

    def _stop_waiting_for_engine(self) -> None:
        if self._engine_limit is not None:
            self._engine_limit.cancel()
            self._engine_limit = None


def _settle(turn: asyncio.Future[ApiError | None], result: ApiError | None) -> None:
    if not turn.done():  # its request may just be leaving
        turn.set_result(result)
