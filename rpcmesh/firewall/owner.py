"""Root works on a home that another user can write. So it opens that home's files as that user, and never as root."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time

# msgspec imports it at its first use. That would be as the owner, who may not come to where the interpreter lies.
import tomllib  # noqa: F401
from collections.abc import Iterator
from pathlib import Path

import msgspec

from rpcmesh import config
from rpcmesh.errors import RpcmeshError
from rpcmesh.firewall import membership
from rpcmesh.firewall.loaded import MAKE, Backend
from rpcmesh.firewall.policy import Policy, Role, for_home
from rpcmesh.firewall.rules import Rules
from rpcmesh.paths import Home
from rpcmesh.pki import role

# Below this a service's user cannot listen. Rules made unasked must not close a port that is root's, as that of ssh.
FIRST_FREE_PORT = 1024
# `keep` changes what must be within a moment; an admin who types a verb just then need not hear of it.
PATIENCE_S = 2.0
LOOK_AGAIN_S = 0.05


class Meant(msgspec.Struct, frozen=True):
    """What a home asks of the firewall now. ``host`` is where its service listens."""

    settings: config.Firewall
    policy: Policy
    rules: Rules
    host: str


class BusyError(RpcmeshError):
    """Another command is changing this home's rules."""


@contextlib.contextmanager
def acting_as_owner(home: Path) -> Iterator[int]:
    """The effective user is the home's owner while the block runs; gives their uid. As another user than root: nothing.

    Raises :class:`RpcmeshError` when there is no such home.
    """
    try:
        found = home.lstat()
        if stat.S_ISLNK(found.st_mode) and found.st_uid == 0:
            found = home.stat()  # root's own link; anybody else's leads nowhere as another than them
    except OSError as error:
        raise RpcmeshError(f"cannot look at {str(home)!r}: {error.strerror}") from error
    if os.geteuid() != 0 or found.st_uid == 0:
        yield found.st_uid
        return
    # What root's groups may read is root's too; as root it needs none of them again.
    os.setgroups([found.st_gid])
    os.setegid(found.st_gid)
    os.seteuid(found.st_uid)
    try:
        yield found.st_uid
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups([0])


@contextlib.contextmanager
def changing(home: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """One change of a home's rules at a time, an apply that waits for Enter included. Raises :class:`BusyError`."""
    lock = home / "firewall.lock"
    with acting_as_owner(home):
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RpcmeshError(f"cannot open {str(lock)!r}: {error.strerror}") from error
    try:
        _lock(descriptor, patience_s)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise BusyError(
                    "another `rpcmesh firewall` command is changing these rules", hint="wait until it has its answer"
                ) from error
        time.sleep(LOOK_AGAIN_S)


def role_of(home: Path) -> Role:
    """Raises :class:`RpcmeshError` for a home that belongs to no mesh."""
    with acting_as_owner(home):
        try:
            found = role.of(Home(home))
        except OSError as error:
            raise RpcmeshError(f"cannot look into {str(home)!r}: {error.strerror}") from error
    if found == "none":
        raise RpcmeshError(
            f"{str(home)!r} belongs to no mesh", hint="on a coordinator: rpcmesh init, on a node: rpcmesh join"
        )
    return found


def meant(home: Path, backend: Backend, *, unasked: bool = False) -> Meant:
    """What the settings and the mesh's addresses mean now.

    Rules that are ``unasked``, for which no admin typed a command, keep off root's ports. Raises :class:`RpcmeshError`.
    """
    found = role_of(home)
    with acting_as_owner(home) as uid:
        settings = config.load(Home(home).config)
        wanted = for_home(settings, found, membership.read(home), uid)
    host, _ = config.parse_address(settings.node.listen if found == "node" else settings.coordinator.listen)
    low = [port for port in (wanted.tls_port, wanted.stock_worker_port) if port is not None and port < FIRST_FREE_PORT]
    if unasked and uid != 0 and low:
        raise RpcmeshError(
            f"port {low[0]} is root's, and {str(home)!r} is not", hint="rpcmesh firewall apply loads such rules by hand"
        )
    return Meant(settings.firewall, wanted, MAKE[backend](wanted), host)
