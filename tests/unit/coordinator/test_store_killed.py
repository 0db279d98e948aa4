"""What a writer said that it had written is there after it was killed, whole, and the next writer goes on."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from rpcmesh.coordinator import schema
from rpcmesh.coordinator.records import Action
from rpcmesh.coordinator.store import Store

NOW = 1_800_000_000.0
N_KILLS = 50
N_WRITES_MAX = 12
# A transaction takes about a millisecond: this hits every part of one.
LATER_MAX_S = 0.004

# Prints a line when, and only when, a transaction is committed.
WRITE = """
import itertools, secrets, sys
from pathlib import Path
from rpcmesh.coordinator.records import Action
from rpcmesh.coordinator.store import Store
from rpcmesh.gateway import keys
from rpcmesh.pki import tokens

store, run, now = Store(Path(sys.argv[1])), sys.argv[2], float(sys.argv[3])
for number in itertools.count():
    _, key = keys.mint(f"key of {run}", now)
    store.add_key(key, "admin", now)
    print("key", key.id, key.secret_hash.hex(), flush=True)
    _, token = tokens.mint(now)
    store.add_token(token, "admin", now)
    print("token", token.id, token.mac_key.hex(), flush=True)
    store.revoke_key(key.id, "admin", now + number)
    print("revoked", key.id, now + number, flush=True)
    store.append_audit(now, "joiner", Action.JOIN_REFUSED, f"{run}.{number}", reason="x" * 5000)
    print("note", f"{run}.{number}", "-", flush=True)
"""


class Told(NamedTuple):
    """One line of a writer: what it has written."""

    kind: str
    subject: str
    value: str


def killed(path: Path, run: int, dice: random.Random) -> list[Told]:
    """What one writer had acknowledged when it was killed in the middle of its work."""
    argv = [sys.executable, "-c", WRITE, str(path), f"run{run}", str(NOW)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(dice.randint(1, N_WRITES_MAX))]
        time.sleep(dice.uniform(0, LATER_MAX_S))
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.readlines()
    return [Told(*line.split()) for line in said if line.endswith("\n")]


@pytest.fixture(scope="module")
def after_kills(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Told]]:
    """One database, one writer after the other, each killed; and all that they acknowledged."""
    path = tmp_path_factory.mktemp("store") / "rpcmesh.sqlite3"
    with Store(path) as store:
        store.found_mesh("m", "admin", NOW)
    dice = random.Random(5)  # noqa: S311 (moments, not secrets)
    told: list[Told] = []
    for run in range(N_KILLS):
        acknowledged = killed(path, run, dice)
        assert acknowledged, "a writer could not go on where the one before was killed"
        told += acknowledged
    return path, told


def test_everything_acknowledged_is_there(after_kills: tuple[Path, list[Told]]) -> None:
    path, told = after_kills
    with Store(path) as store:
        noted = {entry.subject for entry in store.audit(100_000) if entry.action is Action.JOIN_REFUSED}
        for kind, subject, value in told:
            match kind:
                case "key":
                    key = store.find_key(subject)
                    assert key is not None
                    assert key.secret_hash.hex() == value
                case "token":
                    token = store.find_token(subject)
                    assert token is not None
                    assert token.mac_key.hex() == value
                case "revoked":
                    key = store.find_key(subject)
                    assert key is not None
                    assert key.revoked_at == float(value)
                case _:
                    assert subject in noted


def test_nothing_half_is_there(after_kills: tuple[Path, list[Told]]) -> None:
    path, told = after_kills
    with Store(path) as store:
        entries = store.audit(100_000)
        keys = store.keys()
    audited = {action: [entry.subject for entry in entries if entry.action is action] for action in Action}
    assert sorted(audited[Action.KEY_CREATED]) == sorted(key.id for key in keys)
    assert sorted(audited[Action.KEY_REVOKED]) == sorted(key.id for key in keys if key.revoked_at is not None)
    assert all(entry.detail == {"reason": "x" * 5000} for entry in entries if entry.action is Action.JOIN_REFUSED)
    # Of each writer at most the one transaction was committed that it had no time to tell of.
    assert 0 <= len(entries) - 1 - len(told) <= N_KILLS
    n_told = Counter(each.kind for each in told)
    assert 0 <= len(audited[Action.TOKEN_CREATED]) - n_told["token"] <= N_KILLS


def test_the_file_is_whole(after_kills: tuple[Path, list[Told]]) -> None:
    connection = schema.connect(after_kills[0])
    assert connection.execute("PRAGMA integrity_check").fetchall()[0][0] == "ok"
    connection.close()
