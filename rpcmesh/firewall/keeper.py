"""Keeps the rules of this machine's homes loaded and looks at them again and again. Runs as root; decides little.

At its start it loads what is meant. Later it exchanges addresses as they change, and mends what somebody else changed,
if the settings say so. Settings that mean other rules are for an admin to apply, who can have them rolled back; and
rules that an admin removed by our verb stay away.
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
        self._drifts = 0

    def is_due(self, monotonic: float) -> bool:
        return monotonic >= self._due_at or self._addresses != self._addresses_now()

    def look(self, monotonic: float, now: float) -> None:
        """Load or exchange what must be, compare, and tell the home's services. Times in seconds; ``now`` is Unix's."""
        self._addresses = self._addresses_now()
        interval_s = TICK_S
        try:
            meant = owner.meant(self._home, self._backend, unasked=True)
            interval_s = meant.settings.verify_s
            verdict = self._bring_in_force(meant)
        except loading.EndedError:
            raise
        except RpcmeshError as error:
            verdict = Verdict(error.message)
        self._note(verdict)
        self._due_at = monotonic + interval_s
        good_until = now + max(PATIENCE * interval_s, interval_s + 10 * TICK_S)
        self._tell(watch.Seen(verdict.problem, now, good_until, self._drifts))

    def _bring_in_force(self, meant: owner.Meant) -> Verdict:
        try:
            with owner.changing(self._home, patience_s=0):
                verdict = loading.verify(self._backend, self._home, meant.rules)
                if verdict != AS_MEANT:
                    self._mend(meant, verdict)
                    verdict = loading.verify(self._backend, self._home, meant.rules)
                loading.forget_abusers(self._backend, meant.rules.role)
        except owner.BusyError:
            # An admin tries other rules: to mend something is for the next look. Between the load and its record they
            # look like drift.
            verdict = loading.verify(self._backend, self._home, meant.rules)
            return Verdict(self._problem or "") if verdict.drift else verdict
        self._begun = True
        return verdict

    def _mend(self, meant: owner.Meant, verdict: Verdict) -> None:
        if loading.exchange(self._backend, self._home, meant.rules):
            self._log.info("firewall_addresses", **meant.rules.tables)
        elif not self._begun or (verdict.drift and meant.settings.on_drift == "repair"):
            if self._begun:
                self._note(verdict)
            loading.apply(self._backend, self._home, meant.rules)
            self._log.info("firewall_loaded", because=verdict.problem)

    def _note(self, verdict: Verdict) -> None:
        if verdict.problem == self._problem:
            return
        self._problem = verdict.problem
        self._drifts += verdict.drift
        if verdict.problem:
            self._log.error("firewall_not_as_meant", problem=verdict.problem)
        else:
            self._log.info("firewall_verified")

    def _tell(self, seen: watch.Seen) -> None:
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
        # Not `stop.wait`: a signal's handler that sets `stop` would wait for the lock that it interrupts.
        time.sleep(TICK_S)


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
