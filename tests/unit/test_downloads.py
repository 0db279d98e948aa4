"""Files come through pip, with the user's own pip settings: one file, or one line that says what pip said."""

from __future__ import annotations

import contextlib
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from rpcmesh import downloads
from rpcmesh.errors import RpcmeshError

LIMIT_S = 60.0
WHEEL = "tinything-1.0-py3-none-any.whl"
SIZE_BYTES = 1 << 22


def make_wheel(folder: Path, payload: bytes) -> Path:
    """A package with one file of data in it, stored as it is."""
    path = folder / WHEEL
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tinything/data.bin", payload)
        wheel.writestr("tinything-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n")
        wheel.writestr(
            "tinything-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tinything-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    made = tmp_path / "scratch"
    made.mkdir()
    return made


@pytest.fixture
def only_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index folder, and a pip that knows no other place."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "index"
    folder.mkdir()
    return folder


@pytest.fixture
def index(only_ours: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(only_ours))
    return only_ours


def fetch(scratch: Path, wanted: str = "tinything==1.0", progress: Callable[[float], None] = lambda _: None) -> Path:
    return downloads.fetch("the tiny thing", [wanted], scratch, size_bytes=SIZE_BYTES, progress=progress)


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


def test_the_one_file_is_returned_and_nothing_else_is_left(index: Path, scratch: Path) -> None:
    wheel = make_wheel(index, b"content")

    found = fetch(scratch)

    assert found.name == WHEEL
    assert found.read_bytes() == wheel.read_bytes()
    assert files_below(scratch) == [found]


def test_nothing_is_installed(index: Path, scratch: Path) -> None:
    make_wheel(index, b"content")
    fetch(scratch)
    with pytest.raises(ModuleNotFoundError):
        __import__("tinything")


@pytest.mark.parametrize("wanted", ["nosuchthing==1.0", "tinything==2.0"])
def test_a_package_that_is_not_there_is_one_line_in_pips_words(index: Path, scratch: Path, wanted: str) -> None:
    make_wheel(index, b"content")

    with pytest.raises(RpcmeshError) as caught:
        fetch(scratch, wanted)

    message = caught.value.message
    assert message.startswith("could not download the tiny thing: ")
    assert f"Could not find a version that satisfies the requirement {wanted}" in message
    assert "ERROR" not in message
    assert "\n" not in message
    assert "package index" in (caught.value.hint or "")
    assert files_below(scratch) == []


def test_a_damaged_package_is_one_line_too(index: Path, scratch: Path) -> None:
    (index / WHEEL).write_bytes(b"no zip file")

    with pytest.raises(RpcmeshError, match=r"^could not download the tiny thing: .*tinything.*") as caught:
        fetch(scratch)

    assert "\n" not in caught.value.message


class Index:
    """A package index over HTTP that gives half of the wheel, and the rest once it may."""

    def __init__(self, wheel: bytes) -> None:
        self.wheel = wheel
        self.rest_may_come = threading.Event()

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_page = not self.path.endswith(".whl")
                body = f'<!DOCTYPE html><a href="/{WHEEL}">{WHEEL}</a>'.encode() if is_page else index.wheel
                self.send_response(200)
                self.send_header("Content-Type", "text/html" if is_page else "application/octet-stream")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                half = len(body) // 2
                with contextlib.suppress(ConnectionError):  # pip may have been stopped
                    self.wfile.write(body[:half])
                    if not is_page:
                        index.rest_may_come.wait(LIMIT_S)
                    self.wfile.write(body[half:])

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}/simple"
            finally:
                self.rest_may_come.set()
                server.shutdown()
                thread.join()


def test_progress_is_the_fraction_that_arrived(only_ours: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(make_wheel(only_ours, os.urandom(SIZE_BYTES)).read_bytes())
    fractions: list[float] = []

    def note(fraction: float) -> None:
        fractions.append(fraction)
        if fraction > 0.3:
            index.rest_may_come.set()

    with index.serving() as url:
        monkeypatch.setenv("PIP_INDEX_URL", url)
        found = fetch(scratch, progress=note)

    assert found.read_bytes() == index.wheel
    assert index.rest_may_come.is_set()
    assert all(0.0 <= fraction <= 1.0 for fraction in fractions)
    assert any(0.3 < fraction < 0.7 for fraction in fractions)


def test_more_than_was_announced_is_not_more_than_all(
    only_ours: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index(make_wheel(only_ours, os.urandom(3 * SIZE_BYTES)).read_bytes())
    fractions: list[float] = []

    def note(fraction: float) -> None:
        fractions.append(fraction)
        if fraction == 1.0:
            index.rest_may_come.set()

    with index.serving() as url:
        monkeypatch.setenv("PIP_INDEX_URL", url)
        fetch(scratch, progress=note)

    assert max(fractions) == 1.0


class StopWaitingError(Exception):
    """What a caller raised in the middle."""


def test_whoever_stops_waiting_stops_pip(only_ours: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(make_wheel(only_ours, os.urandom(SIZE_BYTES)).read_bytes())

    def stop(fraction: float) -> None:
        if fraction > 0.3:
            raise StopWaitingError

    with index.serving() as url:
        monkeypatch.setenv("PIP_INDEX_URL", url)
        with pytest.raises(StopWaitingError):
            fetch(scratch, progress=stop)

        assert processes_about(scratch) == []
    assert list((scratch / "arrived").iterdir()) == []


def processes_about(folder: Path) -> list[list[str]]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found.append(process.cmdline())
    return [command for command in found if any(str(folder) in part for part in command)]
