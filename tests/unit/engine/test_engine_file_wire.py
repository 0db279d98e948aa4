"""Files without a name go from hand to hand, each with the name of its request."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rpcmesh.engine.file_wire import FileWire, nameless_file
from rpcmesh.errors import PeerError


@pytest.fixture
def wires() -> Iterator[tuple[FileWire, FileWire]]:
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    here, there = FileWire(ends[0]), FileWire(ends[1])
    yield here, there
    here.close()
    there.close()


def test_what_one_writes_the_other_reads(wires: tuple[FileWire, FileWire], tmp_path: Path) -> None:
    here, there = wires
    for name, folder in (("a", ""), ("b", str(tmp_path))):
        file = nameless_file(folder)
        os.write(file, name.encode())
        here.send(name, file)
        os.close(file)

    got = [there.receive(name) for name in ("a", "b")]

    assert [os.pread(file, 10, 0) for file in got] == [b"a", b"b"]
    assert not any(os.get_inheritable(file) for file in got)
    assert [*tmp_path.iterdir()] == []
    for file in got:
        os.close(file)


def test_a_file_for_another_request_is_refused_and_closed(wires: tuple[FileWire, FileWire]) -> None:
    here, there = wires
    file = nameless_file("")
    here.send("a", file)
    before = psutil.Process().num_fds()

    with pytest.raises(PeerError, match="no file has come for request 'b'"):
        there.receive("b")

    assert psutil.Process().num_fds() == before
    os.close(file)


def test_nothing_to_receive_is_said_at_once(wires: tuple[FileWire, FileWire]) -> None:
    with pytest.raises(BlockingIOError):
        wires[0].receive("a")
    wires[1].close()
    with pytest.raises(PeerError):
        wires[0].receive("a")


def test_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    for folder in ("", str(tmp_path)):
        file = nameless_file(folder)
        assert os.fstat(file).st_uid == os.getuid()
        assert os.fstat(file).st_nlink == 0
        os.close(file)
