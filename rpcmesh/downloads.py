"""Files from the package index, fetched through pip with the user's own pip settings. Nothing is installed here."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rpcmesh import commands, disk
from rpcmesh.errors import RpcmeshError

POLL_S = 0.1


def fetch(
    what: str, arguments: Sequence[str], scratch: Path, *, size_bytes: int, progress: Callable[[float], None]
) -> Path:
    """Run ``pip download`` with ``arguments`` and return the one file it leaves in ``scratch``, an empty directory.

    ``size_bytes`` is about how much will arrive; ``progress`` gets the fraction that has. Raises
    :class:`RpcmeshError` with pip's last words.
    """
    parts, arrived = scratch / "parts", scratch / "arrived"
    parts.mkdir()
    arrived.mkdir()
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    with commands.started([*command, "--dest", str(arrived), *arguments], {"TMPDIR": str(parts)}) as pip:
        while True:
            try:
                said, _ = pip.communicate(timeout=POLL_S)
                break
            except subprocess.TimeoutExpired:
                progress(min(1.0, _size_bytes(parts) / size_bytes))
    found = list(arrived.iterdir())
    if pip.returncode != 0 or len(found) != 1:
        disk.raise_if_full(said, scratch)
        lines = said.strip().splitlines() or ["pip printed nothing"]
        reason = next((line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")), lines[-1])
        raise RpcmeshError(
            f"could not download {what}: {reason}", hint="check the connection to your package index, then try again"
        )
    return found[0]


def _size_bytes(folder: Path) -> int:
    """What pip has received by now. Its files and folders come and go while we look, which ``os.walk`` passes over."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_size
    return total
