"""Where everything lies on disk. Nothing here reads or writes a file's content."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from rpcmesh.errors import RpcmeshError

# sockaddr_un.sun_path holds 104 bytes on macOS and 108 on Linux, the closing NUL among them. One more is kept for the
# "~" of a socket that does not listen yet.
SUN_PATH_MAX = 102
LONGEST_SOCKET_NAME = 48


def default_home() -> Path:
    """The state directory: ``RPCMESH_HOME``, or the platform's place for user data."""
    override = os.environ.get("RPCMESH_HOME")
    return Path(override).absolute() if override else Path(platformdirs.user_data_dir("rpcmesh", appauthor=False))


def default_cache() -> Path:
    """Downloads and builds: content-addressed, shared by all homes, safe to delete at any time."""
    override = os.environ.get("RPCMESH_CACHE")
    return Path(override).absolute() if override else Path(platformdirs.user_cache_dir("rpcmesh", appauthor=False))


def shipped(name: str) -> Path:
    """A folder that travels with the code: ``native``, ``firewall`` or ``deploy``."""
    package = Path(__file__).parent
    in_wheel = package / "_shipped" / name
    return in_wheel if in_wheel.is_dir() else package.parent / name


@dataclass(frozen=True, slots=True)
class Home:
    """The state directory of one coordinator or one node. All of it is 0700, all files in it 0600."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def database(self) -> Path:
        return self.root / "rpcmesh.sqlite3"

    @property
    def authority(self) -> Path:
        """The mesh CA's key and certificate. Exists on the coordinator only."""
        return self.root / "authority"

    @property
    def identity(self) -> Path:
        """This process's own ``key.pem``, ``cert.pem``, ``ca.pem`` and ``revoked.pem`` for the tunnel."""
        return self.root / "identity"

    @property
    def gateway(self) -> Path:
        """The HTTPS gateway's ``key.pem`` and ``cert.pem``."""
        return self.root / "gateway"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Sockets and route files. Below the home when that path is short enough for a Unix socket, else below /tmp."""
        below = self.root / "run"
        if len(os.fsencode(below)) + 1 + LONGEST_SOCKET_NAME <= SUN_PATH_MAX:
            return below
        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return Path("/tmp") / f"rpcmesh-{os.getuid()}" / name  # noqa: S108 (private_dir checks owner and mode)

    def socket(self, name: str) -> Path:
        """The path of a Unix socket of this home, at most ``SUN_PATH_MAX`` bytes."""
        return self._socket(self.run, name)

    def worker_dir(self, name: str) -> Path:
        """A worker's own folder, the only place where it may make anything: beside it lie sockets that are not its."""
        return self.run / name

    def worker_socket(self, name: str) -> Path:
        """Where the worker ``name`` listens."""
        return self._socket(self.worker_dir(name), name)

    def _socket(self, folder: Path, name: str) -> Path:
        path = folder / f"{name}.sock"
        if len(os.fsencode(path)) > SUN_PATH_MAX:
            raise RpcmeshError(
                f"socket path {str(path)!r} is longer than the {SUN_PATH_MAX} bytes the system allows",
                hint="choose a shorter RPCMESH_HOME or node name",
            )
        return path

    def ensure(self) -> Home:
        """Make the directories that every home has. Raises :class:`RpcmeshError` on foreign owners or open modes."""
        for path in (self.root, self.identity, self.logs, self.run):
            private_dir(path)
        return self


def private_dir(path: Path) -> Path:
    """Make ``path`` a 0700 directory of ours, or refuse one that others own or can enter."""
    try:
        if path.parent.name == f"rpcmesh-{os.getuid()}":
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _require_private(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise RpcmeshError(
            f"cannot make the directory {str(path)!r}: {error.strerror}", hint="set RPCMESH_HOME to a place you own"
        ) from error
    _require_private(path)
    return path


def _require_private(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise RpcmeshError(f"{str(path)!r} is not a directory", hint=f"move it away: mv {path} {path}.old")
    if found.st_uid != os.getuid():
        raise RpcmeshError(
            f"{str(path)!r} belongs to uid {found.st_uid}, not to you", hint=f"sudo chown {os.getuid()} {path}"
        )
    if found.st_mode & 0o077:
        raise RpcmeshError(
            f"{str(path)!r} has mode {stat.S_IMODE(found.st_mode):04o}: others can enter it", hint=f"chmod 700 {path}"
        )
