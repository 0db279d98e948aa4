"""Carries out the repairs that cannot do harm. Which those are is decided by ``checks.home``."""

from __future__ import annotations

from rpcmesh.doctor.checks.home import Chmod
from rpcmesh.errors import RpcmeshError


def mend(repair: Chmod) -> None:
    """Raises :class:`RpcmeshError` when the system refuses."""
    try:
        repair.entry.path.chmod(repair.mode)
    except OSError as error:
        raise RpcmeshError(f"{repair.command}: {error.strerror}") from error
