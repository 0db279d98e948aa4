"""Looks at this home and this machine. A source that fails becomes an ``Unknown``; nothing is judged here."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec

from rpcmesh import config, interfaces, paths
from rpcmesh.coordinator import admin
from rpcmesh.coordinator.agent_client import AgentClient
from rpcmesh.coordinator.report import StatusReport
from rpcmesh.doctor import parsers
from rpcmesh.doctor.checks import Chmod
from rpcmesh.doctor.facts import (
    BuildSeen,
    Disk,
    Entry,
    Facts,
    Kind,
    Leaf,
    Listening,
    MacSettings,
    ModelFile,
    Native,
    NotRunning,
    Unknown,
)
from rpcmesh.errors import PeerError, RpcmeshError
from rpcmesh.models import library
from rpcmesh.native_build import manifest, requirements, source
from rpcmesh.native_build.compile import choose_backend
from rpcmesh.node import api
from rpcmesh.node.status import AgentStatus
from rpcmesh.paths import Home
from rpcmesh.pki import identity, role
from rpcmesh.pki.role import Role

T = TypeVar("T")

COMMAND_LIMIT_S = 5.0
CPUS = Path("/sys/devices/system/cpu")
_FAILURES = (RpcmeshError, OSError, ValueError, subprocess.SubprocessError, msgspec.MsgspecError, aiohttp.ClientError)


def gather(home: Home, cache: Path, now: float | None = None) -> Facts:
    """Everything that the checks of this home need: hashes the build, and asks the service that runs here."""
    seen = _look(lambda: role.of(home))
    found: Role = "none" if isinstance(seen, Unknown) else seen
    settings = _look(lambda: config.load(home.config))
    coordinator = _look(lambda: asyncio.run(_coordinator(home))) if found == "coordinator" else None
    return Facts(
        now=time.time() if now is None else now,
        role=found,
        home=home.root,
        uid=os.getuid(),
        leaf=seen if isinstance(seen, Unknown) else _look(lambda: _leaf(home)) if found != "none" else None,
        # Where no mesh is, the directory may be anybody's, and its mode is none of our business.
        entries=_look(lambda: tuple(_entries(home))) if found != "none" else None,
        builds=_with(settings, lambda known: _builds(known.build, cache)),
        native=_look(_native),
        disks=(_look(lambda: _disk("home", home.root)), _look(lambda: _disk("cache", cache))),
        model=_with(settings, lambda known: _model(home, known, coordinator)) if found == "coordinator" else None,
        open_files_limit=_look(_open_files),
        listening=_with(settings, lambda known: _listening(home, known, found)) if found != "none" else None,
        coordinator=coordinator,
        agent=_look(lambda: asyncio.run(_agent(home))) if found == "node" else None,
        governors=_look(_governors) if sys.platform == "linux" else None,
        mac=_look(_mac) if sys.platform == "darwin" else None,
    )


def mend(repair: Chmod) -> None:
    """Carry out a safe repair. Raises :class:`RpcmeshError` when the system refuses."""
    try:
        repair.entry.path.chmod(repair.mode)
    except OSError as error:
        raise RpcmeshError(f"{repair.command}: {error.strerror}") from error


def _look(source_of: Callable[[], T]) -> T | Unknown:
    try:
        return source_of()
    except _FAILURES as error:
        return Unknown(error.message if isinstance(error, RpcmeshError) else str(error) or type(error).__name__)


def _with(settings: config.Config | Unknown, source_of: Callable[[config.Config], T]) -> T | Unknown:
    return settings if isinstance(settings, Unknown) else _look(lambda: source_of(settings))


def _leaf(home: Home) -> Leaf:
    try:
        held = identity.load(home.identity)
    except RpcmeshError as error:
        return Leaf(problem=error.message, fix=error.hint)
    return Leaf(uri=held.uri, not_before=held.not_before, not_after=held.not_after)


def _entries(home: Home) -> Iterator[Entry]:
    """The directories, keys, database and sockets of a home. Links lead elsewhere and are left out."""
    folders = (home.root, home.authority, home.identity, home.gateway, home.models, home.logs, home.run)
    secrets = [path for folder in folders[1:4] for path in folder.glob("*.pem") if "key" in path.name]
    database = home.root.glob(f"{home.database.name}*")
    for path in (*folders, *sorted(secrets), *sorted(database), *sorted(home.run.glob("*.sock"))):
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        if (kind := _kind(found.st_mode)) is not None:
            yield Entry(path=path, kind=kind, mode=stat.S_IMODE(found.st_mode), uid=found.st_uid)


def _kind(mode: int) -> Kind | None:
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISSOCK(mode):
        return "socket"
    return "file" if stat.S_ISREG(mode) else None


def _builds(settings: config.Build, cache: Path) -> tuple[BuildSeen, ...]:
    """Those that were made from this rpcmesh's native parts, for the backend that is configured."""
    native_digest = source.tree_digest(paths.shipped("native"))
    backend = choose_backend(settings.backend)
    seen = []
    for directory in sorted(path for path in (cache / "builds").glob("[!.]*") if path.is_dir()):
        try:
            made = msgspec.json.decode((directory / manifest.FILE_NAME).read_bytes(), type=manifest.Manifest)
        except (OSError, msgspec.DecodeError):
            seen.append(BuildSeen(dir=directory, build_id="", problem=f"{str(directory)!r} holds no finished build"))
            continue
        if (made.native_digest, made.backend) == (native_digest, backend):
            seen.append(BuildSeen(dir=directory, build_id=made.build_id, problem=_tampered(directory)))
    return tuple(seen)


def _tampered(directory: Path) -> str:
    try:
        manifest.open_build(directory)
    except RpcmeshError as error:
        return error.message
    return ""


def _native() -> Native:
    lacking = requirements.missing()
    return Native(missing=tuple(lacking), install=requirements.install_command(lacking) if lacking else "")


def _disk(what: str, path: Path) -> Disk:
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    return Disk(what=what, path=path, free_bytes=shutil.disk_usage(existing).free)


def _model(home: Home, settings: config.Config, running: object) -> ModelFile:
    """The model that is served; before anything runs, the one that is configured."""
    name = running.model.name if isinstance(running, StatusReport) else settings.engine.model
    if not name:
        return ModelFile(name="", size_bytes=0)
    try:
        found = library.find(home, name)
    except RpcmeshError as error:
        return ModelFile(name=name, size_bytes=0, problem=error.message, fix=error.hint)
    return ModelFile(name=name, size_bytes=found.size_bytes)


def _open_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _listening(home: Home, settings: config.Config, role: Role) -> Listening:
    address = settings.coordinator.listen if role == "coordinator" else settings.node.listen
    try:
        host, _ = config.parse_address(address)
        interfaces.require_local(host)
    except RpcmeshError as error:
        return Listening(address=address, problem=error.message, fix=f"edit {home.config}: {error.hint}")
    return Listening(address=address)


async def _coordinator(home: Home) -> StatusReport | NotRunning:
    try:
        return await admin.AdminClient(home.socket(admin.SOCKET_NAME)).status()
    except admin.NotRunningError as error:
        return NotRunning(why=error.message, start="rpcmesh serve")


async def _agent(home: Home) -> AgentStatus | NotRunning:
    socket = home.socket(api.SOCKET_NAME)
    client = AgentClient(socket)
    try:
        return await client.status()
    except PeerError as error:
        if not isinstance(error.__cause__, aiohttp.ClientConnectionError):
            raise
        return NotRunning(why=f"no node answers on {str(socket)!r}", start="rpcmesh node run")
    finally:
        await client.close()


def _governors() -> tuple[str, ...]:
    return tuple(path.read_text().strip() for path in sorted(CPUS.glob("cpu[0-9]*/cpufreq/scaling_governor")))


def _mac() -> MacSettings:
    return MacSettings(
        wired_limit_mb=parsers.wired_limit_mb(_printed("sysctl", "-n", "iogpu.wired_limit_mb")),
        sleep_min=parsers.sleep_min(_printed("pmset", "-g")),
    )


def _printed(*command: str) -> str:
    """What ``command`` says, empty when it is not there or refuses."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_LIMIT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
