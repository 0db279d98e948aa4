"""The native sources compile without a warning for macOS, wherever the tests run, and what differs by CPU for each."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rpcmesh import paths
from rpcmesh.native_build import requirements

TARGET = "aarch64-macos"
FLAGS = ("-std=c++17", "-Wall", "-Wextra", "-Werror")
NATIVE = paths.shipped("native")
SOURCES = [
    path.relative_to(NATIVE)
    for part in ("tunnel", "transport", "guard", "guard/pin", "confine")
    for path in sorted((NATIVE / part).glob("*.cpp"))
]


@pytest.fixture(scope="session")
def cross_cache() -> Path:
    """Zig keeps objects here by what went into them, so that only what changed is compiled again."""
    folder = paths.default_cache() / "native-tests" / "cross"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def openssl_headers(cross_cache: Path) -> list[Path]:
    """OpenSSL's headers of this machine and nothing else of it: its libc's headers must not shadow those of macOS."""
    searched = include_folders()
    # Debian keeps configuration.h apart, in the folder of the architecture.
    found = [folder / "openssl" for folder in searched if (folder / "openssl").is_dir()]
    if not any((folder / "ssl.h").is_file() for folder in found):
        pytest.skip(f"no OpenSSL headers in any of {', '.join(map(str, searched))}")
    return [only_folder_with(folder, cross_cache) for folder in found]


def include_folders() -> list[Path]:
    """Where this machine's compiler looks for headers, in its order."""
    command = [requirements.compiler() or "c++", "-x", "c++", "-E", "-v", "-"]
    said = subprocess.run(command, input="", capture_output=True, text=True, check=False).stderr
    listed = said.partition("#include <...> search starts here:")[2].partition("End of search list.")[0]
    root = requirements.openssl_root()
    return [
        *([root / "include"] if root else []),
        *(Path(line.strip()) for line in listed.splitlines() if line.strip()),
    ]


def only_folder_with(openssl: Path, cross_cache: Path) -> Path:
    """A folder that holds one link, to ``openssl``; always the same one, as its path is part of what zig compares."""
    alone = cross_cache / "include" / hashlib.sha256(os.fsencode(openssl)).hexdigest()[:12]
    alone.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (alone / "openssl").symlink_to(openssl)
    return alone


def compiled(target: str, name: Path, includes: list[str], cross_cache: Path, scratch: Path) -> bytes:
    """How the object file begins."""
    command = [sys.executable, "-m", "ziglang", "c++", "-target", target, *FLAGS, *includes]
    command += ["-c", str(NATIVE / name), "-o", str(scratch / "object.o")]
    cache = {"ZIG_GLOBAL_CACHE_DIR": str(cross_cache / "zig"), "ZIG_LOCAL_CACHE_DIR": str(cross_cache / "zig")}

    done = subprocess.run(
        command, env=os.environ | cache, capture_output=True, text=True, errors="replace", timeout=600, check=False
    )

    assert done.returncode == 0, done.stderr
    return (scratch / "object.o").read_bytes()[:20]


@pytest.mark.parametrize("name", SOURCES, ids=str)
def test_a_source_compiles_for_macos(
    name: Path, openssl_headers: list[Path], llama_source: Path, cross_cache: Path, tmp_path: Path
) -> None:
    ggml = (llama_source / "ggml" / "src" / "ggml-rpc", llama_source / "ggml" / "include")
    foreign = openssl_headers if name.parts[0] == "tunnel" else ggml
    includes = ["-I", str(NATIVE), *(flag for folder in foreign for flag in ("-isystem", str(folder)))]

    begin = compiled(TARGET, name, includes, cross_cache, tmp_path)

    assert begin[:4] == bytes.fromhex("cffaedfe"), "not a 64-bit Mach-O object"


@pytest.mark.parametrize("target", ["aarch64-linux-gnu", "x86_64-linux-gnu"])
def test_the_table_of_system_calls_compiles_for_every_linux(target: str, cross_cache: Path, tmp_path: Path) -> None:
    """Which calls there are differs by architecture."""
    begin = compiled(target, Path("confine/seccomp.cpp"), ["-I", str(NATIVE)], cross_cache, tmp_path)

    assert begin[:5] == b"\x7fELF\x02", "not a 64-bit ELF object"
