"""One event for each end of a worker: how it ended, what it was doing for whom, and how soon it was back.

The process's end is known from its supervisor, what it was doing from the tunnel's log, in either order.
:class:`Ledger` puts the two together and is pure; :class:`Incidents` listens to both, logs, and ends stuck workers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
import structlog

from rpcmesh.supervise.supervisor import Ended, Hooks, Service, Supervisor
from rpcmesh.tunnel.routes import rpc_alpn

log = structlog.get_logger(__name__)

# A worker may hang up on a session and live. A loss that no end of the process follows within this time was none.
LOSS_LASTS_S = 10.0
OUTPUT_LINES = 8
OUTPUT_CHARS = 400


class Graph(msgspec.Struct, frozen=True):
    """The last graph of a session: how many nodes and tensors, and of which ops."""

    device: int
    nodes: int
    tensors: int
    ops: dict[str, int]


class Said(msgspec.Struct, frozen=True):
    """What the tunnel says of a session with a worker."""

    event: Literal["session_opened", "worker_lost", "worker_stuck", "session_closed"]
    route: str
    session: int
    peer: str = ""
    reason: str = ""
    command: str | None = None
    graph: Graph | None = None


class Incident(msgspec.Struct, frozen=True):
    """The end of a worker's process. ``said`` is None when it served nobody, ``ready_again_ms`` when it is not back."""

    worker: str
    ended: Ended
    said: Said | None
    ready_again_ms: int | None


class _Pending(msgspec.Struct):
    ended: Ended
    said: Said | None
    # The session whose last words are still to come.
    awaited: int | None
    ready_again_ms: int | None = None
    settled: bool = False


class _Watched(msgspec.Struct):
    session: int | None = None
    said: Said | None = None
    said_at_s: float = 0.0
    pending: _Pending | None = None


class Ledger:
    """Each method takes one thing that happened, in the order in which they are heard; it gives what is complete now.

    An incident is complete once the worker is ready again or will not be, and once the tunnel has closed the session
    that it was serving: the tunnel says what a session was doing before it says that it is closed.
    """

    def __init__(self) -> None:
        self._workers: dict[str, _Watched] = {}

    def opened(self, worker: str, session: int) -> list[Incident]:
        watched = self._of(worker)
        watched.session = session
        # Whoever can be connected to lives: what was said before was not of its end.
        watched.said = None
        return []

    def said(self, worker: str, said: Said, now: float) -> list[Incident]:
        """worker_lost or worker_stuck."""
        watched = self._of(worker)
        if watched.pending is not None and watched.pending.awaited == said.session:
            watched.pending.said = said
        else:
            watched.said, watched.said_at_s = said, now
        return []

    def closed(self, worker: str, session: int) -> list[Incident]:
        watched = self._of(worker)
        if watched.session == session:
            watched.session = None
        if watched.pending is not None and watched.pending.awaited == session:
            watched.pending.awaited = None
        return self._complete(worker)

    def tunnel_ended(self) -> list[Incident]:
        """Nobody will close its sessions any more."""
        for watched in self._workers.values():
            watched.session = None
            if watched.pending is not None:
                watched.pending.awaited = None
        return [incident for worker in list(self._workers) for incident in self._complete(worker)]

    def ended(self, worker: str, ended: Ended, now: float) -> list[Incident]:
        watched = self._of(worker)
        before = self._complete(worker, whatever=True)
        said = watched.said if now - watched.said_at_s <= LOSS_LASTS_S else None
        watched.pending = _Pending(ended, said, awaited=watched.session, settled=ended.final)
        watched.said = None
        return [*before, *self._complete(worker)]

    def ready(self, worker: str, after_ms: int) -> list[Incident]:
        pending = self._of(worker).pending
        if pending is not None and not pending.settled:
            pending.ready_again_ms, pending.settled = after_ms, True
        return self._complete(worker)

    def rest(self) -> list[Incident]:
        """All that is not complete, as nothing more will be heard."""
        return [incident for worker in list(self._workers) for incident in self._complete(worker, whatever=True)]

    def _of(self, worker: str) -> _Watched:
        return self._workers.setdefault(worker, _Watched())

    def _complete(self, worker: str, *, whatever: bool = False) -> list[Incident]:
        watched = self._of(worker)
        pending = watched.pending
        if pending is None or not (whatever or (pending.settled and pending.awaited is None)):
            return []
        watched.pending = None
        return [Incident(worker, pending.ended, pending.said, pending.ready_again_ms)]


class Incidents:
    """Makes the supervisors of workers and of the tunnel, and listens to them."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._supervisors: dict[str, Supervisor] = {}

    def worker(self, name: str, service: Service) -> Supervisor:
        def ended(how: Ended) -> None:
            _report(self._ledger.ended(name, how, time.monotonic()))

        def ready(after_s: float | None) -> None:
            if after_s is not None:
                _report(self._ledger.ready(name, round(after_s * 1000)))

        self._supervisors[name] = Supervisor(service, hooks=Hooks(on_ended=ended, on_ready=ready))
        return self._supervisors[name]

    def tunnel(self, service: Service) -> Supervisor:
        hooks = Hooks(on_event=self._on_tunnel_event, on_ended=lambda _: _report(self._ledger.tunnel_ended()))
        return Supervisor(service, hooks=hooks)

    def close(self) -> None:
        """Say what has not been said, once everything is stopped."""
        _report(self._ledger.rest())

    def _on_tunnel_event(self, fields: Mapping[str, Any]) -> None:
        worker = str(fields.get("route", "")).removeprefix(rpc_alpn(""))
        try:
            said = msgspec.convert(fields, Said) if worker in self._supervisors else None
        except msgspec.ValidationError:
            return  # of another event
        match said:
            case Said("session_opened"):
                _report(self._ledger.opened(worker, said.session))
            case Said("worker_lost"):
                _report(self._ledger.said(worker, said, time.monotonic()))
            case Said("worker_stuck"):
                _report(self._ledger.said(worker, said, time.monotonic()))
                self._supervisors[worker].reset(reset_reason(said))
            case Said("session_closed"):
                _report(self._ledger.closed(worker, said.session))


def reset_reason(said: Said) -> str:
    """Why a worker is ended: what it did, or that it computes on for a client that has gone."""
    return said.reason if said.reason in {"compute_timeout", "reply_invalid"} else "client_gone"


def _report(incidents: list[Incident]) -> None:
    for incident in incidents:
        if incident.ended.reset:
            log.warning("worker_reset", reason=incident.ended.reset, **dict(_fields(incident)))
        else:
            log.error("worker_crashed", **dict(_fields(incident)))


def _fields(incident: Incident) -> Iterator[tuple[str, Any]]:
    ended, said = incident.ended, incident.said
    yield "worker", incident.worker
    yield "exit", str(ended.exit)
    yield from (("signal", ended.exit.signal_name),) if ended.exit.signal_name else (("status", ended.exit.code),)
    if said is not None:
        yield "session", said.session
        yield "peer", said.peer
        yield "command", said.command
        yield "graph", None if said.graph is None else msgspec.to_builtins(said.graph)
    yield "ready_again_ms", incident.ready_again_ms
    yield "output", [text[:OUTPUT_CHARS] for text in ended.last_lines[-OUTPUT_LINES:]]
