"""How a worker is confined: the launcher's command line for it, and what the launcher said. Nothing here starts one.

On Linux the launcher, ``rpcmesh-confine``, puts up the walls itself; on macOS it sets limits, and sandbox-exec applies
``deploy/sandbox/worker.sb``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from rpcmesh import paths
from rpcmesh.config import Backend, Sandbox
from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import Build
from rpcmesh.native_build.manifest import WORKER
from rpcmesh.node.status import SandboxStatus

PROFILE = "worker.sb"
SANDBOX_EXEC = "/usr/bin/sandbox-exec"
# The launcher's, when something that is required cannot be put in force; it has said what.
EXIT_NOT_CONFINED = 78
NOT_CONFINED = RpcmeshError(
    '[node] sandbox is "required", and a worker could not be confined: see worker_not_confined above',
    hint='rpcmesh doctor, or in the config: [node] sandbox = "auto"',
)

# As the launcher hands them to the worker: whoever it becomes may be unable to walk to the home or the build.
_SCRATCH, _BUILD = "/proc/self/fd/3", "/proc/self/fd/4"
# Libraries, and what ggml and the C library read of the machine.
_READ = (
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/lib",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/sys/kernel/mm/transparent_hugepage",
)
# Loading libraries takes one descriptor at a time; a driver holds dozens for each card.
_FILES, _FILES_WITH_DEVICES = 64, 4096
# Beside buffers: the program and its libraries, and for each thread a stack and a heap of the C library's.
_BASE_MIB, _THREAD_MIB = 1024, 8 + 128


class Needs(msgspec.Struct, frozen=True):
    """What a backend uses beyond the CPU. ``devices`` are patterns, since which cards there are differs."""

    devices: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()


# NVIDIA's driver names its threads through /proc/self/task, and reads its own maps. Seen on an H100 with driver 580.
_NVIDIA = Needs(
    devices=("/dev/nvidiactl", "/dev/dxg", "/dev/nvidia-uvm*", "/dev/nvidia[0-9]*", "/dev/nvidia-caps/*"),
    read=(
        "/proc/self/maps",
        "/proc/driver/nvidia",
        "/proc/devices",
        "/usr/local/cuda",
        "/usr/local/nvidia",
        "/opt/cuda",
        "/etc/alternatives",
    ),
    write=("/proc/self/task",),
)
_VULKAN_READ = (
    *("/etc/vulkan", "/usr/share/vulkan", "/usr/share/drirc.d", "/usr/share/libdrm"),
    *("/sys/devices", "/sys/dev/char", "/sys/class/drm"),
)
NEEDS: dict[Backend, Needs] = {
    "cpu": Needs(),
    "metal": Needs(),
    "cuda": Needs(devices=("/dev/null", *_NVIDIA.devices), read=_NVIDIA.read, write=_NVIDIA.write),
    "vulkan": Needs(
        devices=("/dev/null", "/dev/dri/*", "/dev/kfd", *_NVIDIA.devices),
        read=(*_NVIDIA.read, *_VULKAN_READ),
        write=_NVIDIA.write,
    ),
}


class Account(msgspec.Struct, frozen=True):
    """Whom a worker becomes that root starts. ``groups`` own its devices."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class Walls(msgspec.Struct, frozen=True):
    """What every worker of a node is started with, as :mod:`rpcmesh.node.walls` found it possible here.

    ``memory_mib`` is what all buffers of a session may take, ``devices`` the paths that exist, ``missing`` what cannot
    be had before anything has started.
    """

    asked: Sandbox
    platform: str
    backend: Backend
    memory_mib: int
    threads: int
    devices: tuple[str, ...] = ()
    account: Account | None = None
    missing: tuple[str, ...] = ()


def command(walls: Walls, build: Build, folder: Path, socket: str, arguments: tuple[str, ...]) -> tuple[str, ...]:
    """The argv of a worker that listens on ``socket``, a file's name in ``folder``, the only one that is its own."""
    if walls.asked == "off":
        return (str(build.worker), "-H", str(folder / socket), *arguments)
    on_macos = walls.platform == "darwin"
    return (
        str(build.confine),
        *("--scratch", str(folder), "--build", str(build.lib_dir)),
        *(() if on_macos else _linux(walls)),
        *(("--require",) if walls.asked == "required" else ()),
        "--",
        *(_macos_worker(build, folder, socket) if on_macos else (f"{_BUILD}/{WORKER}", "-H", f"{_SCRATCH}/{socket}")),
        *arguments,
    )


def address_space_mib(memory_mib: int, threads: int) -> int:
    """Twice the buffers, for a message with a tensor's content is as long as the tensor, which may be all of them."""
    return 2 * memory_mib + _BASE_MIB + threads * _THREAD_MIB


def _linux(walls: Walls) -> Iterable[str]:
    needs = NEEDS[walls.backend]
    for option, values in (("--read", (*_READ, *needs.read)), ("--write", needs.write), ("--device", walls.devices)):
        for value in values:
            yield from (option, value)
    if walls.account:
        yield from ("--user", f"{walls.account.uid}:{walls.account.gid}")
        for group in walls.account.groups:
            yield from ("--group", str(group))
    if walls.backend == "cpu":
        # A driver maps a card's memory and keeps compiled kernels; the CPU's worker writes to no file at all.
        yield from ("--memory-mib", str(address_space_mib(walls.memory_mib, walls.threads)), "--file-mib", "0")
    yield from ("--files", str(_FILES if walls.backend == "cpu" else _FILES_WITH_DEVICES))


def _macos_worker(build: Build, folder: Path, socket: str) -> Iterable[str]:
    # The profile compares paths without links in them.
    where = {"FOLDER": folder.resolve(), "BUILD": build.lib_dir.resolve()}
    parameters = [part for name, path in where.items() for part in ("-D", f"{name}={path}")]
    profile = paths.shipped("deploy") / "sandbox" / PROFILE
    return (SANDBOX_EXEC, "-f", str(profile), *parameters, str(build.worker), "-H", str(where["FOLDER"] / socket))


class _Report(msgspec.Struct, frozen=True):
    """The launcher's line."""

    event: str
    uid: int
    landlock: int
    call_filter: int
    limits: dict[str, int]
    missing: tuple[str, ...]


def status(walls: Walls, first_lines: Iterable[str]) -> SandboxStatus:
    """What is in force, from what the launcher printed before it became the worker."""
    if walls.asked == "off":
        return SandboxStatus(state="off")
    for line in first_lines:
        # The launcher's comes first; a worker that prints one like it has been confined already.
        if (said := _report(line)) is not None:
            missing = (*walls.missing, *said.missing)
            return SandboxStatus(
                state="partial" if missing else "confined",
                landlock=said.landlock,
                call_filter=bool(said.call_filter),
                profile=PROFILE if walls.platform == "darwin" else "",
                uid=said.uid,
                limits=said.limits,
                missing=missing,
            )
    return SandboxStatus()


def _report(line: str) -> _Report | None:
    try:
        said = msgspec.json.decode(line, type=_Report)
    except msgspec.DecodeError:
        return None
    return said if said.event == "worker_confined" else None
