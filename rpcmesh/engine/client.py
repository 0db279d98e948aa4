"""The owner's side of the engine: load a model, generate, notice its death. It never starts a second process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import msgspec
import structlog

from rpcmesh.engine.child import Child, EngineLost
from rpcmesh.engine.messages import (
    Cancel,
    Delta,
    Embedded,
    EmbedRequest,
    Event,
    Failure,
    FailureCode,
    GenerateRequest,
    Load,
    Loaded,
    LoadedModel,
    LoadFailed,
    LoadSpec,
    Progress,
    Restored,
    Saved,
    Score,
    Scored,
    Shutdown,
    Started,
    Step,
    StopSaving,
)
from rpcmesh.errors import PeerError, RpcmeshError

__all__ = ["Engine", "EngineLoadError", "EngineLost", "EngineRequestError"]

log = structlog.get_logger(__name__)

# How long close() waits for the engine to end by itself. It holds no state: nothing is lost by killing it.
CLOSE_GRACE_S = 2.0


class EngineLoadError(RpcmeshError):
    """The engine could not load the model; it still runs and can be asked for another."""

    def __init__(self, message: str, *, memory: bool = False) -> None:
        super().__init__(message)
        self.memory = memory


class EngineRequestError(RpcmeshError):
    """One request failed; the engine goes on."""

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code: FailureCode = code


class _Gathering:
    """The vectors of one request, until all have come."""

    def __init__(self, n_inputs: int, whole: asyncio.Future[tuple[Embedded, ...]]) -> None:
        self._n_inputs = n_inputs
        self._vectors: list[Embedded] = []
        self.whole = whole

    def take(self, vector: Embedded) -> None:
        self._vectors.append(vector)
        if len(self._vectors) == self._n_inputs:
            _settle(self.whole, tuple(self._vectors))


class Keeper(Protocol):
    """Who keeps what engines save of their sequences, for those that come after them."""

    def saved(self, saved: Saved, file: int | None) -> tuple[str, ...]:
        """A piece is in the request's file. ``file`` is that file, with the first piece, and is the keeper's to close.

        Returns the requests of which nothing more is to be saved.
        """
        ...

    def restored(self, restored: Restored) -> None:
        """A later engine has made use of it, or has not."""
        ...


class Engine:
    """One engine process: ``async with await Engine.start(...) as engine``.

    It owns no task: what a caller waits on is a future or queue that the child's callbacks resolve, and all of them are
    resolved with :class:`EngineLost` when the process ends.
    """

    def __init__(self, on_log: Callable[[str], None], keeper: Keeper | None = None) -> None:
        """Use :meth:`start`."""
        loop = asyncio.get_running_loop()
        self._keeper = keeper
        self._child = Child(on_event=self._on_event, on_line=on_log, on_lost=self._on_lost)
        self._started: asyncio.Future[None] = loop.create_future()
        self._lost: asyncio.Future[EngineLost] = loop.create_future()
        self._loaded: asyncio.Future[LoadedModel] | None = None
        self._on_progress: Callable[[float], None] | None = None
        self._streams: dict[str, asyncio.Queue[Delta | RpcmeshError]] = {}
        self._scores: dict[str, asyncio.Future[tuple[float, ...]]] = {}
        self._gatherings: dict[str, _Gathering] = {}

    @classmethod
    async def start(cls, *, lib_dir: Path, on_log: Callable[[str], None], keeper: Keeper | None = None) -> Engine:
        """Start a process with llama.cpp's libraries from ``lib_dir``. ``on_log`` gets each line that it prints.

        A spec that asks for snapshots wants a ``keeper``. Raises :class:`EngineLost` when it ends before it is up.
        """
        engine = cls(on_log, keeper)
        await engine._child.spawn(lib_dir)
        try:
            await engine._started
        except BaseException:
            await engine.close()
            raise
        return engine

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def alive(self) -> bool:
        return not self._lost.done()

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def load(self, spec: LoadSpec, on_progress: Callable[[float], None] | None = None) -> LoadedModel:
        """Load a model; it has answered once when this returns. Raises EngineLoadError, EngineLost."""
        if self._loaded is not None:
            raise EngineLoadError("a model is being loaded already")
        self._require_alive()
        self._loaded = asyncio.get_running_loop().create_future()
        self._on_progress = on_progress
        try:
            self._child.send(Load(spec))
            return await self._loaded
        finally:
            self._loaded = None

    async def generate(self, request: GenerateRequest, file: int | None = None) -> AsyncGenerator[Delta, None]:
        """The deltas of one completion. ``aclose()``, or cancelling the consumer, cancels it in the engine.

        ``request.id`` must never have been used with this engine. ``file`` holds what ``request.snapshot`` speaks of,
        and stays the caller's. Raises EngineRequestError, EngineLost.
        """
        if request.id in self._streams:
            raise ValueError(f"request id {request.id!r} is in use")
        self._require_alive()
        stream: asyncio.Queue[Delta | RpcmeshError] = asyncio.Queue()
        self._streams[request.id] = stream
        finished = False
        if request.snapshot is not None and (file is None or not self._child.send_file(request.id, file)):
            request = msgspec.structs.replace(request, snapshot=None)
        try:
            self._ask(request)
            while not finished:
                item = await stream.get()
                finished = isinstance(item, RpcmeshError) or item.finish_reason is not None
                if isinstance(item, RpcmeshError):
                    raise item
                yield item
        finally:
            del self._streams[request.id]
            if not finished:
                self._child.send(Cancel(request.id))

    async def margins(self, score: Score) -> tuple[float, ...]:
        """See :class:`Scored`. Raises EngineRequestError while other requests are open, EngineLost."""
        if score.id in self._scores:
            raise ValueError(f"score id {score.id!r} is in use")
        self._require_alive()
        self._scores[score.id] = asyncio.get_running_loop().create_future()
        try:
            self._ask(score)
            return await self._scores[score.id]
        finally:
            del self._scores[score.id]

    async def embed(self, request: EmbedRequest) -> tuple[Embedded, ...]:
        """A vector for each input. Cancelling the caller cancels it in the engine.

        ``request.id`` must never have been used with this engine. Raises EngineRequestError, EngineLost.
        """
        if request.id in self._gatherings:
            raise ValueError(f"request id {request.id!r} is in use")
        self._require_alive()
        whole: asyncio.Future[tuple[Embedded, ...]] = asyncio.get_running_loop().create_future()
        self._gatherings[request.id] = _Gathering(len(request.inputs), whole)
        try:
            self._ask(request)
            return await whole
        except asyncio.CancelledError:
            self._child.send(Cancel(request.id))
            raise
        finally:
            del self._gatherings[request.id]

    async def lost(self) -> EngineLost:
        """Waits for the process's end, whatever its reason, and says what is known about it."""
        return await asyncio.shield(self._lost)

    def kill(self) -> None:
        """End the process at once: what it is busy with is of no use any more."""
        self._child.kill()

    async def close(self) -> None:
        """End the process, kindly and then not, and reap it. Whoever still waits for it gets EngineLost."""
        try:
            async with asyncio.timeout(CLOSE_GRACE_S):
                self._child.send(Shutdown())
                await self.lost()
        except TimeoutError:
            log.warning("engine_killed", pid=self.pid, reason=f"still busy after {CLOSE_GRACE_S} s")
        finally:
            self._child.kill()
        await self.lost()

    def _ask(self, request: GenerateRequest | EmbedRequest | Score) -> None:
        try:
            self._child.send(request)
        except UnicodeEncodeError as error:
            raise EngineRequestError("invalid_prompt", f"the prompt is not valid Unicode: {error.reason}") from error

    def _require_alive(self) -> None:
        if self._lost.done():
            raise _again(self._lost.result())

    def _on_event(self, event: Event) -> None:
        match event:
            case Step(deltas):
                for delta in deltas:
                    self._deliver(delta.id, delta)
            case Failure(request_id, code, message):
                self._refuse(request_id, EngineRequestError(code, message))
            case Embedded(request_id) if request_id in self._gatherings:
                self._gatherings[request_id].take(event)
            case Scored(score_id, margins):
                _settle(self._scores.get(score_id), margins)
            case Saved() | Restored():
                self._keep(event)
            case Progress(fraction):
                if self._on_progress is not None:
                    self._on_progress(fraction)
            case Loaded(model):
                _settle(self._loaded, model)
            case LoadFailed(message, memory):
                _settle(self._loaded, EngineLoadError(message, memory=memory))
            case Started():
                _settle(self._started, None)

    def _refuse(self, request_id: str, refused: EngineRequestError) -> None:
        if request_id in self._gatherings:
            _settle(self._gatherings[request_id].whole, refused)
        elif not _settle(self._scores.get(request_id), refused):
            self._deliver(request_id, refused)

    def _keep(self, event: Saved | Restored) -> None:
        if self._keeper is None:
            raise PeerError(f"request {event.id!r} is saved, and nobody asked for it")
        if isinstance(event, Restored):
            self._keeper.restored(event)
            return
        file = self._child.receive_file(event.id) if event.piece.start == 0 else None
        for request_id in self._keeper.saved(event, file):
            self._child.send(StopSaving(request_id))

    def _deliver(self, request_id: str, item: Delta | RpcmeshError) -> None:
        # A request that was just cancelled may still get a token: the engine hears of it between two steps.
        stream = self._streams.get(request_id)
        if stream is not None:
            stream.put_nowait(item)

    def _on_lost(self, lost: EngineLost) -> None:
        self._lost.set_result(lost)
        gathering = (each.whole for each in self._gatherings.values())
        for waiting in (self._started, self._loaded, *self._scores.values(), *gathering):
            _settle(waiting, _again(lost))
        for stream in self._streams.values():
            stream.put_nowait(_again(lost))


def _settle(waiting: asyncio.Future[Any] | None, result: Any) -> bool:
    """Give ``result`` to whoever waits, an exception as one. False where nobody does."""
    if waiting is None or waiting.done():
        return False
    if isinstance(result, BaseException):
        waiting.set_exception(result)
    else:
        waiting.set_result(result)
    return True


def _again(lost: EngineLost) -> EngineLost:
    # One exception object a waiter: each raise writes its own traceback into it.
    return EngineLost(lost.pid, lost.exit_code, lost.log_tail)
