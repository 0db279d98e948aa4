"""Builds the native tests in the user's cache, one folder for each way to compile. No test lives here."""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rpcmesh import paths
from rpcmesh.native_build import requirements

SANITIZERS = ("", "address,undefined", "thread")

# Upper bounds for a slow and busy machine.
BUILD_LIMIT_S = 1200


def run(command: list[str], limit_s: int) -> str:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=limit_s,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}", pytrace=False)
    return done.stdout


def compiler() -> str:
    found = requirements.compiler()
    assert found is not None, requirements.install_command(["a C++ compiler"])
    return found


def require_sanitizer(sanitizer: str, scratch: Path) -> None:
    """Skip on a machine whose compiler has no such sanitizer, or whose kernel cannot run it."""
    program = scratch / "probe"
    build = [compiler(), f"-fsanitize={sanitizer}", "-x", "c++", "-", "-o", str(program)]
    built = subprocess.run(build, input="int main() {}", capture_output=True, text=True, check=False)
    if built.returncode != 0:
        pytest.skip(f"{compiler()} has no sanitizer {sanitizer!r}: {built.stderr.strip()[-200:]}")
    ran = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        pytest.skip(f"programs with the sanitizer {sanitizer!r} do not run here: {ran.stderr.strip()[-200:]}")


def work_folder(llama: Path, options: list[str]) -> Path:
    """One for each way to compile, like the work folders of the builds: it serves every checkout and stays fresh."""
    version = run([compiler(), "--version"], 60).splitlines()[0]
    key = hashlib.sha256("\0".join([str(llama), version, *options]).encode()).hexdigest()[:16]
    folder = paths.default_cache() / "native-tests" / key
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def mirror(native: Path, copy: Path) -> None:
    """Make ``copy`` equal to ``native``. Equal files are left alone, so that their objects stay fresh."""
    wanted = [path.relative_to(native) for path in native.rglob("*") if path.is_file()]
    for stale in {path.relative_to(copy) for path in copy.rglob("*") if path.is_file()} - set(wanted):
        (copy / stale).unlink()
    for name in wanted:
        if not (copy / name).is_file() or not filecmp.cmp(native / name, copy / name, shallow=False):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(native / name, copy / name)


@contextlib.contextmanager
def built(sanitizer: str, llama_source: Path, scratch: Path) -> Iterator[Path]:
    """The folder of fresh objects, whose programs are in its ``bin``; nobody else builds there meanwhile.

    Skips the test where the machine has no such sanitizer.
    """
    if sanitizer:
        require_sanitizer(sanitizer, scratch)
    root = requirements.openssl_root()
    options = [f"-DCMAKE_CXX_COMPILER={compiler()}", *([f"-DOPENSSL_ROOT_DIR={root}"] if root else [])]
    options += ["-DRPCMESH_LLAMA_SOURCE=", f"-DRPCMESH_LLAMA_HEADERS={llama_source}"]
    options += ["-DRPCMESH_TESTS=ON", f"-DRPCMESH_SANITIZE={sanitizer}"]
    # What a sanitizer reports is easier to place in code that was not rearranged much.
    options += ["-DCMAKE_CXX_FLAGS_RELEASE=-O1"] if sanitizer else []
    work = work_folder(llama_source, options)
    objects = work / "objects"

    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mirror(paths.shipped("native"), work / "native")
        run(
            ["cmake", "-S", str(work / "native"), "-B", str(objects), "-G", requirements.generator() or "", *options],
            120,
        )
        run(["cmake", "--build", str(objects), "--parallel", str(os.cpu_count() or 1)], BUILD_LIMIT_S)
        yield objects
