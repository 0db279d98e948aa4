"""A full disk is said in one line that names the disk, wherever it is met."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from rpcmesh.errors import RpcmeshError

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextlib.contextmanager
def full_disk_is_one_line(where: Path) -> Iterator[None]:
    """Turn ENOSPC and EDQUOT into :class:`RpcmeshError`; every other error passes through."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise full(where) from error
        raise


def is_full(error: OSError) -> bool:
    """Whether ``error`` says that a disk or a quota is used up."""
    return error.errno in _FULL


def raise_if_full(output: str, where: Path) -> None:
    """Recognise a full disk in what a child process printed."""
    if "No space left on device" in output or "Disk quota exceeded" in output:
        raise full(where)


def require_free(where: Path, needed_bytes: int, purpose: str) -> None:
    """Refuse to begin what cannot end: ``purpose`` needs ``needed_bytes`` free on the disk of ``where``."""
    existing = next(parent for parent in (where, *where.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise RpcmeshError(
            f"{purpose} needs {needed_bytes / 2**20:.0f} MiB below {str(where)!r}, "
            f"and the disk has {free / 2**20:.0f} MiB free",
            hint="free some room, or set RPCMESH_CACHE or RPCMESH_HOME to a larger disk",
        )


def full(where: Path) -> RpcmeshError:
    """The error for a disk that filled up underway."""
    return RpcmeshError(
        f"the disk that holds {str(where)!r} is full",
        hint="free some room and run the same command again: finished parts are kept",
    )
