"""llama.cpp's own server and worker, compiled as upstream ships them: the rival in benchmarks. Never used to serve."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

from rpcmesh import disk
from rpcmesh.config import Backend
from rpcmesh.native_build import requirements, source
from rpcmesh.native_build.compile import Progress, choose_backend, cmake, locked, short_hash, toolchain, whole
from rpcmesh.native_build.manifest import WORKER

SERVER = "llama-server"

# As in native/CMakeLists.txt, but with upstream's transport and with its server. Its web page would be downloaded.
_OPTIONS = (
    "-DBUILD_SHARED_LIBS=ON",
    "-DGGML_RPC=ON",
    "-DGGML_RPC_RDMA=OFF",
    "-DLLAMA_BUILD_COMMON=ON",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_SERVER=ON",
    *(f"-DLLAMA_BUILD_{part}=OFF" for part in ("TESTS", "EXAMPLES", "APP", "UI")),
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    f"-DCMAKE_INSTALL_RPATH={'@loader_path' if platform.system() == 'Darwin' else '$ORIGIN'}",
)
# Source, objects and result together, measured for the CPU backend and rounded up.
_NEEDED_BYTES = 1_200 * 2**20


def place(cache: Path, backend: Backend) -> Path:
    """Where the rival of this machine lies, or would lie: named by source, compiler and options."""
    tools = toolchain(choose_backend(backend))
    return cache / "bench" / f"rival-{short_hash(source.SHA256, tools.compiler, *tools.options, *_OPTIONS)}"


def built(cache: Path, backend: Backend) -> Path | None:
    """The folder with ``llama-server``, ``ggml-rpc-server`` and their libraries, if they were built."""
    found = place(cache, backend)
    return found if found.is_dir() else None


def build(*, cache: Path, backend: Backend, progress: Progress) -> Path:
    """The same, compiled first where it is not there: minutes on two cores.

    Raises :class:`RpcmeshError` with the last lines of a failed compile and the place of its log.
    """
    requirements.require()
    tree = source.pinned(cache, progress)
    finished = place(cache, backend)
    work = cache / "work" / finished.name
    tools = toolchain(choose_backend(backend))
    with locked(cache / "builds" / f"{finished.name}.lock", progress):
        if not finished.is_dir():
            disk.require_free(cache, _NEEDED_BYTES, "the rival's build")
            work.mkdir(parents=True, exist_ok=True)
            with disk.full_disk_is_one_line(cache):
                cmake(tree.llama, work, tools.generator, (*tools.options, *_OPTIONS), (SERVER, WORKER), progress)
                with whole(finished) as scratch:
                    shutil.copytree(work / "objects" / "bin", scratch, symlinks=True, dirs_exist_ok=True)
    return finished
