"""All facts of one home, in the one value that the checks judge. Nothing is looked at here, only asked for."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rpcmesh import config
from rpcmesh.coordinator.report import StatusReport
from rpcmesh.doctor.facts import Facts, Unknown
from rpcmesh.doctor.gather import home as of_home
from rpcmesh.doctor.gather import machine, mesh, walls
from rpcmesh.doctor.gather.looking import look
from rpcmesh.node.status import AgentStatus
from rpcmesh.paths import Home
from rpcmesh.pki import role
from rpcmesh.pki.role import Role

K = TypeVar("K")
T = TypeVar("T")

LINUX, MACOS = sys.platform == "linux", sys.platform == "darwin"


def gather(home: Home, cache: Path, now: float | None = None) -> Facts:
    """Everything that the checks of this home need: hashes the build, asks the service that runs here, and on a
    coordinator measures its mesh."""
    slowed_before = look(machine.times_slowed) if LINUX else 0
    seen = look(lambda: role.of(home))
    found: Role = "none" if isinstance(seen, Unknown) else seen
    settings = look(lambda: config.load(home.config))
    coordinator = look(lambda: asyncio.run(of_home.coordinator(home))) if found == "coordinator" else None
    agent = look(lambda: asyncio.run(of_home.agent(home))) if found == "node" else None
    return Facts(
        now=time.time() if now is None else now,
        role=found,
        home=home.root,
        uid=os.getuid(),
        leaf=seen if isinstance(seen, Unknown) else look(lambda: of_home.leaf(home)) if found != "none" else None,
        # Where no mesh is, the directory may be anybody's, and its mode is none of our business.
        entries=look(lambda: tuple(of_home.entries(home))) if found != "none" else None,
        builds=_with(settings, lambda known: of_home.builds(known.build, cache)),
        native=look(of_home.native),
        disks=(look(lambda: of_home.disk("home", home.root)), look(lambda: of_home.disk("cache", cache))),
        model=(
            _with(settings, lambda known: of_home.model(home, known, coordinator)) if found == "coordinator" else None
        ),
        open_files_limit=look(machine.open_files),
        listening=_with(settings, lambda known: of_home.listening(home, known, found)) if found != "none" else None,
        coordinator=coordinator,
        agent=agent,
        governors=look(machine.governors) if LINUX else None,
        memlock_bytes=look(machine.locked_memory_bytes) if LINUX else None,
        huge_pages=look(machine.huge_pages) if LINUX else None,
        gpu_persistence=look(machine.gpu_persistence) if LINUX else None,
        suspend=look(machine.suspend) if LINUX else None,
        mac=look(machine.mac) if MACOS else None,
        walls=look(lambda: walls.walls(home, agent)) if isinstance(agent, AgentStatus) else None,
        listeners=look(lambda: walls.listeners(home)) if isinstance(agent, AgentStatus) else None,
        measured=(
            look(lambda: asyncio.run(mesh.measure(home, mesh.peers(coordinator))))
            if isinstance(coordinator, StatusReport)
            else None
        ),
        # Last, so that as much time as possible lies between the two counts.
        heat=_with(slowed_before, machine.heat) if LINUX else None,
    )


def _with(known: K | Unknown, source_of: Callable[[K], T]) -> T | Unknown:
    return known if isinstance(known, Unknown) else look(lambda: source_of(known))
