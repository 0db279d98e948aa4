"""What is missing is said plainly, with the command that installs it."""

import os
import stat
from pathlib import Path

import pytest

from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import requirements


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with a package manager on it and nothing else."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    program(tmp_path, "apt-get")
    return tmp_path


def program(folder: Path, name: str, body: str = "exit 0") -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_everything_missing_is_named_with_one_command(bare_machine: Path) -> None:
    with pytest.raises(RpcmeshError) as caught:
        requirements.require()
    for piece in ("C++ compiler", "cmake", "make or ninja"):
        assert piece in caught.value.message
    assert "sudo apt-get install -y g++ cmake make" in (caught.value.hint or "")


def test_a_compiler_without_openssl_headers_is_noticed(bare_machine: Path) -> None:
    for name in ("cmake", "make"):
        program(bare_machine, name)
    program(bare_machine, "c++", "echo 'fatal error: openssl/ssl.h: No such file' >&2; exit 1")
    with pytest.raises(RpcmeshError) as caught:
        requirements.require()
    assert caught.value.message == "the native build needs the OpenSSL 3 headers"
    assert caught.value.hint == "sudo apt-get install -y libssl-dev"


def test_a_machine_with_everything_passes(bare_machine: Path) -> None:
    for name in ("cmake", "make", "c++"):
        program(bare_machine, name)
    requirements.require()


def test_ninja_is_preferred_and_make_suffices(bare_machine: Path) -> None:
    program(bare_machine, "make")
    assert requirements.generator() == "Unix Makefiles"
    program(bare_machine, "ninja")
    assert requirements.generator() == "Ninja"


def test_the_compiler_of_the_environment_wins(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bare_machine, "c++")
    program(bare_machine, "my-cxx")
    monkeypatch.setenv("CXX", "my-cxx")
    assert requirements.compiler() == os.fspath(bare_machine / "my-cxx")
