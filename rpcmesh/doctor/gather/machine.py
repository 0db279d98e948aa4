"""This machine's settings that speed or stop a mesh. What its system does not have is None or empty."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from rpcmesh.doctor import read_linux, read_macos
from rpcmesh.doctor.facts import Heat, MacSettings, Suspend, Zone
from rpcmesh.doctor.gather.looking import printed, text_of
from rpcmesh.errors import RpcmeshError

CPUS = Path("/sys/devices/system/cpu")
THERMAL = Path("/sys/class/thermal")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
LIDS = Path("/proc/acpi/button/lid")
SLEEP_TARGETS = ("hibernate.target", "hybrid-sleep.target", "sleep.target", "suspend.target")


def open_files() -> int:
    return _soft_limit(resource.RLIMIT_NOFILE)


def locked_memory_bytes() -> int:
    return _soft_limit(resource.RLIMIT_MEMLOCK)


def _soft_limit(which: int) -> int:
    soft, _ = resource.getrlimit(which)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def governors() -> tuple[str, ...]:
    return tuple(path.read_text().strip() for path in sorted(CPUS.glob("cpu[0-9]*/cpufreq/scaling_governor")))


def huge_pages() -> str | None:
    return read_linux.huge_pages(text_of(HUGE_PAGES))


def gpu_persistence() -> tuple[str, ...]:
    return read_linux.persistence(printed("nvidia-smi", "--query-gpu=persistence_mode", "--format=csv,noheader"))


def times_slowed() -> int:
    """How often any core was slowed for heat since the start. Intel's CPUs alone count it."""
    return sum(int(text_of(path) or 0) for path in CPUS.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))


def heat(slowed_before: int) -> Heat:
    return Heat(zones=tuple(_zones()), slowed_before=slowed_before, slowed=times_slowed())


def _zones() -> list[Zone]:
    zones = []
    for path in sorted(THERMAL.glob("thermal_zone*")):
        now_c = read_linux.milli_c(text_of(path / "temp"))
        limit_c = read_linux.limit_c({trip.name: text_of(trip) for trip in path.glob("trip_point_*")})
        if now_c is not None and limit_c is not None:
            zones.append(Zone(name=text_of(path / "type") or path.name, now_c=now_c, limit_c=limit_c))
    return zones


def suspend() -> Suspend | None:
    """Of a machine with a lid. Others suspend only when somebody tells them to, as far as the system is concerned."""
    if not any(LIDS.glob("*")):
        return None
    said = printed("systemctl", "is-enabled", *SLEEP_TARGETS)
    targets = read_linux.unit_states(SLEEP_TARGETS, said)
    if targets is None:
        raise RpcmeshError("systemctl did not say whether this machine may sleep")
    return Suspend(targets=targets)


def mac() -> MacSettings:
    return MacSettings(
        wired_limit_mb=read_macos.wired_limit_mb(printed("sysctl", "-n", "iogpu.wired_limit_mb")),
        sleep_min=read_macos.sleep_min(printed("pmset", "-g")),
        files_limit=read_macos.files_limit(printed("launchctl", "limit", "maxfiles")),
        speed_limit_pct=read_macos.speed_limit_pct(printed("pmset", "-g", "therm")),
        bridge=read_macos.bridge(printed("ifconfig", "bridge0")),
    )
