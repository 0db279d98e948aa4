"""The native tests pass: as they are, and under the address, undefined-behaviour and thread sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rpcmesh import paths
from rpcmesh.native_build import programs, requirements

# An upper bound for a slow and busy machine.
TESTS_LIMIT_S = 900


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


@pytest.mark.parametrize("sanitizer", ["", "address,undefined", "thread"])
def test_the_native_tests_pass(sanitizer: str, llama_source: Path, tmp_path: Path) -> None:
    if sanitizer:
        require_sanitizer(sanitizer, tmp_path)
    options = [f"-DRPCMESH_LLAMA_HEADERS={llama_source}", f"-DRPCMESH_SANITIZE={sanitizer}"]
    # What a sanitizer reports is easier to place in code that was not rearranged much.
    options += ["-DCMAKE_CXX_FLAGS_RELEASE=-O1"] if sanitizer else []

    with programs.compiled(
        cache=paths.default_cache(),
        native=paths.shipped("native"),
        options=options,
        targets=[],
        progress=lambda _stage, _fraction: None,
    ) as objects:
        shown = run(["ctest", "--test-dir", str(objects), "--output-on-failure", "--no-tests=error"], TESTS_LIMIT_S)

    for test in paths.shipped("native").glob("tests/*_test.cpp"):
        assert f": {test.stem.removesuffix('_test')} " in shown, f"{test.name} is no part of tests/CMakeLists.txt"
