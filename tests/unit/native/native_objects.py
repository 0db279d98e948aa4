"""Builds the native tests in the user's cache, one folder for each way to compile. No test lives here."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rpcmesh import paths
from rpcmesh.native_build import programs, requirements

SANITIZERS = ("", "address,undefined", "thread")


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


@contextlib.contextmanager
def built(sanitizer: str, llama_source: Path, scratch: Path) -> Iterator[Path]:
    """The folder of fresh objects, whose programs are in its ``bin``; nobody else builds there meanwhile.

    Skips the test where the machine has no such sanitizer.
    """
    if sanitizer:
        require_sanitizer(sanitizer, scratch)
    options = [f"-DRPCMESH_LLAMA_HEADERS={llama_source}", f"-DRPCMESH_SANITIZE={sanitizer}", "-DRPCMESH_WERROR=ON"]
    # What a sanitizer reports is easier to place in code that was not rearranged much.
    options += ["-DCMAKE_CXX_FLAGS_RELEASE=-O1"] if sanitizer else []
    with programs.compiled(
        cache=paths.default_cache(),
        native=paths.shipped("native"),
        options=options,
        targets=[],
        progress=lambda _stage, _fraction: None,
    ) as objects:
        yield objects
