"""What is compiled is exactly what was pinned or pointed at: nothing else is unpacked, and never by half."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcmesh.errors import RpcmeshError
from rpcmesh.native_build import source

TOP = f"{source.PACKAGE}-{source.VERSION}"
ARCHIVE = f"{TOP}.tar.gz"
WHOLE = {f"{TOP}/PKG-INFO": b"Name: x", f"{TOP}/vendor/llama.cpp/CMakeLists.txt": b"project(llama.cpp)"}

# A file system in memory lists entries in the order of their making; most others have an order of their own.
MEMORY = Path("/dev/shm")  # noqa: S108 (the directory in it has a random name)

UNPACK = """
import sys
from pathlib import Path
from rpcmesh.native_build import source
source.SHA256 = sys.argv[2]
print(source.pinned(Path(sys.argv[1])).llama)
"""


def packed(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, to in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, to
            tar.addfile(member)
    return archive.getvalue()


def downloaded(cache: Path, archive: bytes) -> str:
    """Put ``archive`` where an earlier download would have left it; its hash."""
    (cache / "downloads").mkdir(parents=True, exist_ok=True)
    (cache / "downloads" / ARCHIVE).write_bytes(archive)
    return hashlib.sha256(archive).hexdigest()


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
def empty_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip sees no package index, only this folder."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return index


def test_the_pinned_archive_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "SHA256", downloaded(tmp_path, packed(WHOLE)))
    first = source.pinned(tmp_path)
    (tmp_path / "downloads" / ARCHIVE).unlink()
    assert source.pinned(tmp_path) == first
    assert (first.llama / "CMakeLists.txt").read_bytes() == b"project(llama.cpp)"
    assert first.digest == source.SHA256
    assert len(left_in(tmp_path / "source")) == 1


def test_another_pin_lies_beside_the_former(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "SHA256", downloaded(tmp_path, packed(WHOLE)))
    former = source.pinned(tmp_path)
    monkeypatch.setattr(source, "SHA256", downloaded(tmp_path, packed({**WHOLE, f"{TOP}/new": b""})))
    assert source.pinned(tmp_path).llama != former.llama


def test_a_damaged_download_is_not_unpacked(tmp_path: Path, empty_index: Path) -> None:
    downloaded(tmp_path, packed(WHOLE))
    with pytest.raises(RpcmeshError, match=f"could not download {source.PACKAGE} {source.VERSION}") as caught:
        source.pinned(tmp_path)
    assert caught.value.hint
    assert left_in(tmp_path / "source") == []
    assert left_in(empty_index) == []


def test_an_index_with_another_archive_is_refused(tmp_path: Path, empty_index: Path) -> None:
    (empty_index / ARCHIVE).write_bytes(packed(WHOLE))
    with pytest.raises(RpcmeshError, match="could not download"):
        source.pinned(tmp_path)
    assert left_in(tmp_path / "source") == []
    assert left_in(tmp_path / "downloads") == []


@pytest.mark.parametrize(
    "archive",
    [
        packed({**WHOLE, "../escaped": b"evil"}),
        packed({**WHOLE, f"{TOP}/../../escaped": b"evil"}),
        packed(WHOLE, {f"{TOP}/out": "../../escaped"}),
        packed(WHOLE, {f"{TOP}/out": "/etc/passwd"}),
    ],
    ids=["above", "above from within", "link above", "link to the root"],
)
def test_a_path_that_leads_out_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: bytes) -> None:
    monkeypatch.setattr(source, "SHA256", downloaded(tmp_path, archive))
    with pytest.raises(tarfile.FilterError):
        source.pinned(tmp_path)
    assert left_in(tmp_path) == ["downloads", "source"]
    assert left_in(tmp_path / "source") == []


def test_an_archive_that_ends_early_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = packed({**WHOLE, f"{TOP}/large": os.urandom(200_000)})
    monkeypatch.setattr(source, "SHA256", downloaded(tmp_path, archive[: len(archive) // 2]))
    with pytest.raises((EOFError, tarfile.ReadError)):
        source.pinned(tmp_path)
    assert left_in(tmp_path / "source") == []


def test_an_unpacking_that_was_killed_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    many = {f"{TOP}/vendor/llama.cpp/file-{number}": b"x" for number in range(4000)}
    sha256 = downloaded(tmp_path, packed({**WHOLE, **many, f"{TOP}/vendor/llama.cpp/last": b"end"}))
    command = [sys.executable, "-c", UNPACK, str(tmp_path), sha256]
    final = tmp_path / "source" / f"{TOP}-{sha256[:12]}"
    with subprocess.Popen(command, stdout=subprocess.PIPE) as unpacking:
        deadline = time.monotonic() + 30
        while not left_in(tmp_path / "source") and time.monotonic() < deadline:
            time.sleep(0.001)
        unpacking.kill()
    assert unpacking.returncode == -signal.SIGKILL
    assert not final.exists()

    again = subprocess.run(command, capture_output=True, text=True, check=True)
    llama = Path(again.stdout.strip())
    assert (llama / "last").read_bytes() == b"end"
    assert len(left_in(llama)) == len(many) + 2


def test_two_that_unpack_at_once_both_get_the_whole(tmp_path: Path) -> None:
    many = {f"{TOP}/vendor/llama.cpp/file-{number}": b"x" for number in range(2000)}
    sha256 = downloaded(tmp_path, packed({**WHOLE, **many}))
    command = [sys.executable, "-c", UNPACK, str(tmp_path), sha256]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {process.communicate(timeout=60)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(found) == 1
    assert len(left_in(Path(found.pop()))) == len(many) + 1
    assert len(left_in(tmp_path / "source")) == 1


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """As much of llama.cpp as makes a folder one."""
    root = tmp_path / "llama.cpp"
    (root / "ggml" / "include").mkdir(parents=True)
    (root / "ggml" / "include" / "ggml-rpc.h").write_text("// RPC")
    (root / "CMakeLists.txt").write_text("project(llama.cpp)")
    return root


def test_a_checkout_is_identified_by_what_it_holds(llama: Path) -> None:
    found = source.checkout(llama)
    assert found == source.Source(llama=llama, digest=source.tree_digest(llama))


def test_a_checkout_given_by_a_relative_path_is_found_from_elsewhere(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(llama.parent)
    assert source.checkout(Path("llama.cpp")) == source.checkout(llama)


@pytest.mark.parametrize("kind", ["absent", "empty", "without the RPC backend"])
def test_a_folder_that_is_not_llama_cpp_is_refused(tmp_path: Path, llama: Path, kind: str) -> None:
    folder = {"absent": tmp_path / "nowhere", "empty": tmp_path / "empty"}.get(kind, llama)
    (tmp_path / "empty").mkdir()
    (llama / "ggml" / "include" / "ggml-rpc.h").unlink()
    with pytest.raises(RpcmeshError, match=r"is not a llama\.cpp checkout") as caught:
        source.checkout(folder)
    assert repr(str(folder)) in caught.value.message
    assert "--source" in (caught.value.hint or "")


CHANGES = {
    "a byte": lambda root: (root / "CMakeLists.txt").write_text("project(llama.cpq)"),
    "a new file": lambda root: (root / "ggml" / "new.c").write_text(""),
    "a new name": lambda root: (root / "CMakeLists.txt").rename(root / "CMakeLists.tx"),
    "a new place": lambda root: (root / "CMakeLists.txt").rename(root / "ggml" / "CMakeLists.txt"),
    "a file gone": lambda root: (root / "CMakeLists.txt").unlink(),
}
NO_CHANGES = {
    "a time": lambda root: os.utime(root / "CMakeLists.txt", (1, 1)),
    "a mode": lambda root: (root / "CMakeLists.txt").chmod(0o600),
    "an empty folder": lambda root: (root / "empty").mkdir(),
    "git's own": lambda root: written(root / ".git" / "HEAD"),
    "a build": lambda root: written(root / "build-cuda" / "CMakeCache.txt"),
    "tests": lambda root: written(root / "tests" / "test-tokenizer.cpp"),
    "a fuzzer": lambda root: written(root / "fuzz" / "fuzz.cpp"),
}


def written(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("changed")


@pytest.mark.parametrize("change", CHANGES)
def test_what_ends_up_in_a_binary_changes_the_digest(llama: Path, change: str) -> None:
    before = source.tree_digest(llama)
    CHANGES[change](llama)
    assert source.tree_digest(llama) != before


@pytest.mark.parametrize("change", NO_CHANGES)
def test_what_ends_up_in_no_binary_does_not(llama: Path, change: str) -> None:
    before = source.tree_digest(llama)
    NO_CHANGES[change](llama)
    assert source.tree_digest(llama) == before


@given(order=st.permutations(["b.c", "a.c", "c/a.c", "c/b.c", "b/a.c"]))
def test_the_digest_does_not_depend_on_the_order_of_writing(order: list[str]) -> None:
    digests = set()
    for names in (order, sorted(order)):
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
            for name in names:
                path = Path(folder) / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(name)
            digests.add(source.tree_digest(Path(folder)))
    assert len(digests) == 1
