"""What the doctor knows, as plain values. Whoever could not look at something says so with :class:`Unknown`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from rpcmesh.coordinator.report import StatusReport
from rpcmesh.node.status import AgentStatus
from rpcmesh.pki.role import Role

Kind = Literal["directory", "file", "socket"]


class Unknown(msgspec.Struct, frozen=True):
    """A fact that could not be had, and why."""

    why: str


class NotRunning(msgspec.Struct, frozen=True):
    """The service of this home does not answer. ``start`` is the command that starts it."""

    why: str
    start: str


class Entry(msgspec.Struct, frozen=True):
    """Something below the home that must be its owner's alone. ``mode`` is the permission bits."""

    path: Path
    kind: Kind
    mode: int
    uid: int


class Leaf(msgspec.Struct, frozen=True):
    """This home's certificate. Times in Unix seconds. ``problem`` says why the identity cannot be used."""

    uri: str = ""
    not_before: float = 0.0
    not_after: float = 0.0
    problem: str = ""
    fix: str | None = None


class BuildSeen(msgspec.Struct, frozen=True):
    """A build in the cache that this rpcmesh would use. ``problem`` is empty when every binary is as it was built."""

    dir: Path
    build_id: str
    problem: str = ""


class Native(msgspec.Struct, frozen=True):
    """What the native build lacks on this machine, and the command that installs it."""

    missing: tuple[str, ...]
    install: str


class Disk(msgspec.Struct, frozen=True):
    """``what`` is the thing that lies on it: the cache or the home."""

    what: str
    path: Path
    free_bytes: int


class ModelFile(msgspec.Struct, frozen=True):
    name: str
    size_bytes: int
    problem: str = ""
    fix: str | None = None


class Listening(msgspec.Struct, frozen=True):
    """The configured address, and why this machine cannot bind it."""

    address: str
    problem: str = ""
    fix: str | None = None


class MacSettings(msgspec.Struct, frozen=True):
    """``wired_limit_mb`` 0 is the system's default, ``sleep_min`` 0 never; None is what macOS did not say."""

    wired_limit_mb: int | None
    sleep_min: int | None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """None is what does not exist in this role or on this system. ``now`` in Unix seconds."""

    now: float
    role: Role
    home: Path
    uid: int
    leaf: Leaf | Unknown | None = None
    entries: tuple[Entry, ...] | Unknown | None = None
    builds: tuple[BuildSeen, ...] | Unknown = ()
    native: Native | Unknown | None = None
    disks: tuple[Disk | Unknown, ...] = ()
    model: ModelFile | Unknown | None = None
    open_files_limit: int | Unknown | None = None
    listening: Listening | Unknown | None = None
    coordinator: StatusReport | NotRunning | Unknown | None = None
    agent: AgentStatus | NotRunning | Unknown | None = None
    governors: tuple[str, ...] | Unknown | None = None
    mac: MacSettings | Unknown | None = None
