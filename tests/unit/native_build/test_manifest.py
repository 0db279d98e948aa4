"""A binary that is not what was built is never handed out."""

from pathlib import Path

import msgspec
import pytest

from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build.manifest import FILE_NAME, Manifest, fingerprint, open_build


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "rpcmesh-tunnel").write_bytes(b"tunnel")
    (binaries / "libggml.so.0").write_bytes(b"library")
    (binaries / "libggml.so").symlink_to("libggml.so.0")
    manifest = Manifest(
        build_id="b1",
        backend="cpu",
        source_digest="s",
        native_digest="n",
        compiler="c",
        options=(),
        files={path.name: fingerprint(path) for path in binaries.iterdir()},
    )
    (tmp_path / FILE_NAME).write_bytes(msgspec.json.encode(manifest))
    return tmp_path


def test_a_whole_build_opens(finished: Path) -> None:
    assert open_build(finished).build_id == "b1"


def test_a_changed_binary_is_refused_by_name(finished: Path) -> None:
    (finished / "bin" / "rpcmesh-tunnel").write_bytes(b"other")
    with pytest.raises(RpcmeshError, match="rpcmesh-tunnel"):
        open_build(finished)


def test_a_missing_binary_is_refused(finished: Path) -> None:
    (finished / "bin" / "libggml.so.0").unlink()
    with pytest.raises(RpcmeshError, match="missing"):
        open_build(finished)


def test_a_link_led_elsewhere_is_refused(finished: Path) -> None:
    (finished / "bin" / "libggml.so").unlink()
    (finished / "bin" / "libggml.so").symlink_to("../elsewhere.so")
    with pytest.raises(RpcmeshError, match=r"libggml\.so"):
        open_build(finished)


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"build_id": 3}'])
def test_without_a_whole_manifest_there_is_no_build(finished: Path, content: bytes | None) -> None:
    (finished / FILE_NAME).unlink()
    if content is not None:
        (finished / FILE_NAME).write_bytes(content)
    with pytest.raises(RpcmeshError, match="no finished build"):
        open_build(finished)
