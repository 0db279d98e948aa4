"""Keeps the rules of this machine's homes loaded and looks at them again and again. Runs as root; decides little.

At its start it loads what is meant. Later it exchanges addresses as they change, and otherwise only looks: rules that
differ in more are for an admin to apply, who can have them rolled back.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from rpcmesh.errors import RpcmeshError
from rpcmesh.firewall import loading, membership, owner, watch
from rpcmesh.firewall.loaded import AS_MEANT, Backend, Verdict

log = structlog.get_logger(__name__)

# How soon a change of the mesh's addresses is in force.
TICK_S = 1.0
# A look may come late by this many intervals before nobody trusts the last one.
PATIENCE = 3.0


class Keeper:
    """One home. :meth:`look` whenever :meth:`is_due`."""

    def __init__(self, home: Path, backend: Backend) -> None:
        self._home = home
        self._backend = backend
        self._log = log.bind(home=str(home))
        self._begun = False
        self._due_at = 0.0
        self._addresses: tuple[int, ...] = ()
        self._problem: str | None = None

    def is_due(self, monotonic: float) -> bool:
        return monotonic >= self._due_at or self._addresses != self._addresses_now()

    def look(self, monotonic: float, now: float) -> None:
        """Load or exchange what must be, compare, and tell the home's services. Times in seconds; ``now`` is Unix's."""
        self._addresses = self._addresses_now()
        interval_s = TICK_S
        try:
            meant = owner.meant(self._home, self._backend, unasked=True)
            interval_s = meant.settings.verify_s
            problem = self._bring_in_force(meant).problem
        except loading.EndedError:
            raise
        except RpcmeshError as error:
            problem = error.message
        self._due_at = monotonic + interval_s
        self._tell(watch.Seen(problem, now, now + max(PATIENCE * interval_s, interval_s + 10 * TICK_S)))

    def _bring_in_force(self, meant: owner.Meant) -> Verdict:
        verdict = loading.verify(self._backend, self._home, meant.rules)
        may_load = not self._begun or meant.settings.on_drift == "repair"
        try:
            with owner.changing(self._home):
                if verdict != AS_MEANT:
                    if not loading.exchange(self._backend, self._home, meant.rules) and may_load:
                        loading.apply(self._backend, self._home, meant.rules)
                        self._log.info("firewall_loaded", because=verdict.problem)
                    verdict = loading.verify(self._backend, self._home, meant.rules)
                loading.forget_abusers(self._backend, meant.rules.role)
            self._begun = True
        except owner.BusyError:
            pass  # an admin tries other rules: that is for the next look
        return verdict

    def _tell(self, seen: watch.Seen) -> None:
        if seen.problem != self._problem:
            if seen.problem:
                self._log.error("firewall_not_as_meant", problem=seen.problem)
            else:
                self._log.info("firewall_verified")
        self._problem = seen.problem
        try:
            with owner.acting_as_owner(self._home):
                watch.write(self._home, seen)
        except RpcmeshError as error:
            self._log.error("firewall_look_not_written", reason=error.message)

    def _addresses_now(self) -> tuple[int, ...]:
        """Changes whenever the service writes the mesh's addresses."""
        try:
            with owner.acting_as_owner(self._home):
                found = membership.path(self._home).lstat()
        except (OSError, RpcmeshError):
            return ()
        return (found.st_mtime_ns, found.st_ino, found.st_size)


def keep(homes: Sequence[Path], backend: Backend, stop: threading.Event, ready: Callable[[], None]) -> None:
    """Keep ``homes`` until ``stop``; one that belongs to no mesh yet is waited for. ``ready`` after the first look."""
    keepers = {home: Keeper(home, backend) for home in homes}
    waited_for: set[Path] = set()
    first = True
    while not stop.is_set():
        for home, keeper in keepers.items():
            if not _belongs_to_a_mesh(home):
                if home not in waited_for:
                    log.info("firewall_waits", home=str(home), reason="it belongs to no mesh yet")
                waited_for.add(home)
                continue
            try:
                if keeper.is_due(time.monotonic()):
                    keeper.look(time.monotonic(), time.time())
            except loading.EndedError:
                return
        if first:
            ready()
            first = False
        stop.wait(TICK_S)


def tell_systemd() -> None:
    """Readiness, for ``Type=notify``: one datagram to the socket that systemd names; nothing elsewhere."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect("\0" + address[1:] if address.startswith("@") else address)
        notify.sendall(b"READY=1")


def _belongs_to_a_mesh(home: Path) -> bool:
    try:
        owner.role_of(home)
    except RpcmeshError:
        return False
    return True
