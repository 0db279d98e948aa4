"""Keeps one service running: start, wait until ready, wait for its end, and what :mod:`restart` decides then."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import structlog

from rpcmesh.errors import RpcmeshError
from rpcmesh.supervise import child, restart

log = structlog.get_logger(__name__)

READY_POLL_S = 0.005
READY_LIMIT_S = 30.0


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"
    GIVEN_UP = "given_up"
    STOPPED = "stopped"


class Snapshot(msgspec.Struct, frozen=True):
    """A service as ``status`` shows it. ``last_exit`` is empty until it ended once."""

    name: str
    state: State
    pid: int | None = None
    restarts: int = 0
    last_exit: str = ""


class Ended(msgspec.Struct, frozen=True):
    """How a process ended by itself, or by :meth:`Supervisor.reset` for the reason ``reset``.

    No other is started when ``final``.
    """

    exit: child.Exit
    last_lines: tuple[str, ...]
    reset: str = ""
    final: bool = False


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the owner of a service hears of it, each at once and in order."""

    # A line of its output that was a JSON object: its fields, "event" and "level" among them.
    on_event: Callable[[Mapping[str, Any]], None] = lambda _: None
    on_ended: Callable[[Ended], None] = lambda _: None
    # Seconds from the end of the process before it until it was ready; None for the first.
    on_ready: Callable[[float | None], None] = lambda _: None


class Service(msgspec.Struct, frozen=True):
    """What to run. ``prepare`` runs before each start, for what must be checked or cleaned every time.

    Ready means that the process lives and ``socket`` exists. A worker serves one client at a time, so connecting to it
    to see would queue behind the engine. An exit with a code in ``fatal`` is the user's to mend: it is raised, not
    retried.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    socket: Path | None = None
    cwd: Path | None = None
    grace_s: float = 5.0
    prepare: Callable[[], None] = lambda: None
    fatal: Mapping[int, RpcmeshError] = {}


class Supervisor:
    """One service. :meth:`run` in a task of the owner's keeps it alive; cancelling that stops it."""

    def __init__(
        self,
        service: Service,
        on_change: Callable[[Snapshot], None] = lambda _: None,
        hooks: Hooks = Hooks(),
    ) -> None:
        self._service = service
        self._on_change = on_change
        self._hooks = hooks
        self._reset_reason = ""
        self._ended_at_s: float | None = None
        self._child: child.Child | None = None
        self._reload_wanted = False
        self._snapshot = Snapshot(name=service.name, state=State.STOPPED)
        self._changed = asyncio.Condition()
        self._log = log.bind(service=service.name)

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    @property
    def first_lines(self) -> tuple[str, ...]:
        """What the running process printed first: a worker lists its devices there."""
        return tuple(self._child.head) if self._child else ()

    def reload(self) -> None:
        """SIGHUP, once the service is ready.

        While it starts it may have read its files already and not have a handler for the signal yet.
        """
        self._reload_wanted = self._snapshot.state is not State.READY
        if self._child is not None and not self._reload_wanted:
            self._child.send_signal(signal.SIGHUP)

    def reset(self, reason: str) -> None:
        """Kill the running process, if there is one, for ``reason``: it is started again as after any other end."""
        if self._child is not None and self._child.exit is None:
            self._reset_reason = reason
            self._child.kill()

    async def run(self) -> None:
        """Run until cancelled, or until the service has given up. Raises the error that a fatal exit stands for."""
        ends: list[restart.End] = []
        try:
            while True:
                self._reset_reason = ""
                ended, last_lines = await self._run_once()
                reset = self._reset_reason
                self._ended_at_s = now = time.monotonic()
                ends.append(restart.End(now, ours=bool(reset)))
                decision = restart.after(ends, now, random.random())  # noqa: S311 (jitter, not a secret)
                self._hooks.on_ended(Ended(ended, last_lines, reset, final=isinstance(decision, restart.GiveUp)))
                match decision:
                    case restart.Restart(delay_s):
                        event, why = ("service_reset", {"reason": reset}) if reset else ("service_ended", {})
                        self._log.warning(event, exit=str(ended), restart_in_s=round(delay_s, 3), **why)
                        await self._set(State.BACKOFF, pid=None, last_exit=str(ended), restarts=len(ends))
                        await asyncio.sleep(delay_s)
                    case restart.GiveUp(reason):
                        self._log.error("service_given_up", exit=str(ended), reason=reason)
                        await self._set(State.GIVEN_UP, pid=None, last_exit=str(ended))
                        return
        finally:
            self._remove_socket()
            if self._snapshot.state is not State.GIVEN_UP:
                self._update(state=State.STOPPED, pid=None)

    async def until_ready(self, limit_s: float = READY_LIMIT_S) -> None:
        """Wait until the service is ready. Raises :class:`RpcmeshError` when it gives up or takes too long."""
        try:
            async with asyncio.timeout(limit_s), self._changed:
                await self._changed.wait_for(lambda: self._snapshot.state in (State.READY, State.GIVEN_UP))
        except TimeoutError:
            raise RpcmeshError(f"{self._service.name} was not ready within {limit_s:.0f} s") from None
        if self._snapshot.state is State.GIVEN_UP:
            raise RpcmeshError(f"{self._service.name} cannot run: {self._snapshot.last_exit}")

    async def _run_once(self) -> tuple[child.Exit, tuple[str, ...]]:
        """How the process ended, and what it printed last."""
        service = self._service
        service.prepare()
        self._remove_socket()
        await self._set(State.STARTING)
        async with self._running() as started:
            await self._set(State.STARTING, pid=started.pid)
            if await self._becomes_ready(started):
                self._log.info("service_ready", pid=started.pid)
                await self._set(State.READY)
                since = self._ended_at_s
                self._hooks.on_ready(None if since is None else time.monotonic() - since)
                if self._reload_wanted:
                    self.reload()
            ended = await started.wait()
        fatal = service.fatal.get(ended.code) if ended.code is not None else None
        if fatal is not None:
            raise fatal
        return ended, tuple(started.tail)

    def _remove_socket(self) -> None:
        """Left by a process that was killed, it would look ready to the next one and to people."""
        if self._service.socket is not None:
            self._service.socket.unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[child.Child]:
        service = self._service
        self._reload_wanted = False
        async with child.running(
            service.name, service.argv, env=service.env, on_line=self._on_line, cwd=service.cwd, grace_s=service.grace_s
        ) as started:
            self._child = started
            try:
                yield started
            finally:
                self._child = None

    async def _becomes_ready(self, started: child.Child) -> bool:
        deadline = time.monotonic() + READY_LIMIT_S
        while started.exit is None:
            if self._service.socket is None or self._service.socket.is_socket():
                return True
            if time.monotonic() > deadline:
                self._log.warning("service_not_ready", after_s=READY_LIMIT_S)
                return False
            await asyncio.sleep(READY_POLL_S)
        return False

    def _on_line(self, line: str) -> None:
        fields = _parsed(line)
        if fields is None:
            self._log.info("output", line=line)
        else:
            self._hooks.on_event(dict(fields))
            event = str(fields.pop("event", "output"))
            level = str(fields.pop("level", "info"))
            emit = {"error": self._log.error, "warning": self._log.warning, "warn": self._log.warning}.get(
                level, self._log.info
            )
            emit(event, **{key: value for key, value in fields.items() if key != "ts"})

    async def _set(self, state: State, **changes: Any) -> None:
        self._update(state=state, **changes)
        async with self._changed:
            self._changed.notify_all()

    def _update(self, **changes: Any) -> None:
        self._snapshot = msgspec.structs.replace(self._snapshot, **changes)
        self._on_change(self._snapshot)


def _parsed(line: str) -> dict[str, Any] | None:
    """A line of the tunnel is one JSON object; other programs print text."""
    if not line.startswith("{"):
        return None
    try:
        fields = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return None
    return {f"field_{key}" if key in ("service", "self") else key: value for key, value in fields.items()}
