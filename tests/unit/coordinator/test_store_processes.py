"""Several processes on one database, and what a kill in the middle leaves of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from rpcmesh.coordinator import schema
from rpcmesh.coordinator.records import Action, MemberState
from rpcmesh.coordinator.store import Store
from rpcmesh.pki import tokens

NOW = 1_800_000_000.0
ADMIN = "admin"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Store(tmp_path / "rpcmesh.sqlite3") as store:
        store.found_mesh("m", ADMIN, NOW)
    return tmp_path / "rpcmesh.sqlite3"


def add_token(store: Store) -> str:
    _, token = tokens.mint(NOW)
    store.add_token(token, ADMIN, NOW)
    return token.id


def test_many_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from rpcmesh.coordinator.store import Store; Store(Path(sys.argv[1]))"
    for attempt in range(3):
        command = [sys.executable, "-c", code, str(tmp_path / f"db{attempt}")]
        started = [subprocess.Popen(command) for _ in range(4)]
        assert [process.wait() for process in started] == [0, 0, 0, 0]


CONSUME = """
import sys
from pathlib import Path
from rpcmesh.coordinator.store import Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(sum(store.consume_token(each, "n", "joiner", float(sys.argv[2])) is None for each in sys.argv[3:]))
"""


def test_of_two_processes_exactly_one_gets_each_token(path: Path) -> None:
    with Store(path) as store:
        made = [add_token(store) for _ in range(50)]
    command = [sys.executable, "-c", CONSUME, str(path), str(NOW), *made]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [int(racer.communicate()[0]) for racer in racers]
    assert sum(won) == 50
    with Store(path) as store:
        assert [entry.action for entry in store.audit(1000)].count(Action.TOKEN_CONSUMED) == 50


def test_a_writer_waits_for_another_process(path: Path) -> None:
    other = schema.connect(path)
    with Store(path) as store, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN IMMEDIATE")
        waiting = pool.submit(add_token, store)
        assert wait([waiting], timeout=0.2).not_done == {waiting}
        other.execute("COMMIT")
        assert store.find_token(waiting.result(timeout=10)) is not None
    other.close()


WRITE = """
import itertools, sys
from pathlib import Path
from rpcmesh.coordinator.records import Member
from rpcmesh.coordinator.store import Store
from rpcmesh.pki.certificate import Certificate
store = Store(Path(sys.argv[1]))
now = float(sys.argv[2])
for number in itertools.count(len(store.members())):
    name = f"n{number}"
    leaf = Certificate(b"", f"{number:x}a", f"spiffe://m/node/{name}", now, now + 9)
    store.admit(Member(name, "10.0.0.8:7443", "abc", "Linux", now), leaf, "joiner", now)
    store.revoke_member(name, "admin", now)
    print(name, flush=True)
"""


def test_a_kill_in_the_middle_of_writing_leaves_whole_transactions(path: Path) -> None:
    for run in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITE, str(path), str(NOW)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        told = [writer.stdout.readline().strip() for _ in range(10)]
        time.sleep(0.001 * run)  # another moment of a transaction each time
        writer.send_signal(signal.SIGKILL)
        told += writer.communicate()[0].split()
        with Store(path) as store:
            names = {each.name for each in store.members()}
            revoked = [each for each in store.members() if each.state is MemberState.REVOKED]
            revocations = store.revocations()
            entries = store.audit(10_000)
            assert names >= set(told)
            assert revocations.number == 1 + len(revoked) == 1 + len(revocations.revoked)
            assert [entry.action for entry in entries].count(Action.NODE_REVOKED) == len(revoked)
            assert [entry.action for entry in entries].count(Action.NODE_JOINED) == len(names)
            # The one that was only admitted is finished by hand, so that the next writer starts even.
            for each in names - {gone.name for gone in revoked}:
                store.revoke_member(each, ADMIN, NOW)
    connection = schema.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    connection.close()
