"""Reads what system tools print about a machine's settings. Pure: text in, values out."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(?:iogpu\.wired_limit_mb\s*[:=]\s*)?(\d+)")
_SLEEP = re.compile(r"^\s*sleep\s+(\d+)\b", re.MULTILINE)


def wired_limit_mb(text: str) -> int | None:
    """``sysctl iogpu.wired_limit_mb``, with or without ``-n``: MiB, 0 for the system's default, None when unknown."""
    found = _NUMBER.fullmatch(text.strip())
    return int(found[1]) if found else None


def sleep_min(text: str) -> int | None:
    """``pmset -g``: minutes of idleness after which the machine sleeps, 0 for never, None when it does not say."""
    found = _SLEEP.search(text)
    return int(found[1]) if found else None
