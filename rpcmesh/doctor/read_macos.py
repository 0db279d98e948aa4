"""Reads what macOS's tools print about a machine's settings. Pure: text in, values out.

Written from manual pages and outputs that others published: none of these tools was run for it.
"""

from __future__ import annotations

import re
import sys

from rpcmesh.doctor.facts import Bridge

_NUMBER = re.compile(r"(?:iogpu\.wired_limit_mb\s*[:=]\s*)?(\d+)")
_SLEEP = re.compile(r"^\s*sleep\s+(\d+)\b", re.MULTILINE)
_MAXFILES = re.compile(r"^\s*maxfiles\s+(\d+|unlimited)\s+(\d+|unlimited)\s*$", re.MULTILINE)
_SPEED_LIMIT = re.compile(r"\bCPU_Speed_Limit\s*=\s*(\d+)")
_NO_WARNING = re.compile(r"\bNo thermal warning level has been recorded")
_MTU = re.compile(r"^\w+: flags=\S+(?: metric \d+)? mtu (\d+)", re.MULTILINE)
_ADDRESS = re.compile(r"^\s+inet6? (\S+)", re.MULTILINE)
_ACTIVE = re.compile(r"^\s+status: active\s*$", re.MULTILINE)


def wired_limit_mb(text: str) -> int | None:
    """``sysctl iogpu.wired_limit_mb``, with or without ``-n``: MiB, 0 for the system's default, None when unknown."""
    found = _NUMBER.fullmatch(text.strip())
    return int(found[1]) if found else None


def sleep_min(text: str) -> int | None:
    """``pmset -g``: minutes of idleness after which the machine sleeps, 0 for never, None when it does not say."""
    found = _SLEEP.search(text)
    return int(found[1]) if found else None


def files_limit(text: str) -> int | None:
    """``launchctl limit maxfiles``: the hard limit, of two columns the second; None when it does not say."""
    found = _MAXFILES.search(text)
    if not found:
        return None
    return sys.maxsize if found[2] == "unlimited" else int(found[2])


def speed_limit_pct(text: str) -> int | None:
    """``pmset -g therm``: how fast the CPU may be. Macs with Apple's chips print a note that there was no warning, or
    nothing of speeds; None when it says neither."""
    limits = [int(limit) for limit in _SPEED_LIMIT.findall(text)]
    if limits:
        return min(100, *limits)
    return 100 if _NO_WARNING.search(text) else None


def bridge(text: str) -> Bridge | None:
    """``ifconfig bridge0``; None when there is no such interface. What DHCP gave it looks like a fixed address."""
    mtu = _MTU.search(text)
    if not mtu:
        return None
    given = (address for address in _ADDRESS.findall(text) if not address.startswith(("169.254.", "fe80:")))
    return Bridge(active=bool(_ACTIVE.search(text)), mtu=int(mtu[1]), addresses=tuple(given))
