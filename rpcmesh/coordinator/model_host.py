"""Owns the engine process: starts it on the workers that are ready, serves requests from it, starts it again when lost.

What to do next is decided in :mod:`rpcmesh.coordinator.moves`; the class only carries it out. An answer that is open
when an engine ends goes on with the next one.
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
from rpcmesh.coordinator import moves, said, state
from rpcmesh.coordinator.answers import Answers
from rpcmesh.coordinator.failover import Stage
from rpcmesh.coordinator.moves import Ended, Load, Wait
from rpcmesh.coordinator.needs import Needs
from rpcmesh.coordinator.open_answer import FRUITLESS_ENGINES_MAX, OpenAnswer
from rpcmesh.coordinator.seat import Seat
from rpcmesh.coordinator.snapshots import Snapshots
from rpcmesh.coordinator.standby import Standby
from rpcmesh.engine.client import Engine, EngineLoadError, EngineLost, EngineRequestError
from rpcmesh.engine.messages import (
    Delta,
    DeviceSpec,
    Embedded,
    EmbedRequest,
    GenerateRequest,
    LoadedModel,
    LoadSpec,
)
from rpcmesh.errors import RpcmeshError
from rpcmesh.gateway.backend import ClusterCapacityError
from rpcmesh.plan.facts import ModelFacts
from rpcmesh.supervise import restart

log = structlog.get_logger(__name__)

SPREAD_CHECK_S = 1.0
STANDBY_AFTER_S = 2.0
# A worker that ended is ready again within a second, and worth the wait: with it the model fits as before.
RESTART_GRACE_S = 1.5
RESTART_POLL_S = 0.05


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
        self._needs = Needs()
        self._answers = Answers(lambda failover: emit(state.FailoverSeen(failover)))
        self._seat = Seat(on_seat)
        self._snapshots = Snapshots(settings.engine.snapshot_mib << 20, lambda: self._answers.reached(Stage.RESTORED))
        self._standby = Standby(
            lambda: Engine.start(
                lib_dir=lib_dir, on_log=lambda line: log.debug("engine", line=line), keeper=self._snapshots
            )
        )
        self._changed = asyncio.Event()

    @property
    def answering(self) -> int:
        """How many answers are open."""
        return self._answers.n_open

    def wake(self) -> None:
        """The cluster changed: decide again."""
        self._changed.set()

    def models(self) -> tuple[LoadedModel, ...]:
        loaded = self._cluster().model.loaded
        return (loaded,) if loaded and self._seat.engine else ()

    def not_ready_reason(self) -> str | None:
        reason = said.not_ready_reason(self._cluster())
        # Between an engine's end and the word of it there is none, whatever the cluster says.
        return "loading" if reason is None and self._seat.engine is None else reason

    def slots(self) -> int:
        return self._settings.engine.n_seq_max if self._seat.engine else 0

    def awaited(self) -> tuple[str, ...]:
        return () if self._seat.engine else state.awaited(self._cluster())

    def load(self, name: str, force: bool) -> None:
        """Load model ``name`` over all ready workers now. Open answers of the same model go on with it.

        Raises :class:`RpcmeshError` for a model that is unknown, and without ``force`` for another one while answers
        are open: they would be lost.
        """
        self._model_path(name)
        present = self._cluster().model.name
        if self._answers.n_open and name != present and not force:
            raise RpcmeshError(
                f"{self._answers.n_open} answers of model {present!r} are open and would end",
                hint=f"later, or: rpcmesh model load {name} --force",
            )
        if name == present and not force and (objection := self._objection()) is not None:
            raise RpcmeshError(f"model {name!r} could not be loaded again now: {objection}", hint="rpcmesh status")
        self._emit(state.ModelWanted(name))

    def require_without(self, node: str) -> None:
        """Raises :class:`RpcmeshError` when what is served now could not be served without ``node``."""
        if (objection := self._objection(without=node)) is not None:
            raise RpcmeshError(
                f"without node {node!r} the model has no place: {objection}",
                hint=f"rpcmesh node drain {node} --force ends what is being answered",
            )

    def _objection(self, without: str | None = None) -> str | None:
        return moves.objection(
            self._cluster(),
            self._settings.engine,
            time.monotonic(),
            self._needs.latest,
            without=without,
            use_local_device=self._settings.coordinator.use_local_device,
        )

    def generate(self, model: str, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Deltas of one answer, whichever engines they come from.

        Raises :class:`EngineLost` for an answer under which engines keep ending, and :class:`ClusterCapacityError`
        when no engine can be had that would go on with it.
        """
        self._require_known(model)
        return self._counted(request.id, self._answer(model, OpenAnswer(request, secrets.randbits(32))))

    async def embed(self, model: str, request: EmbedRequest) -> tuple[Embedded, ...]:
        """All vectors of one request, from one engine: they are asked for again when it is lost. Raises as above."""
        self._require_known(model)
        engine: Engine | None = None
        n_fruitless = 0
        with self._answers.one_more():
            while True:
                engine = await self._engine_after(engine, model)
                try:
                    vectors = await engine.embed(request)
                except EngineLost:
                    n_fruitless += not self._seat.gave_way(engine)
                    if n_fruitless == FRUITLESS_ENGINES_MAX:
                        raise
                else:
                    self._answers.took()
                    return vectors

    def _require_known(self, model: str) -> None:
        if model not in {*self.awaited(), *(known.name for known in self.models())}:
            raise EngineRequestError("engine_error", f"model {model!r} is no longer loaded")

    async def _counted(self, request_id: str, deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
        with self._answers.one_more(), self._snapshots.while_open(request_id):
            async with contextlib.aclosing(deltas):
                async for delta in deltas:
                    yield delta

    async def _engine_after(self, lost: Engine | None, model: str) -> Engine:
        """The engine after ``lost``, or after none. Raises :class:`ClusterCapacityError` where it has another model."""
        engine = await self._seat.after(lost, self._settings.engine.failover_wait_s)
        if self._cluster().model.name != model:
            raise ClusterCapacityError(f"model {model!r} gave way to another")
        return engine

    async def _answer(self, model: str, answer: OpenAnswer) -> AsyncGenerator[Delta, None]:
        engine: Engine | None = None
        while True:
            engine = await self._engine_after(engine, model)
            try:
                async with contextlib.aclosing(engine.generate(*self._snapshots.beside(answer.to_ask()))) as deltas:
                    async for delta in deltas:
                        answer.took(delta)
                        self._answers.took()
                        yield delta
                return
            except EngineRequestError as error:
                if answer.moved and error.code == "context_length_exceeded":
                    raise ClusterCapacityError(error.message) from error
                raise
            except EngineLost:
                if not answer.engine_lost(planned=self._seat.gave_way(engine)):
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
            needs = await self._needs_of_waiting()
            move = moves.next_move(
                self._cluster(),
                self._settings.engine,
                time.monotonic(),
                needs,
                use_local_device=self._settings.coordinator.use_local_device,
            )
            if isinstance(move, Wait):
                self._say_if_short(move)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(move.until):
                        await self._changed.wait()
                continue
            try:
                ended = await self._serve_once(move)
                self._emit(state.ModelLost(ended.reason))
                if ended.planned:
                    log.info("engine_replaced", reason=ended.reason)
                    self._answers.reached(Stage.PLANNED)
                    continue
                log.warning("engine_lost", reason=ended.reason)
                exits = [] if ended.served else [*exits, time.monotonic()]
                await self._pause(exits)
                await self._survey()
                self._answers.reached(Stage.PLANNED)
            except RpcmeshError as refused:
                self._refused(move, refused)

    async def _needs_of_waiting(self) -> ModelFacts | None:
        model = self._cluster().model
        if model.state is not state.ModelState.WAITING:
            return None
        try:
            path = self._model_path(model.name)
        except RpcmeshError:  # the load will say so
            return None
        return await self._needs.of(path)

    def _say_if_short(self, wait: Wait) -> None:
        model = self._cluster().model
        if (wait.short or model.short) and (wait.reason, wait.short) != (model.reason, model.short):
            if not model.short:
                log.error("model_does_not_fit", reason=wait.reason)
            self._emit(state.ModelWaits(wait.reason, wait.short))

    def _refused(self, move: Load, error: RpcmeshError) -> None:
        if isinstance(error, EngineLoadError) and error.memory:
            log.warning("model_got_no_memory", reason=error.message, n_ctx=move.placed.n_ctx)
            self._emit(state.ModelRefused(move.placed.n_ctx, error.message, time.monotonic()))
            return
        # The engine refused the load, or the model's file has gone: trying the same again would not help.
        log.error("model_failed", reason=error.message)
        self._give_up(error.message)

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
        self._emit(state.ModelLoading(0.0, move.workers))
        try:
            async with await self._standby.take() as engine:
                self._answers.reached(Stage.STARTED)
                loaded = await self._load(engine, wanted, move)
                self._emit(state.ModelLoaded(loaded))
                self._answers.reached(Stage.LOADED)
                seated_at = time.monotonic()
                self._seat.take(engine)
                log.info("model_ready", model=wanted, load_s=round(loaded.load_s, 2), workers=len(move.workers))
                gives_way = False
                try:
                    ended = await self._until_over(engine)
                    gives_way = ended.planned and engine.alive
                finally:
                    self._seat.leave(gives_way=gives_way)
                self._answers.begin_failover(ended)
                # It may be waiting for a machine that is gone, and open answers wait for its end.
                engine.kill()
                return msgspec.structs.replace(ended, served=self._answers.served_since(seated_at))
        except EngineLost as lost:
            moved = moves.must_move(self._cluster())
            return Ended(moved or lost.message, planned=moved is not None)

    async def _load(self, engine: Engine, wanted: str, move: Load) -> LoadedModel:
        """Load, unless a node is drained or revoked meanwhile or another model is wanted: then the engine is lost."""
        spec = self._spec(wanted, move)
        failure: RpcmeshError | None = None
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._kill_if_moved(engine))
            try:
                return await engine.load(spec, lambda done: self._emit(state.ModelLoading(done, move.workers)))
            except (EngineLoadError, EngineLost) as error:  # raised below: a group would wrap it
                failure = error
            finally:
                watching.cancel()
        assert failure is not None  # noqa: S101 (nothing else leaves the block)
        raise failure

    async def _kill_if_moved(self, engine: Engine) -> None:
        while moves.must_move(self._cluster()) is None:
            self._changed.clear()
            await self._changed.wait()
        engine.kill()

    def _give_up(self, reason: str) -> None:
        self._answers.give_up()
        self._emit(state.ModelFailed(reason))
        self._seat.refuse(reason)

    async def _until_over(self, engine: Engine) -> Ended:
        began = spare_since = time.monotonic()
        async with asyncio.TaskGroup() as group:
            lost = group.create_task(engine.lost())
            preparing = group.create_task(self._standby.prepare(STANDBY_AFTER_S))
            while True:
                self._changed.clear()
                now = time.monotonic()
                spare_since = spare_since if state.spare_workers(self._cluster(), now) else now
                ended = moves.ending(
                    self._cluster(),
                    self._settings.engine.rebalance,
                    now,
                    lost=lost.result().message if lost.done() else None,
                    spare_s=now - spare_since,
                    idle_s=self._answers.idle_s(began),
                )
                if ended is not None:
                    break
                changing = group.create_task(self._changed.wait())
                await asyncio.wait({lost, changing}, timeout=SPREAD_CHECK_S, return_when=asyncio.FIRST_COMPLETED)
                changing.cancel()
            lost.cancel()
            preparing.cancel()
        if ended.planned and engine.alive:
            # It answers on until the next one is up.
            await self._standby.prepare(0.0)
        return ended

    def _spec(self, wanted: str, move: Load) -> LoadSpec:
        engine = self._settings.engine
        return LoadSpec(
            model_name=wanted,
            model_path=str(self._model_path(wanted)),
            devices=tuple(
                DeviceSpec(f"{self._socket_of(node, worker)}:1", node, worker, layers)
                for (node, worker), layers in zip(move.workers, move.placed.layers, strict=True)
            ),
            n_ctx=move.placed.n_ctx,
            n_seq_max=engine.n_seq_max,
            n_batch=engine.n_batch,
            idle_tokens_max=engine.idle_tokens_max,
            n_ubatch=move.n_ubatch,
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
