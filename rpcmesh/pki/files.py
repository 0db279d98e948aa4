"""How identity files are read and written: whole or not at all, and for their owner's eyes only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rpcmesh.errors import RpcmeshError

# Keys, certificates and revocation lists are a few kilobytes; a list of 20 000 revocations is about this long.
MAX_BYTES = 1 << 20


def write_private(path: Path, content: bytes) -> None:
    """Replace ``path`` in one step by a 0600 file: a reader sees the old content or the new, also after a power cut."""
    try:
        # mkstemp makes the file 0600 from the start, so there is no moment in which others could open it.
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor, not a path)
                file.write(content)
                file.flush()
                to_disk(file.fileno())
            os.replace(name, path)  # noqa: PTH105
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)  # noqa: PTH108
            raise
        sync_dir(path.parent)
    except OSError as error:
        raise RpcmeshError(f"cannot write {str(path)!r}: {error.strerror}") from error


def rename(old: Path, new: Path) -> None:
    """Rename within one directory, and return once that would outlive a power cut."""
    old.replace(new)
    sync_dir(new.parent)


def read(path: Path) -> bytes:
    """The content of a file that is no secret. Raises :class:`RpcmeshError` when it cannot be read."""
    try:
        with path.open("rb") as file:
            return _limited(path, file.read(MAX_BYTES + 1))
    except OSError as error:
        raise RpcmeshError(f"cannot read {str(path)!r}: {error.strerror}") from error


def read_private(path: Path) -> bytes:
    """The content of a secret file, if it is ours alone: a regular file of this user with no bits for group or others.

    Owner and mode are asked of the open file, so it cannot be exchanged between the look and the read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise RpcmeshError(f"cannot read {str(path)!r}: {reason}") from error
    with open(descriptor, "rb") as file:  # noqa: PTH123
        require_private(path, os.fstat(descriptor))
        return _limited(path, file.read(MAX_BYTES + 1))


def require_private(path: Path, found: os.stat_result) -> None:
    """Refuse a secret file that somebody else owns or can open."""
    if not stat.S_ISREG(found.st_mode):
        raise RpcmeshError(f"{str(path)!r} is not a regular file")
    if found.st_uid != os.geteuid():
        raise RpcmeshError(
            f"{str(path)!r} belongs to uid {found.st_uid}, not to you", hint=f"sudo chown {os.geteuid()} {path}"
        )
    if found.st_mode & 0o077:
        raise RpcmeshError(
            f"{str(path)!r} has mode {stat.S_IMODE(found.st_mode):04o}: others may have read it",
            hint=f"chmod 600 {path}, and if others use this machine, make a new key",
        )


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other processes that also ask out of ``directory``; the system lets go when the process ends."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RpcmeshError(f"cannot open {str(directory)!r}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync_dir(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_disk(descriptor: int) -> None:
    """Until the content is on the medium. macOS's fsync stops at the drive's cache."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def _limited(path: Path, content: bytes) -> bytes:
    if len(content) > MAX_BYTES:
        raise RpcmeshError(f"{str(path)!r} is longer than {MAX_BYTES} bytes: not a key, certificate or revocation list")
    return content
