"""What tests ask of real processes: is it there, wait until it is not. Nothing here starts one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable

import psutil

LIMIT_S = 20.0


def python(code: str, *arguments: str) -> tuple[str, ...]:
    """The argv that runs ``code`` in an interpreter that starts quickly."""
    return (sys.executable, "-I", "-S", "-c", code, *arguments)


def shell(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


def alive(pid: int) -> bool:
    """An orphan's zombie waits for init, which is not ours to hurry: it counts as gone."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


async def until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Poll until ``condition`` holds; fails the test when it does not in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"still not true after {limit_s:.0f} s"
        await asyncio.sleep(0.01)


async def until_gone(*pids: int) -> None:
    await until(lambda: not any(map(alive, pids)))
