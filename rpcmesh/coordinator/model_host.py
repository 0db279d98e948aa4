"""Owns the engine process: starts it on the workers that are ready, serves requests from it, starts it again when lost.

What to do next is decided by :func:`next_move`; the class only carries it out. An answer that is open when an engine is
lost goes on with the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from pathlib import Path

import msgspec
import structlog

from rpcmesh import config
from rpcmesh.coordinator import state
from rpcmesh.coordinator.failover import Failover, Stage
from rpcmesh.coordinator.open_answer import OpenAnswer
from rpcmesh.coordinator.seat import Seat
from rpcmesh.coordinator.snapshots import Snapshots
from rpcmesh.coordinator.standby import Standby
from rpcmesh.engine.client import Engine, EngineLost, EngineRequestError
from rpcmesh.engine.messages import Delta, DeviceSpec, GenerateRequest, LoadedModel, LoadSpec
from rpcmesh.errors import RpcmeshError
from rpcmesh.supervise import restart

log = structlog.get_logger(__name__)


# A running model is not disturbed for a new worker before it has been idle, and the worker up, for this long.
SPREAD_AFTER_S = 5.0
SPREAD_CHECK_S = 1.0
STANDBY_AFTER_S = 2.0
# A worker that ended is ready again within a second, and worth the wait: with it the model fits as before.
RESTART_GRACE_S = 1.5
RESTART_POLL_S = 0.05


class Load(msgspec.Struct, frozen=True):
    """Start an engine with these ``(node, worker)`` pairs."""

    workers: tuple[tuple[str, str], ...]


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do until the cluster changes."""

    reason: str


class Ended(msgspec.Struct, frozen=True):
    """Why an engine serves no longer.

    Towards giving up counts only the end of one that gave nobody a token: ``planned`` ends are ours, and one that
    ``served`` was well until a machine of its left it.
    """

    reason: str
    planned: bool = False
    served: bool = False


def next_move(cluster: state.Cluster, min_workers: int, use_local_device: bool = False) -> Load | Wait:
    """Whether to load the wanted model now, and on which workers.

    A model that has served goes on with what is left of the cluster, be it less than ``min_workers``.
    """
    if cluster.model.state is not state.ModelState.WAITING:
        return Wait("no model is waiting")
    if not state.settled(cluster):
        return Wait("some nodes have not been heard of yet")
    workers = state.workers_in(cluster)
    least = 1 if cluster.model.served else min_workers
    if len(workers) < least and not use_local_device:
        return Wait(f"{len(workers)} of at least {least} workers are ready")
    return Load(workers)


def may_spread(*, spare_s: float, idle_s: float) -> bool:
    """Whether to load again over more workers: one has been there unused, and nobody has asked, for long enough."""
    return min(spare_s, idle_s) >= SPREAD_AFTER_S


class ModelHost:
    """The gateway's backend. ``emit`` folds an event into the cluster; ``cluster`` returns the present one.

    ``on_seat`` is called whenever an engine has come or gone, or none will come.
    """

    def __init__(
        self,
        *,
        settings: config.Config,
        lib_dir: Path,
        socket_of: Callable[[str, str], Path],
        model_path: Callable[[str], Path],
        cluster: Callable[[], state.Cluster],
        emit: Callable[[state.Event], None],
        look_again: Callable[[Collection[str]], Awaitable[None]],
        on_seat: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._socket_of = socket_of
        self._model_path = model_path
        self._cluster = cluster
        self._emit = emit
        self._look_again = look_again
        self._seat = Seat(on_seat)
        self._snapshots = Snapshots(settings.engine.snapshot_mib << 20, lambda: self._reached(Stage.RESTORED))
        self._standby = Standby(
            lambda: Engine.start(
                lib_dir=lib_dir, on_log=lambda line: log.debug("engine", line=line), keeper=self._snapshots
            )
        )
        self._changed = asyncio.Event()
        self._answering = 0
        self._idle_since = 0.0
        self._last_token_at = 0.0
        self._lost_at = 0.0
        self._failover: Failover | None = None

    @property
    def answering(self) -> int:
        """How many answers are open."""
        return self._answering

    def wake(self) -> None:
        """The cluster changed: decide again."""
        self._changed.set()

    def models(self) -> tuple[LoadedModel, ...]:
        loaded = self._cluster().model.loaded
        return (loaded,) if loaded and self._seat.engine else ()

    def not_ready_reason(self) -> str | None:
        reason = state.not_ready_reason(self._cluster())
        # Between an engine's end and the word of it there is none, whatever the cluster says.
        return "loading" if reason is None and self._seat.engine is None else reason

    def slots(self) -> int:
        return self._settings.engine.n_seq_max if self._seat.engine else 0

    def awaited(self) -> tuple[str, ...]:
        return () if self._seat.engine else state.awaited(self._cluster())

    def generate(self, model: str, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Deltas of one answer, whichever engines they come from.

        Raises :class:`EngineLost` for an answer under which engines keep ending, and :class:`ClusterCapacityError`
        when no engine can be had that would go on with it.
        """
        if model not in {*self.awaited(), *(known.name for known in self.models())}:
            raise EngineRequestError("engine_error", f"model {model!r} is no longer loaded")
        return self._counted(request.id, self._answer(OpenAnswer(request, secrets.randbits(32))))

    async def _counted(self, request_id: str, deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
        self._answering += 1
        try:
            with self._snapshots.while_open(request_id):
                async with contextlib.aclosing(deltas):
                    async for delta in deltas:
                        yield delta
        finally:
            self._answering -= 1
            self._idle_since = time.monotonic()

    async def _answer(self, answer: OpenAnswer) -> AsyncGenerator[Delta, None]:
        engine: Engine | None = None
        while True:
            engine = await self._seat.after(engine, self._settings.engine.failover_wait_s)
            try:
                async with contextlib.aclosing(engine.generate(*self._snapshots.beside(answer.to_ask()))) as deltas:
                    async for delta in deltas:
                        answer.took(delta)
                        self._last_token_at = time.monotonic()
                        self._reached(Stage.RESUMED)
                        yield delta
                return
            except EngineLost:
                if not answer.engine_lost():
                    raise

    async def run(self) -> None:
        """Keep the wanted model loaded until cancelled."""
        try:
            await self._keep_loaded()
        finally:
            await self._standby.close()

    async def _keep_loaded(self) -> None:
        exits: list[float] = []
        while True:
            self._changed.clear()
            move = next_move(
                self._cluster(), self._settings.engine.min_workers, self._settings.coordinator.use_local_device
            )
            if isinstance(move, Wait):
                await self._changed.wait()
                continue
            try:
                ended = await self._serve_once(move)
                self._emit(state.ModelLost(ended.reason))
                if ended.planned:
                    log.info("engine_replaced", reason=ended.reason)
                    continue
                log.warning("engine_lost", reason=ended.reason)
                exits = [] if ended.served else [*exits, time.monotonic()]
                await self._pause(exits)
                await self._survey()
                self._reached(Stage.PLANNED)
            except RpcmeshError as refused:
                # The engine refused the load, or the model's file has gone: trying the same again would not help.
                log.error("model_failed", reason=refused.message)
                self._give_up(refused.message)

    async def _survey(self) -> None:
        """What the last poll saw is older than the loss. A worker that is just restarted is waited for, shortly.

        Who was unreachable then is not asked again: open answers would wait for a machine that is gone.
        """
        deadline = time.monotonic() + RESTART_GRACE_S
        await self._look_again(state.worth_asking(self._cluster()))
        while state.restarting(self._cluster()) and time.monotonic() < deadline:
            await asyncio.sleep(RESTART_POLL_S)
            await self._look_again(state.worth_asking(self._cluster()))

    async def _serve_once(self, move: Load) -> Ended:
        """Load and serve until the engine ends or the cluster says that it is of no use."""
        wanted = self._cluster().model.name
        self._emit(state.ModelLoading(0.0))
        try:
            async with await self._standby.take() as engine:
                self._reached(Stage.STARTED)
                loaded = await engine.load(self._spec(wanted, move), lambda done: self._emit(state.ModelLoading(done)))
                self._emit(state.ModelLoaded(loaded))
                self._reached(Stage.LOADED)
                seated_at = time.monotonic()
                self._seat.take(engine)
                log.info("model_ready", model=wanted, load_s=round(loaded.load_s, 2), workers=len(move.workers))
                try:
                    ended = await self._until_over(engine)
                finally:
                    self._seat.leave()
                self._begin_failover(ended)
                if not ended.planned:
                    # It may be waiting for a machine that is gone, and open answers wait for its end.
                    engine.kill()
                return msgspec.structs.replace(ended, served=self._last_token_at > seated_at)
        except EngineLost as lost:
            return Ended(lost.message)

    def _begin_failover(self, ended: Ended) -> None:
        now = time.monotonic()
        self._lost_at = now
        silence_s = now - self._last_token_at if self._answering else 0.0
        self._failover = None if ended.planned else Failover(time.time(), ended.reason, self._answering, silence_s)

    def _reached(self, stage: Stage) -> None:
        """Note a step of the failover that is under way, if one is. A load that failed as well repeats steps."""
        if self._failover is None or stage in self._failover.stages:
            return
        if stage is Stage.RESUMED and Stage.LOADED not in self._failover.stages:
            return  # what the lost engine had sent and nobody had read yet
        after_s = time.monotonic() - self._lost_at
        self._failover = self._failover.reached(stage, after_s)
        self._emit(state.FailoverSeen(self._failover))
        log.info("failover", stage=stage.value, after_s=round(after_s, 3), answers=self._failover.answers)
        if stage is Stage.RESUMED or (stage is Stage.LOADED and not self._failover.answers):
            self._failover = None

    def _give_up(self, reason: str) -> None:
        self._failover = None
        self._emit(state.ModelFailed(reason))
        self._seat.refuse(reason)

    async def _until_over(self, engine: Engine) -> Ended:
        self._idle_since = spare_since = time.monotonic()
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(engine.lost())
            preparing = group.create_task(self._standby.prepare(STANDBY_AFTER_S))
            while self._cluster().model.state is state.ModelState.READY:
                self._changed.clear()
                changing = group.create_task(self._changed.wait())
                await asyncio.wait({ending, changing}, timeout=SPREAD_CHECK_S, return_when=asyncio.FIRST_COMPLETED)
                changing.cancel()
                if ending.done():
                    preparing.cancel()
                    return Ended(ending.result().message)
                now = time.monotonic()
                spare_since = spare_since if state.spare_workers(self._cluster()) else now
                idle_s = 0.0 if self._answering else now - self._idle_since
                if may_spread(spare_s=now - spare_since, idle_s=idle_s):
                    ending.cancel()
                    preparing.cancel()
                    return Ended("another worker is ready", planned=True)
            ending.cancel()
            preparing.cancel()
        return Ended(self._cluster().model.reason)

    def _spec(self, wanted: str, move: Load) -> LoadSpec:
        engine = self._settings.engine
        return LoadSpec(
            model_name=wanted,
            model_path=str(self._model_path(wanted)),
            devices=tuple(
                DeviceSpec(endpoint=f"{self._socket_of(node, worker)}:1", node=node, worker=worker)
                for node, worker in move.workers
            ),
            n_ctx=engine.n_ctx,
            n_seq_max=engine.n_seq_max,
            n_batch=engine.n_batch,
            n_threads=engine.n_threads,
            snapshot_min_tokens=engine.snapshot_min_tokens,
            snapshot_bytes=engine.snapshot_mib << 20,
            snapshot_dir=engine.snapshot_dir,
        )

    async def _pause(self, exits: list[float]) -> None:
        match restart.decide(exits, time.monotonic(), random.random()):  # noqa: S311 (jitter, not a secret)
            case restart.Restart(delay_s):
                await asyncio.sleep(delay_s)
            case restart.GiveUp(reason):
                log.error("engine_given_up", reason=reason)
                self._give_up(reason)
