"""What this machine allows a worker to be confined with: its devices, the user to become, the worker's own folder."""

from __future__ import annotations

import os
import platform
import pwd
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from rpcmesh import config
from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import Build
from rpcmesh.node.sandbox import NEEDS, Account, Walls
from rpcmesh.paths import Home, private_dir

# Not the service's own user: that one may read what the service may, keys included.
NOBODY = "nobody"


def find(home: Home, build: Build, settings: config.Node, memory_mib: int) -> Walls:
    """Raises :class:`RpcmeshError` when the sandbox is required and something can be seen to be missing already."""
    devices = tuple(sorted(_existing(NEEDS[build.backend].devices)))
    account, missing = (None, ()) if settings.sandbox == "off" else _account(home, devices)
    if missing and settings.sandbox == "required":
        raise RpcmeshError(
            f'[node] sandbox is "required", and this cannot be had: {missing[0]}',
            hint="run the node as a user of its own: sudo rpcmesh service install --role node",
        )
    return Walls(
        asked=settings.sandbox,
        platform=sys.platform,
        backend=build.backend,
        memory_mib=memory_mib,
        threads=settings.worker_threads or os.cpu_count() or 1,
        devices=devices,
        account=account,
        missing=missing,
    )


def make_folder(path: Path, account: Account | None) -> Path:
    """Make ``path``, in a folder that is ours alone, a 0700 folder of the worker's user."""
    private_dir(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    uid, gid = (account.uid, account.gid) if account else (os.getuid(), os.getgid())
    if not stat.S_ISDIR(found.st_mode):
        raise RpcmeshError(f"{str(path)!r} is not a folder", hint=f"move it away: mv {path} {path}.old")
    if (found.st_uid, found.st_gid) != (uid, gid):
        os.chown(path, uid, gid, follow_symlinks=False)
    path.chmod(0o700)
    return path


def _account(home: Home, devices: Iterable[str]) -> tuple[Account | None, tuple[str, ...]]:
    """Nobody and nothing missing, where this is not root's already."""
    if os.getuid() != 0:
        return None, ()
    if platform.system() == "Darwin":
        # There is no way for it into root's folders: macOS has no paths through descriptors.
        return None, ("user: on macOS a worker stays who started it, and root did",)
    try:
        entry = pwd.getpwnam(NOBODY)
        account = Account(uid=entry.pw_uid, gid=entry.pw_gid, groups=tuple(sorted(_groups(devices))))
        # In a container that knows one user only, nothing can be given to another.
        make_folder(home.worker_dir(NOBODY), account).rmdir()
    except KeyError:
        return None, (f"user: this system has no user {NOBODY!r} to become",)
    except OSError as error:
        return None, (f"user: {NOBODY!r} cannot own a folder here: {error.strerror}",)
    return account, ()


def _existing(patterns: Iterable[str]) -> set[str]:
    return {str(path) for pattern in patterns for path in Path("/").glob(pattern.removeprefix("/"))}


def _groups(devices: Iterable[str]) -> set[int]:
    """Those to be in for devices that are not everybody's."""
    found = [Path(device).stat() for device in devices]
    return {one.st_gid for one in found if one.st_gid and one.st_mode & 0o060 and not one.st_mode & 0o006}
