"""Carries out the steps of a plan, and leaves alone what is already as it should be. Nothing is decided here."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from rpcmesh.errors import RpcmeshError
from rpcmesh.service_files.steps import Argv, MakeDirectory, MakeUser, Remove, Run, Step, WaitUntilFails, WriteFile

THE_MACHINE = Path("/")
COMMAND_LIMIT_S = 120.0
ASK_AGAIN_S = 0.2


def carry_out(
    steps: Iterable[Step], report: Callable[[Step], None] = lambda _: None, root: Path = THE_MACHINE
) -> tuple[Step, ...]:
    """Do ``steps`` in order, tell ``report`` of each that was needed, and return those.

    Below another ``root`` only the files are made, as a packager wants them: no owners, no users, no commands.
    Raises :class:`RpcmeshError` at the first step that fails.
    """
    done: list[Step] = []
    changed = False
    for step in steps:
        if not _do(step, root, changed):
            continue
        changed = changed or isinstance(step, WriteFile | Remove)
        done.append(step)
        report(step)
    return tuple(done)


def require_root(command: str) -> None:
    """Raise :class:`RpcmeshError` with ``command`` to run by sudo, unless we are root."""
    if os.geteuid() != 0:
        raise RpcmeshError("services belong to the machine: this needs root", hint=f"sudo {command}")


def run(argv: Argv) -> subprocess.CompletedProcess[str]:
    """Run one short command to its end, with both outputs. Raises :class:`RpcmeshError` when it cannot be run."""
    try:
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=COMMAND_LIMIT_S
        )
    except FileNotFoundError as error:
        raise RpcmeshError(f"there is no {argv[0]!r} on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise RpcmeshError(f"{' '.join(argv)!r} does not end: {COMMAND_LIMIT_S:g} s are over") from error


def _do(step: Step, root: Path, changed: bool) -> bool:
    """Do one step; False when there was nothing to do."""
    real = root == THE_MACHINE
    match step:
        case WriteFile(path, mode, owner, content):
            with _told("write", path):
                return _write(_below(root, path), mode, _ids(owner) if real else None, content.encode())
        case MakeDirectory(path, mode, owner):
            with _told("make the directory", path):
                return _make_directory(_below(root, path), mode, _ids(owner) if real else None)
        case Remove(path, what):
            with _told("remove", path):
                return _remove(_below(root, path), what)
        case MakeUser(name, commands):
            return real and _make_user(name, commands)
        case Run(argv, after_change, only_if, unless):
            return real and (changed or not after_change) and _run(argv, only_if, unless)
        case WaitUntilFails(argv, limit_s, after_change):
            return real and (changed or not after_change) and _wait_until_fails(argv, limit_s)


def _below(root: Path, path: PurePosixPath) -> Path:
    return root / path.relative_to("/")


@contextlib.contextmanager
def _told(verb: str, path: PurePosixPath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RpcmeshError(f"cannot {verb} {str(path)!r}: {error.strerror}") from error


def _ids(owner: str) -> tuple[int, int]:
    user, _, group = owner.partition(":")
    try:
        return pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise RpcmeshError(f"there is no user or group {owner!r}") from error


def _write(path: Path, mode: int, ids: tuple[int, int] | None, content: bytes) -> bool:
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        same_kind = stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) == mode
        if same_kind and ids in {None, (found.st_uid, found.st_gid)} and path.read_bytes() == content:
            return False
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whoever reads the place sees the old file or the new one, whole.
    descriptor, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if ids is not None:
                os.fchown(descriptor, *ids)
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        Path(unfinished).replace(path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    return True


def _make_directory(path: Path, mode: int, ids: tuple[int, int] | None) -> bool:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    made = False
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        made = True
    # The service's own user may have put a link where its directory was: root must not change what that points to.
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(descriptor)
        wrong_owner = ids is not None and ids != (found.st_uid, found.st_gid)
        wrong_mode = stat.S_IMODE(found.st_mode) != mode
        if ids is not None and wrong_owner:
            os.fchown(descriptor, *ids)
        if wrong_mode:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
    return made or wrong_owner or wrong_mode


def _remove(path: Path, what: str) -> bool:
    try:
        if what == "file":
            path.unlink()
        elif what == "tree":
            shutil.rmtree(path)
        elif any(path.iterdir()):
            return False
        else:
            path.rmdir()
    except FileNotFoundError:
        return False
    return True


def _make_user(name: str, commands: Iterable[Argv]) -> bool:
    with contextlib.suppress(KeyError):
        pwd.getpwnam(name)
        return False
    for argv in commands:
        _must(argv)
    return True


def _run(argv: Argv, only_if: Argv, unless: Argv) -> bool:
    if (only_if and run(only_if).returncode != 0) or (unless and run(unless).returncode == 0):
        return False
    _must(argv)
    return True


def _must(argv: Argv) -> None:
    ended = run(argv)
    if ended.returncode != 0:
        said = (ended.stderr.strip() or ended.stdout.strip()).splitlines()
        raise RpcmeshError(f"{' '.join(argv)!r} failed: {said[-1] if said else f'exit status {ended.returncode}'}")


def _wait_until_fails(argv: Argv, limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    waited = False
    while run(argv).returncode == 0:
        if time.monotonic() > deadline:
            raise RpcmeshError(f"{' '.join(argv)!r} still succeeds after {limit_s:g} s")
        waited = True
        time.sleep(ASK_AGAIN_S)
    return waited
