"""Native programs that no build carries: tests, measurements, fuzz targets. Compiled in the cache alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import requirements
from rpcmesh.native_build.compile import Progress, locked, mirror, run, short_hash


@contextlib.contextmanager
def compiled(
    *,
    cache: Path,
    native: Path,
    options: Sequence[str],
    targets: Sequence[str],
    progress: Progress,
    cxx: str | None = None,
) -> Iterator[Path]:
    """CMake's build folder with ``targets`` in its ``bin``, nobody else's while the block lasts; no targets: all.

    One folder for each way to compile, like the work folders of the builds: it serves every checkout and stays fresh.
    Raises :class:`RpcmeshError` with the last lines of a failed compile and the place of its log.
    """
    requirements.require()
    chosen = cxx or requirements.compiler() or ""
    version = subprocess.run([chosen, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    root = requirements.openssl_root()
    all_options = [f"-DCMAKE_CXX_COMPILER={chosen}", *([f"-DOPENSSL_ROOT_DIR={root}"] if root else []), *options]
    work = cache / "native-tests" / short_hash(version, *all_options)
    objects, log = work / "objects", work / "build.log"
    configure = ["cmake", "-S", str(work / "native"), "-B", str(objects), "-G", requirements.generator() or ""]
    configure += ["-DRPCMESH_LLAMA_SOURCE=", "-DRPCMESH_TESTS=ON", *all_options]
    compile_all = ["cmake", "--build", str(objects), "--parallel", str(os.cpu_count() or 1)]
    compile_all += ["--target", *targets] if targets else []
    with locked(work / "lock", progress):
        mirror(native, work / "native")
        with log.open("w", encoding="utf-8") as out:
            progress("configure", 0.0)
            run(configure, out.write, log, lambda _: None)
            run(compile_all, out.write, log, lambda done: progress("compile", done))
        yield objects


def clang_with_libfuzzer(scratch: Path) -> str:
    """A clang++ that has libFuzzer, found by trying. Raises :class:`RpcmeshError` that says what is missing."""
    clang = shutil.which("clang++")
    if clang is None:
        raise RpcmeshError("clang++ was not found", hint="Debian: apt-get install clang libclang-rt-14-dev")
    probe = 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char *, decltype(sizeof(0))) { return 0; }'
    command = [clang, "-fsanitize=fuzzer,address,undefined", "-x", "c++", "-", "-o", str(scratch / "probe")]
    tried = subprocess.run(command, input=probe, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise RpcmeshError(
            f"{clang} has no libFuzzer: {tried.stderr.strip()[-200:]}",
            hint="Debian: apt-get install libclang-rt-14-dev",
        )
    return clang
