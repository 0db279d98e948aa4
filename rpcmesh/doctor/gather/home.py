"""This home: its identity, what lies in it, what it needs built, and the services that run from it."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import msgspec

from rpcmesh import config, interfaces, paths
from rpcmesh.coordinator import admin
from rpcmesh.coordinator.agent_client import AgentClient
from rpcmesh.coordinator.report import StatusReport
from rpcmesh.doctor.facts import BuildSeen, Disk, Entry, Kind, Leaf, Listening, ModelFile, Native, NotRunning
from rpcmesh.errors import PeerError, RpcmeshError
from rpcmesh.models import library
from rpcmesh.native_build import manifest, requirements, source
from rpcmesh.native_build.compile import choose_backend
from rpcmesh.node import api
from rpcmesh.node.status import AgentStatus
from rpcmesh.paths import Home
from rpcmesh.pki import identity
from rpcmesh.pki.role import Role


def leaf(home: Home) -> Leaf:
    try:
        held = identity.load(home.identity)
    except RpcmeshError as error:
        return Leaf(problem=error.message, fix=error.hint)
    return Leaf(uri=held.uri, not_before=held.not_before, not_after=held.not_after)


def entries(home: Home) -> Iterator[Entry]:
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


def builds(settings: config.Build, cache: Path) -> tuple[BuildSeen, ...]:
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


def native() -> Native:
    lacking = requirements.missing()
    return Native(missing=tuple(lacking), install=requirements.install_command(lacking) if lacking else "")


def disk(what: str, path: Path) -> Disk:
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    return Disk(what=what, path=path, free_bytes=shutil.disk_usage(existing).free)


def model(home: Home, settings: config.Config, running: object) -> ModelFile:
    """The model that is served; before anything runs, the one that is configured."""
    name = running.model.name if isinstance(running, StatusReport) else settings.engine.model
    if not name:
        return ModelFile(name="", size_bytes=0)
    try:
        found = library.find(home, name)
    except RpcmeshError as error:
        return ModelFile(name=name, size_bytes=0, problem=error.message, fix=error.hint)
    return ModelFile(name=name, size_bytes=found.size_bytes)


def listening(home: Home, settings: config.Config, role: Role) -> Listening:
    address = settings.coordinator.listen if role == "coordinator" else settings.node.listen
    try:
        host, _ = config.parse_address(address)
        interfaces.require_local(host)
    except RpcmeshError as error:
        return Listening(address=address, problem=error.message, fix=f"edit {home.config}: {error.hint}")
    return Listening(address=address)


async def coordinator(home: Home) -> StatusReport | NotRunning:
    try:
        return await admin.AdminClient(home.socket(admin.SOCKET_NAME)).status()
    except admin.NotRunningError as error:
        return NotRunning(why=error.message, start="rpcmesh serve")


async def agent(home: Home) -> AgentStatus | NotRunning:
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
