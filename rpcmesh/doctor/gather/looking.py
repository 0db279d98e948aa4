"""How everything is looked at: a source that fails becomes an ``Unknown``, and nothing that fails stops the doctor."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec
import psutil

from rpcmesh.doctor.facts import Unknown
from rpcmesh.errors import RpcmeshError

T = TypeVar("T")

COMMAND_LIMIT_S = 5.0
_FAILURES = (
    RpcmeshError,
    OSError,
    ValueError,
    subprocess.SubprocessError,
    msgspec.MsgspecError,
    aiohttp.ClientError,
    psutil.Error,
)


def look(source_of: Callable[[], T]) -> T | Unknown:
    try:
        return source_of()
    except _FAILURES as error:
        return Unknown(error.message if isinstance(error, RpcmeshError) else str(error) or type(error).__name__)


def printed(*command: str) -> str:
    """What ``command`` says, empty when it is not there or refuses."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_LIMIT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def text_of(path: Path) -> str:
    """A file of the kernel's; empty when it is not there or cannot be read just now, as that of a sensor asleep."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
