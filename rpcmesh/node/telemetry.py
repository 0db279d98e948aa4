"""What the machine and its worker look like. Reads the system; parses what the worker printed."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable

import msgspec
import psutil

from rpcmesh.node.status import Device

# "  CUDA0: NVIDIA H100 (81079 MiB, 80000 MiB free)", as ggml's RPC server lists its devices at the start.
_DEVICE = re.compile(r"^  (?P<name>[^\s:]+): (?P<description>.*) \((?P<total>\d+) MiB, (?P<free>\d+) MiB free\)$")


class Machine(msgspec.Struct, frozen=True):
    os: str
    arch: str
    memory_total_bytes: int
    memory_available_bytes: int
    load_1min: float


def machine() -> Machine:
    memory = psutil.virtual_memory()
    system = "macOS" if platform.system() == "Darwin" else platform.system()
    release = platform.mac_ver()[0] or platform.release()
    return Machine(
        os=f"{system} {release}",
        arch=platform.machine(),
        memory_total_bytes=memory.total,
        memory_available_bytes=memory.available,
        load_1min=os.getloadavg()[0],
    )


def rss_bytes(pid: int | None) -> int:
    """Resident memory of a process, 0 when it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss) if pid is not None else 0
    except psutil.Error:
        return 0


def devices(lines: Iterable[str]) -> tuple[Device, ...]:
    """The devices that a worker listed in its output."""
    found = filter(None, map(_DEVICE.match, lines))
    return tuple(
        Device(
            name=match["name"],
            description=match["description"].strip(),
            total_mib=int(match["total"]),
            free_mib=int(match["free"]),
        )
        for match in found
    )
