"""A full disk is one line that names the place, whether we, a child process or the arithmetic met it first."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rpcmesh import disk
from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import build

DEV_FULL = Path("/dev/full")
needs_dev_full = pytest.mark.skipif(not DEV_FULL.exists(), reason="this system has no /dev/full")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["/bin/mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if (
        platform.system() != "Linux"
        or os.getuid() != 0
        or subprocess.run(mount, capture_output=True, check=False).returncode != 0
    ):
        pytest.skip("mounting a small file system needs root on Linux")
    yield place
    subprocess.run(["/bin/umount", str(place)], check=True)


def write(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        file.write(b"x" * size_bytes)


def test_a_disk_that_fills_up_is_named(small_disk: Path) -> None:
    with pytest.raises(RpcmeshError) as caught, disk.full_disk_is_one_line(small_disk):
        write(small_disk / "large", 2 << 20)
    assert caught.value.message == f"the disk that holds {str(small_disk)!r} is full"
    assert "free some room" in (caught.value.hint or "")
    assert isinstance(caught.value.__cause__, OSError)


@needs_dev_full
def test_a_device_that_takes_no_more_is_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RpcmeshError, match="is full"), disk.full_disk_is_one_line(tmp_path):
        write(DEV_FULL, 1)


def test_what_fits_is_written(tmp_path: Path) -> None:
    with disk.full_disk_is_one_line(tmp_path):
        write(tmp_path / "small", 10)
    assert (tmp_path / "small").stat().st_size == 10


def test_another_error_stays_what_it_is(tmp_path: Path) -> None:
    write(tmp_path / "file", 1)
    with pytest.raises(NotADirectoryError), disk.full_disk_is_one_line(tmp_path):
        write(tmp_path / "file" / "below", 1)


def test_an_error_that_is_no_system_error_passes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="own"), disk.full_disk_is_one_line(tmp_path):
        raise ValueError("own")


@pytest.mark.parametrize(
    ("number", "full"),
    [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False), (errno.EROFS, False), (errno.EFBIG, False)],
    ids=lambda value: errno.errorcode.get(value, "") if type(value) is int else "",
)
def test_a_quota_is_a_disk_too(number: int, full: bool) -> None:
    assert disk.is_full(OSError(number, os.strerror(number))) is full


@needs_dev_full
def test_a_child_that_met_a_full_disk_is_understood(tmp_path: Path) -> None:
    with DEV_FULL.open("wb") as full:
        said = subprocess.run(
            ["/bin/cat", "/etc/passwd"],
            env={"LC_ALL": "C"},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        ).stderr
    with pytest.raises(RpcmeshError, match="is full"):
        disk.raise_if_full(said, tmp_path)


@pytest.mark.parametrize("said", ["", "cc1plus: fatal error: main.cpp: No such file or directory"])
def test_a_child_that_met_something_else_is_not_misunderstood(tmp_path: Path, said: str) -> None:
    disk.raise_if_full(said, tmp_path)


def test_what_cannot_end_is_not_begun(small_disk: Path) -> None:
    with pytest.raises(RpcmeshError) as caught:
        disk.require_free(small_disk, 5 << 20, "the model")
    assert caught.value.message == f"the model needs 5 MiB below {str(small_disk)!r}, and the disk has 1 MiB free"
    assert "RPCMESH_CACHE" in (caught.value.hint or "")


def test_a_place_that_is_not_there_yet_lies_on_the_disk_of_its_parents(small_disk: Path) -> None:
    disk.require_free(small_disk / "not" / "yet", 1000, "the model")
    with pytest.raises(RpcmeshError, match="needs 5 MiB"):
        disk.require_free(small_disk / "not" / "yet", 5 << 20, "the model")
    assert list(small_disk.iterdir()) == []


def test_a_native_build_on_a_small_disk_is_refused_before_it_compiles(small_disk: Path, tmp_path: Path) -> None:
    for name in ("llama/ggml/include/ggml-rpc.h", "native/CMakeLists.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    stages: list[str] = []
    with pytest.raises(RpcmeshError, match="the native build needs"):
        build(
            cache=small_disk / "cache",
            native=tmp_path / "native",
            backend="cpu",
            llama=tmp_path / "llama",
            progress=lambda stage, _: stages.append(stage),
        )
    assert "configure" not in stages
