"""Files that are whole or not there, and that nobody else can read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rpcmesh.errors import RpcmeshError
from rpcmesh.pki import files


def test_what_is_written_is_0600_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files.write_private(tmp_path / "key.pem", b"secret")
    finally:
        os.umask(before)
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    assert files.read_private(tmp_path / "key.pem") == b"secret"


def test_a_failed_write_leaves_the_old_file_and_no_scraps(tmp_path: Path) -> None:
    (tmp_path / "key.pem").mkdir()  # cannot be replaced by a file
    (tmp_path / "key.pem" / "inside").touch()
    with pytest.raises(RpcmeshError, match="cannot write"):
        files.write_private(tmp_path / "key.pem", b"secret")
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_that_others_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    files.write_private(path, b"secret")
    path.chmod(mode)
    with pytest.raises(RpcmeshError, match=f"{mode:04o}") as caught:
        files.read_private(path)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(f"chmod 600 {path}")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_key_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    files.write_private(path, b"secret")
    os.chown(path, 12345, -1)
    with pytest.raises(RpcmeshError, match="uid 12345") as caught:
        files.read_private(path)
    assert caught.value.hint == f"sudo chown 0 {path}"


def test_a_link_to_a_key_is_refused(tmp_path: Path) -> None:
    files.write_private(tmp_path / "real.pem", b"secret")
    (tmp_path / "key.pem").symlink_to("real.pem")
    with pytest.raises(RpcmeshError, match="symbolic link"):
        files.read_private(tmp_path / "key.pem")


def test_a_pipe_in_a_keys_place_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key.pem", 0o600)
    with pytest.raises(RpcmeshError, match="not a regular file"):
        files.read_private(tmp_path / "key.pem")


def test_endless_files_are_refused(tmp_path: Path) -> None:
    files.write_private(tmp_path / "ca.pem", bytes(files.MAX_BYTES + 1))
    with pytest.raises(RpcmeshError, match="longer than"):
        files.read(tmp_path / "ca.pem")


def test_a_reader_beside_a_writer_sees_whole_contents_only(tmp_path: Path) -> None:
    path = tmp_path / "cert.pem"
    files.write_private(path, b"0" * 9000)
    writer = subprocess.Popen([sys.executable, "-c", _WRITE, str(path)])
    try:
        seen = set()
        while writer.poll() is None:
            content = files.read(path)
            assert content == content[:1] * 9000
            seen.add(content[:1])
    finally:
        writer.kill()
        writer.wait()
    assert len(seen) > 1


_WRITE = """
import sys
from pathlib import Path
from rpcmesh.pki import files
for round in range(300):
    files.write_private(Path(sys.argv[1]), str(round % 10).encode() * 9000)
"""
