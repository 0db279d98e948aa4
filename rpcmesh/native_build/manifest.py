"""What a finished build consists of. A binary that does not match its manifest is never started."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from rpcmesh.config import Backend
from rpcmesh.errors import RpcmeshError

FILE_NAME = "manifest.json"
WORKER = "ggml-rpc-server"
TUNNEL = "rpcmesh-tunnel"
CONFINE = "rpcmesh-confine"


class Manifest(msgspec.Struct, frozen=True):
    """``files`` maps each name in ``bin/`` to its :func:`fingerprint`."""

    build_id: str
    backend: Backend
    source_digest: str
    native_digest: str
    compiler: str
    options: tuple[str, ...]
    files: dict[str, str]


class Build(msgspec.Struct, frozen=True):
    """A finished build on disk.

    ``build_id`` depends on the llama.cpp source and on ``native/`` alone, so machines with other compilers and
    backends agree on it when, and only when, they speak the same protocol with the same code.
    """

    dir: Path
    build_id: str
    backend: Backend

    @property
    def lib_dir(self) -> Path:
        return self.dir / "bin"

    @property
    def worker(self) -> Path:
        return self.dir / "bin" / WORKER

    @property
    def tunnel(self) -> Path:
        return self.dir / "bin" / TUNNEL

    @property
    def confine(self) -> Path:
        """What a worker is started through: it gives up rights and becomes the worker."""
        return self.dir / "bin" / CONFINE

    def verify(self) -> None:
        """Hash every file again (about 50 MB, 30 ms). Raises :class:`RpcmeshError` naming the first that differs."""
        manifest = _read(self.dir)
        for name, expected in manifest.files.items():
            path = self.dir / "bin" / name
            found = fingerprint(path)
            if found != expected:
                raise RpcmeshError(
                    f"{str(path)!r} is not what was built: its fingerprint is {found!r}, not {expected!r}",
                    hint=f"build again: rm -r {self.dir} && rpcmesh build",
                )


def open_build(directory: Path) -> Build:
    """Open and check a finished build."""
    manifest = _read(directory)
    opened = Build(dir=directory, build_id=manifest.build_id, backend=manifest.backend)
    opened.verify()
    return opened


def fingerprint(path: Path) -> str:
    """A file's SHA-256, a link's target, or ``missing``."""
    if path.is_symlink():
        return f"-> {path.readlink()}"
    if not path.is_file():
        return "missing"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(directory: Path) -> Manifest:
    path = directory / FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise RpcmeshError(
            f"{str(directory)!r} holds no finished build", hint=f"build again: rm -rf {directory} && rpcmesh build"
        ) from error
