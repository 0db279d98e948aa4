"""A build is found again by what went into it, appears whole or not at all, and fails with the compiler's own words."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from rpcmesh.config import Backend
from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import Build, build
from rpcmesh.native_build.compile import choose_backend

# Real CMake, a real compiler, and the four targets that every build has: seconds in place of minutes.
CMAKE = """
cmake_minimum_required(VERSION 3.21)
project(tiny LANGUAGES CXX)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_library(llama SHARED llama.cpp)
add_executable(ggml-rpc-server main.cpp)
add_executable(rpcmesh-tunnel tunnel/main.cpp)
add_executable(rpcmesh-confine main.cpp)
target_compile_options(rpcmesh-tunnel PRIVATE -Werror)
"""
MAIN = "int main() { return 0; }\n"


@pytest.fixture
def native(tmp_path: Path) -> Path:
    root = tmp_path / "native"
    (root / "tunnel").mkdir(parents=True)
    (root / "CMakeLists.txt").write_text(CMAKE)
    (root / "llama.cpp").write_text("int llama() { return 1; }\n")
    (root / "main.cpp").write_text(MAIN)
    (root / "tunnel" / "main.cpp").write_text(MAIN)
    return root


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    root = tmp_path / "llama.cpp"
    (root / "ggml" / "include").mkdir(parents=True)
    (root / "ggml" / "include" / "ggml-rpc.h").write_text("// RPC")
    return root


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def run(cache: Path, native: Path, llama: Path, stages: list[str] | None = None) -> Build:
    def note(stage: str, _fraction: float) -> None:
        if stages is not None and stage not in stages:
            stages.append(stage)

    return build(cache=cache, native=native, backend="cpu", llama=llama, progress=note)


def finished(cache: Path) -> list[str]:
    """What lies among the builds, locks aside."""
    return sorted(path.name for path in (cache / "builds").iterdir() if path.suffix != ".lock")


def test_a_build_holds_its_binaries_and_their_manifest(cache: Path, native: Path, llama: Path) -> None:
    made = run(cache, native, llama)
    assert made.dir.parent == cache / "builds"
    assert made.backend == "cpu"
    for binary in (made.worker, made.tunnel, made.confine):
        assert subprocess.run([binary], check=False).returncode == 0
    manifest = json.loads((made.dir / "manifest.json").read_bytes())
    assert set(manifest["files"]) == {path.name for path in made.lib_dir.iterdir()}
    assert made.build_id == manifest["build_id"]


def test_the_same_inputs_are_compiled_once(cache: Path, native: Path, llama: Path, tmp_path: Path) -> None:
    first = run(cache, native, llama)
    moved = native.rename(tmp_path / "elsewhere")
    stages: list[str] = []
    assert run(cache, moved, llama, stages) == first
    assert "compile" not in stages


def test_another_native_source_is_another_build(cache: Path, native: Path, llama: Path) -> None:
    former = run(cache, native, llama)
    (native / "tunnel" / "main.cpp").write_text("int main() { return 7; }\n")
    later = run(cache, native, llama)
    assert later.build_id != former.build_id
    assert [subprocess.run([made.tunnel], check=False).returncode for made in (former, later)] == [0, 7]
    # Only what changed is compiled again: both come from one object tree.
    assert len(list((cache / "work").iterdir())) == 1


def test_what_the_peer_cannot_notice_is_no_part_of_the_build_id(
    cache: Path, native: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines with other compilers agree on the id, and yet do not share a build."""
    first = run(cache, native, llama)
    compiler = shutil.which("c++") or shutil.which("g++")
    other = tmp_path / "c++-other"
    other.write_text(f'#!/bin/sh\n[ "$*" = --version ] && echo other 1.0 && exit\nexec {compiler} "$@"\n')
    other.chmod(0o755)
    monkeypatch.setenv("CXX", str(other))
    second = run(cache, native, llama)
    assert second.build_id == first.build_id
    assert second.dir != first.dir


def test_another_llama_cpp_is_another_build(cache: Path, native: Path, llama: Path) -> None:
    former = run(cache, native, llama)
    (llama / "ggml" / "include" / "ggml-rpc.h").write_text("// RPC, another version")
    assert run(cache, native, llama).build_id != former.build_id


def test_a_file_that_went_is_not_compiled_any_more(cache: Path, native: Path, llama: Path) -> None:
    (native / "extra.h").write_text("#define EXTRA 1\n")
    run(cache, native, llama)
    (native / "extra.h").unlink()
    (native / "main.cpp").write_text('#include "extra.h"\n' + MAIN)
    with pytest.raises(RpcmeshError, match=r"extra\.h"):
        run(cache, native, llama)


def test_a_failed_compile_shows_the_compilers_words_and_the_place_of_the_log(
    cache: Path, native: Path, llama: Path
) -> None:
    (native / "tunnel" / "main.cpp").write_text("int main() { return nowhere_declared; }\n")
    with pytest.raises(RpcmeshError, match="the native build failed") as caught:
        run(cache, native, llama)
    assert "tunnel/main.cpp" in caught.value.message
    assert "nowhere_declared" in caught.value.message
    assert len(caught.value.message.splitlines()) <= 4
    assert "-Werror" not in caught.value.message
    log = Path((caught.value.hint or "").removeprefix("the whole log: "))
    assert "nowhere_declared" in log.read_text()
    assert finished(cache) == []


def test_a_failed_link_names_what_is_missing(cache: Path, native: Path, llama: Path) -> None:
    (native / "tunnel" / "main.cpp").write_text("int nowhere_defined();\nint main() { return nowhere_defined(); }\n")
    with pytest.raises(RpcmeshError, match="nowhere_defined"):
        run(cache, native, llama)


def test_a_failed_configuration_says_why(cache: Path, native: Path, llama: Path) -> None:
    (native / "CMakeLists.txt").write_text(CMAKE + 'message(FATAL_ERROR "OpenSSL is too old")\n')
    with pytest.raises(RpcmeshError, match="the native build failed") as caught:
        run(cache, native, llama)
    assert "OpenSSL is too old" in caught.value.message
    assert finished(cache) == []


def test_the_build_tools_speak_english(cache: Path, native: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What went wrong is recognised by its words."""
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    (native / "CMakeLists.txt").write_text(CMAKE + 'message(FATAL_ERROR "language $ENV{LC_ALL}")\n')
    with pytest.raises(RpcmeshError, match=r"language C"):
        run(cache, native, llama)


def test_after_a_failure_the_corrected_source_builds(cache: Path, native: Path, llama: Path) -> None:
    (native / "tunnel" / "main.cpp").write_text("int main() {")
    with pytest.raises(RpcmeshError):
        run(cache, native, llama)
    (native / "tunnel" / "main.cpp").write_text(MAIN)
    assert run(cache, native, llama).tunnel.exists()


def test_a_disk_that_fills_up_under_the_compiler_is_said_so(cache: Path, native: Path, llama: Path) -> None:
    (native / "CMakeLists.txt").write_text(CMAKE + 'message(FATAL_ERROR "cannot write: No space left on device")\n')
    with pytest.raises(RpcmeshError, match="is full"):
        run(cache, native, llama)


def test_a_directory_without_a_manifest_is_not_taken_for_a_build(cache: Path, native: Path, llama: Path) -> None:
    made = run(cache, native, llama)
    (made.dir / "manifest.json").unlink()
    with pytest.raises(RpcmeshError, match="holds no finished build") as caught:
        run(cache, native, llama)
    assert caught.value.hint == f"build again: rm -rf {made.dir} && rpcmesh build"
    shutil.rmtree(made.dir)
    assert run(cache, native, llama) == made


def test_a_changed_binary_is_refused(cache: Path, native: Path, llama: Path) -> None:
    made = run(cache, native, llama)
    made.tunnel.write_bytes(b"something else")
    with pytest.raises(RpcmeshError, match="is not what was built"):
        run(cache, native, llama)


def test_a_build_tool_installed_since_does_no_harm(
    cache: Path, native: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object tree belongs to the tool that made it: CMake refuses to go on with another."""
    if not (shutil.which("ninja") and shutil.which("make")):
        pytest.skip("this machine has not both make and ninja")
    monkeypatch.setenv("CXX", shutil.which("c++") or shutil.which("g++") or "")
    without_ninja = tmp_path / "bin"
    without_ninja.mkdir()
    for folder in os.environ["PATH"].split(os.pathsep):
        for program in Path(folder).iterdir() if Path(folder).is_dir() else ():
            if program.name != "ninja" and not (without_ninja / program.name).is_symlink():
                (without_ninja / program.name).symlink_to(program)
    with monkeypatch.context() as before:
        before.setenv("PATH", str(without_ninja))
        run(cache, native, llama)
    (native / "main.cpp").write_text("int main() { return 3; }\n")
    assert subprocess.run([run(cache, native, llama).worker], check=False).returncode == 3


# A gate in the configuration: it says that it is there, and waits (half a minute at most) to be let through.
GATE = """
execute_process(COMMAND sh -c "echo $$ >> {place}/arrived; n=0; \\
  until test -e {place}/open -o $n -ge 1500; do sleep 0.02; n=$((n+1)); done")
"""
BUILD = """
import sys
from pathlib import Path
from rpcmesh.native_build import build
cache, native, llama = map(Path, sys.argv[1:])
say = lambda stage, _: print(stage, flush=True)
print(build(cache=cache, native=native, backend="cpu", llama=llama, progress=say).dir)
"""


@contextlib.contextmanager
def building(cache: Path, native: Path, llama: Path) -> Iterator[subprocess.Popen[str]]:
    """A build in a process of its own."""
    command = [sys.executable, "-c", BUILD, str(cache), str(native), str(llama)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def says(process: subprocess.Popen[str], stage: str) -> None:
    assert process.stdout is not None
    assert stage in (line.strip() for line in process.stdout)


@pytest.fixture
def gate(native: Path, tmp_path: Path) -> Iterator[Path]:
    (native / "CMakeLists.txt").write_text(CMAKE + GATE.format(place=tmp_path))
    yield tmp_path
    (tmp_path / "open").touch()


def test_two_builds_of_the_same_inputs_end_with_one_result(cache: Path, native: Path, llama: Path, gate: Path) -> None:
    with building(cache, native, llama) as first:
        wait_until((gate / "arrived").exists)
        with building(cache, native, llama) as second:
            says(second, "waiting for another build")
            (gate / "open").touch()
            results = [process.communicate(timeout=60)[0].splitlines() for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert results[0][-1] == results[1][-1]
    assert "compile" not in results[1]
    assert finished(cache) == [Path(results[0][-1]).name]


def test_equal_checkouts_in_two_places_end_with_one_result(
    cache: Path, native: Path, llama: Path, gate: Path, tmp_path: Path
) -> None:
    shutil.copytree(llama, tmp_path / "copy")
    with building(cache, native, llama) as first, building(cache, native, tmp_path / "copy") as second:
        wait_until(lambda: (gate / "arrived").exists() and len((gate / "arrived").read_text().split()) == 2)
        (gate / "open").touch()
        results = [process.communicate(timeout=60)[0].splitlines()[-1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert results[0] == results[1]
    assert finished(cache) == [Path(results[0]).name]


def test_a_build_that_is_interrupted_leaves_nothing_running_and_nothing_half(
    cache: Path, native: Path, llama: Path, gate: Path
) -> None:
    with building(cache, native, llama) as process:
        wait_until(lambda: (gate / "arrived").exists() and (gate / "arrived").read_text().endswith("\n"))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    shell = int((gate / "arrived").read_text())
    wait_until(lambda: not psutil.pid_exists(shell) or psutil.Process(shell).status() == psutil.STATUS_ZOMBIE)
    assert finished(cache) == []
    (gate / "open").touch()
    assert run(cache, native, llama).tunnel.exists()


def test_a_source_that_changes_while_it_waits_is_not_filed_under_its_former_content(
    cache: Path, native: Path, llama: Path, gate: Path
) -> None:
    with building(cache, native, llama):
        wait_until((gate / "arrived").exists)
        with building(cache, native, llama) as second:
            says(second, "waiting for another build")
            # The first build fails, and the second finds another source than the one it named its build after.
            (native / "main.cpp").write_text("int main() { return 5; }\n")
            os.killpg(os.getpgid(int((gate / "arrived").read_text())), signal.SIGKILL)
            _, said = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "changed" in said
    assert finished(cache) == []


@pytest.mark.parametrize("asked", ["cpu", "metal", "cuda", "vulkan"])
def test_an_explicit_backend_is_not_second_guessed(asked: Backend) -> None:
    assert choose_backend(asked) == asked


@pytest.mark.skipif(platform.system() == "Darwin", reason="macOS always has Metal")
@pytest.mark.parametrize(
    ("programs", "chosen"),
    [([], "cpu"), (["nvcc"], "cpu"), (["nvidia-smi"], "cpu"), (["nvcc", "nvidia-smi"], "cuda")],
    ids=["neither", "no driver", "no compiler", "both"],
)
def test_cuda_is_chosen_where_it_can_be_compiled_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: list[str], chosen: Backend
) -> None:
    for name in programs:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choose_backend("auto") == chosen
