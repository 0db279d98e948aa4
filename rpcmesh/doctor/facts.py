"""What the doctor knows, as plain values. Whoever could not look at something says so with :class:`Unknown`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from rpcmesh.coordinator.report import StatusReport
from rpcmesh.node.probe import Result
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


class Zone(msgspec.Struct, frozen=True):
    """A thermal sensor of Linux. ``limit_c`` is the lowest of its trip points that say hot or critical."""

    name: str
    now_c: float
    limit_c: float


class Heat(msgspec.Struct, frozen=True):
    """``slowed`` counts how often the CPU was slowed for heat since the start; ``slowed_before`` did a moment ago."""

    zones: tuple[Zone, ...] = ()
    slowed_before: int = 0
    slowed: int = 0


class Suspend(msgspec.Struct, frozen=True):
    """Of a machine with a lid: the state of systemd's targets that put it to sleep."""

    targets: dict[str, str]


class Bridge(msgspec.Struct, frozen=True):
    """macOS's Thunderbolt bridge. ``addresses`` are those that it was given, not those that it gave itself."""

    active: bool
    mtu: int
    addresses: tuple[str, ...] = ()


class MacSettings(msgspec.Struct, frozen=True, kw_only=True):
    """None is what macOS did not say. ``wired_limit_mb`` 0 is the system's default, ``sleep_min`` 0 never.

    ``files_limit`` is the most files that launchd lets a program open. ``speed_limit_pct`` 100 is a CPU that is not
    slowed for heat. A Mac without a Thunderbolt bridge has no ``bridge``.
    """

    wired_limit_mb: int | None
    sleep_min: int | None
    files_limit: int | None
    speed_limit_pct: int | None
    bridge: Bridge | None = None


class Walls(msgspec.Struct, frozen=True):
    """What keeps a running worker in. ``own_network`` is None where that cannot be seen."""

    worker: str
    uid: int
    no_new_privileges: bool
    call_filter: bool
    own_network: bool | None


class Listener(msgspec.Struct, frozen=True):
    """A TCP port that a process of this home's node holds open."""

    process: str
    pid: int
    host: str
    port: int


class Clock(msgspec.Struct, frozen=True):
    """A node's clock less ours. The truth lies within ``uncertainty_s`` of ``ahead_s``. ``os`` as the node says it."""

    node: str
    os: str
    ahead_s: float
    uncertainty_s: float


class Link(msgspec.Struct, frozen=True):
    """A request to a node's agent and back, and a stream through both tunnels, as measured now.

    Links beyond some Gbit/s are faster than what sends and receives here.
    """

    node: str
    round_trip_s: float
    there_bit_s: float
    back_bit_s: float


class Tried(msgspec.Struct, frozen=True):
    """``stranger``, a node, tried to connect to the tunnel of ``node`` at ``address``, ADDR:PORT."""

    stranger: str
    node: str
    address: str
    result: Result


class Measured(msgspec.Struct, frozen=True):
    """What the coordinator measured, a value or an :class:`Unknown` a node or a pair of nodes."""

    clocks: tuple[Clock | Unknown, ...] = ()
    links: tuple[Link | Unknown, ...] = ()
    tried: tuple[Tried | Unknown, ...] = ()


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
    memlock_bytes: int | Unknown | None = None
    huge_pages: str | Unknown | None = None
    gpu_persistence: tuple[str, ...] | Unknown | None = None
    heat: Heat | Unknown | None = None
    suspend: Suspend | Unknown | None = None
    mac: MacSettings | Unknown | None = None
    walls: tuple[Walls | Unknown, ...] | Unknown | None = None
    listeners: tuple[Listener, ...] | Unknown | None = None
    measured: Measured | Unknown | None = None
