"""Settings of macOS. What the doctor knows of them was never run on a Mac: see ``read_macos``."""

from __future__ import annotations

from collections.abc import Iterable

from rpcmesh.doctor.facts import Bridge, Facts, MacSettings, Unknown
from rpcmesh.doctor.findings import Said, not_seen

JUMBO_MTU = 9000
# As for the limit of a process: see ``machine``.
FILES_LOW = 1024


def settings(mac: MacSettings, _: Facts) -> Iterable[Said]:
    yield _wired(mac.wired_limit_mb)
    yield _sleep(mac.sleep_min)
    yield _files(mac.files_limit)
    yield _heat(mac.speed_limit_pct)
    if mac.bridge is not None:
        yield from _bridge(mac.bridge)


def _wired(limit_mb: int | None) -> Said:
    match limit_mb:
        case None:
            return not_seen(Unknown("sysctl did not say iogpu.wired_limit_mb"))
        case 0:
            return Said("ok", "the GPU may use the system's default share of memory (iogpu.wired_limit_mb is 0)")
        case limit:
            return Said("ok", f"the GPU may use {limit} MiB of memory")


def _sleep(after_min: int | None) -> Said:
    match after_min:
        case None:
            return not_seen(Unknown("pmset did not say when this machine sleeps"))
        case 0:
            return Said("ok", "this machine does not sleep by itself")
        case minutes:
            return Said("warn", f"this machine sleeps after {minutes} min and leaves the mesh", "sudo pmset -a sleep 0")


def _files(limit: int | None) -> Said:
    """The soft limit is 256 on every Mac and no fault: services ask launchd for more, and the tunnel for itself."""
    if limit is None:
        return not_seen(Unknown("launchctl did not say how many files a program may open"))
    if limit < FILES_LOW:
        few = f"launchd lets no program open more than {limit} files"
        return Said("warn", few, "sudo launchctl limit maxfiles 65536 200000")
    return Said("ok", "launchd lets programs open enough files")


def _heat(speed_limit_pct: int | None) -> Said:
    if speed_limit_pct is None:
        return not_seen(Unknown("pmset did not say whether the CPU is slowed for heat"))
    if speed_limit_pct < 100:
        slowed = f"the CPU is slowed to {speed_limit_pct} % for heat"
        return Said("warn", slowed, "let it breathe: dust, fans, room for air; or run less on it")
    return Said("ok", "macOS does not slow the CPU for heat")


def _bridge(bridge: Bridge) -> Iterable[Said]:
    if not bridge.active:
        yield Said("ok", "the Thunderbolt bridge has no cable in it")
        return
    if not bridge.addresses:
        # What it gives itself, 169.254.x.x, is another one after the next start.
        where = "System Settings > Network > Thunderbolt Bridge > Details > TCP/IP: Manually, as 10.10.0.1"
        yield Said("warn", "the Thunderbolt bridge has no address that stays", where)
    else:
        yield Said("ok", f"the Thunderbolt bridge has the address {', '.join(bridge.addresses)}")
    if bridge.mtu < JUMBO_MTU:
        # `networksetup -help`: -setMTU <hardwareport or device name> <value>
        packets = f"the Thunderbolt bridge sends packets of {bridge.mtu} bytes"
        small = f"{packets}: models load faster with {JUMBO_MTU} at both ends"
        yield Said("ok", small, f"sudo networksetup -setMTU bridge0 {JUMBO_MTU}")
