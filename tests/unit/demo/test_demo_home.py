"""A demo claims a directory that holds nothing of anybody's, and leaves nothing there, however it ends."""

from __future__ import annotations

import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rpcmesh.demo import home
from rpcmesh.errors import RpcmeshError
from rpcmesh.paths import Home

NODES = ("node-1", "node-2")

# A demo in a process of its own: claims, says so, and stays until a signal comes.
DEMO = """
import signal
from rpcmesh.demo import home
with home.claimed(("node-1",)) as claimed:
    (claimed.root / "rpcmesh.sqlite3").write_text("a mesh")
    print(claimed.root, flush=True)
    signal.pause()
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """Short, so that sockets fit below it."""
    directory = Path(tempfile.mkdtemp(prefix="rm-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def chosen(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What RPCMESH_HOME says. The directory is not there yet."""
    monkeypatch.setenv("RPCMESH_HOME", str(place / "chosen"))
    return place / "chosen"


@pytest.fixture
def running_demo(chosen: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", DEMO], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline().strip() == str(chosen)
        yield demo
        demo.kill()


def contents(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_chosen_directory_is_made_used_and_removed(chosen: Path) -> None:
    with home.claimed(NODES) as claimed:
        assert claimed == Home(chosen)
        assert claimed.run.is_dir()
        (claimed.root / "rpcmesh.sqlite3").write_text("a mesh")
    assert not chosen.exists()


def test_an_empty_directory_is_good_too(chosen: Path) -> None:
    chosen.mkdir(mode=0o700)
    with home.claimed(NODES) as claimed:
        assert claimed.root == chosen
    assert not chosen.exists()


def test_a_relative_choice_is_made_absolute(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("RPCMESH_HOME", "here")
    with home.claimed(NODES) as claimed:
        assert claimed.root == place / "here"


@pytest.mark.parametrize("unset", [True, False], ids=["unset", "empty"])
def test_without_a_choice_every_demo_has_a_new_private_directory(monkeypatch: pytest.MonkeyPatch, unset: bool) -> None:
    monkeypatch.delenv("RPCMESH_HOME", raising=False) if unset else monkeypatch.setenv("RPCMESH_HOME", "")
    with home.claimed(NODES) as one, home.claimed(NODES) as other:
        assert one.root != other.root
        assert stat.S_IMODE(one.root.stat().st_mode) == 0o700
    assert not one.root.exists()
    assert not other.root.exists()


@pytest.mark.parametrize("name", ["rpcmesh.sqlite3", ".hidden", "nodes"])
def test_a_directory_that_holds_something_is_refused_and_left_as_it_was(chosen: Path, name: str) -> None:
    chosen.mkdir(mode=0o700)
    (chosen / name).write_text("a real mesh")
    with pytest.raises(RpcmeshError, match="is not empty") as caught, home.claimed(NODES):
        pass
    assert str(chosen) in caught.value.message
    assert caught.value.hint
    assert contents(chosen) == [name]
    assert (chosen / name).read_text() == "a real mesh"


def test_a_directory_that_others_can_enter_is_refused(chosen: Path) -> None:
    chosen.mkdir()
    chosen.chmod(0o755)
    with pytest.raises(RpcmeshError, match="others can enter"), home.claimed(NODES):
        pass
    assert contents(chosen) == []


def test_a_file_in_its_place_is_refused(chosen: Path) -> None:
    chosen.write_text("a file")
    with pytest.raises(RpcmeshError), home.claimed(NODES):
        pass
    assert chosen.read_text() == "a file"


@pytest.mark.parametrize("end", [RpcmeshError("no model"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_whatever_ends_the_demo_it_is_removed(chosen: Path, end: BaseException) -> None:
    def demo() -> None:
        with home.claimed(NODES) as claimed:
            (claimed.root / "nodes" / "node-1").mkdir(parents=True)
            raise end

    with pytest.raises(type(end)):
        demo()
    assert not chosen.exists()


def test_sockets_outside_a_long_home_are_removed_with_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = place / ("long" * 20)
    monkeypatch.setenv("RPCMESH_HOME", str(root))
    with home.claimed(NODES) as claimed:
        runs = [claimed.run, *(Home(root / "nodes" / name).ensure().run for name in NODES)]
        assert not any(run.is_relative_to(root) for run in runs)
        (runs[1] / "status.sock").touch()
    assert not any(run.exists() for run in runs)


def test_a_link_out_of_the_home_is_removed_and_what_it_leads_to_is_not(chosen: Path, place: Path) -> None:
    (place / "model.gguf").write_text("weights")
    (place / "models").mkdir()
    (place / "models" / "other.gguf").write_text("weights")
    with home.claimed(NODES):
        (chosen / "model.gguf").symlink_to(place / "model.gguf")
        (chosen / "models").symlink_to(place / "models")
    assert contents(place) == ["model.gguf", "models"]
    assert contents(place / "models") == ["other.gguf"]


def test_ctrl_c_removes_it(running_demo: subprocess.Popen[str], chosen: Path) -> None:
    running_demo.send_signal(signal.SIGINT)
    running_demo.communicate(timeout=30)
    assert running_demo.returncode == -signal.SIGINT
    assert not chosen.exists()


def test_a_second_demo_in_the_same_place_is_refused(running_demo: subprocess.Popen[str], chosen: Path) -> None:
    before = contents(chosen)
    with pytest.raises(RpcmeshError, match="a demo runs in"), home.claimed(NODES):
        pass
    assert running_demo.poll() is None
    assert contents(chosen) == before


def test_the_remains_of_a_killed_demo_are_cleared(
    running_demo: subprocess.Popen[str], chosen: Path, place: Path
) -> None:
    running_demo.kill()
    running_demo.wait(timeout=30)
    assert "rpcmesh.sqlite3" in contents(chosen)
    (chosen / "models").symlink_to(place)
    with home.claimed(NODES) as claimed:
        assert set(contents(chosen)) == {home.MARKER, "run", "identity", "logs"}
        assert claimed.run.is_dir()
    assert contents(place) == []


def test_a_place_where_no_directory_can_be_made_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "file").write_text("a file")
    monkeypatch.setenv("RPCMESH_HOME", str(place / "file" / "home"))
    with pytest.raises(RpcmeshError, match="cannot make the directory"), home.claimed(NODES):
        pass
