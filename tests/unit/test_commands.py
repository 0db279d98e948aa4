"""A one-off command: its words are heard, and whoever stops waiting for it takes all of its group with him."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from rpcmesh import commands

LIMIT_S = 20.0


class StopWaitingError(Exception):
    """What made somebody leave the block."""


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"still not true after {LIMIT_S:.0f} s"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """An orphan's zombie waits for init, which is not ours to hurry: it counts as gone."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def first_line(command: subprocess.Popen[str]) -> str:
    assert command.stdout is not None
    return command.stdout.readline()


def test_both_outputs_are_heard_in_order_as_text() -> None:
    with commands.started(shell("echo one; echo two >&2; echo three")) as command:
        said, nothing = command.communicate(timeout=LIMIT_S)
    assert (said, nothing, command.returncode) == ("one\ntwo\nthree\n", None, 0)


def test_bytes_that_are_no_text_do_not_stop_the_listening() -> None:
    with commands.started(shell(r"printf 'a\377b\n'")) as command:
        said, _ = command.communicate(timeout=LIMIT_S)
    assert said == "a\N{REPLACEMENT CHARACTER}b\n"


def test_a_failure_is_the_callers_to_judge() -> None:
    with commands.started(shell("echo no; exit 3")) as command:
        assert first_line(command) == "no\n"
    assert command.returncode == 3


def test_leaving_the_block_waits_for_the_end(tmp_path: Path) -> None:
    with commands.started([*shell('sleep 0.3; touch "$0"/ended'), str(tmp_path)]) as command:
        assert command.poll() is None
    assert command.returncode == 0
    assert (tmp_path / "ended").exists()


def test_standard_input_is_empty() -> None:
    with commands.started(["/bin/cat"]) as command:
        assert command.communicate(timeout=LIMIT_S)[0] == ""


def test_the_environment_is_ours_and_what_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "a")
    monkeypatch.setenv("CHANGED", "b")
    with commands.started(shell('echo "$KEPT $CHANGED $ADDED"'), {"CHANGED": "c", "ADDED": "d"}) as command:
        assert command.communicate(timeout=LIMIT_S)[0] == "a c d\n"
    assert os.environ["CHANGED"] == "b"


def test_a_program_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(FileNotFoundError), commands.started(["/nowhere/at-all"]):
        pass


def test_it_does_not_hear_of_ctrl_c() -> None:
    with commands.started(shell("echo up; sleep 0.2")) as command:
        first_line(command)
        assert os.getsid(command.pid) == command.pid != os.getsid(0)


@pytest.mark.parametrize("cause", [StopWaitingError, KeyboardInterrupt, SystemExit])
def test_whoever_stops_waiting_ends_the_command_and_its_child(cause: type[BaseException]) -> None:
    pids: list[int] = []

    def wait_and_stop() -> None:
        with commands.started(shell("sleep 600 & echo $$ $!; wait")) as command:
            pids.extend(map(int, first_line(command).split()))
            assert all(map(alive, pids))
            raise cause

    with pytest.raises(cause):
        wait_and_stop()

    assert len(pids) == 2
    assert not alive(pids[0])
    until(lambda: not alive(pids[1]))


def leave(command: list[str], **options: float) -> subprocess.Popen[str]:
    """Start ``command``, hear its first line and leave the block by an error."""
    left = []

    def wait_and_stop() -> None:
        with commands.started(command, **options) as started:
            left.append(started)
            assert first_line(started) == "up\n"
            raise StopWaitingError

    with pytest.raises(StopWaitingError):
        wait_and_stop()
    return left[0]


def test_the_command_may_clean_up_before_it_ends(tmp_path: Path) -> None:
    script = 'trap "touch $0/cleaned; exit 0" TERM; echo up; while :; do sleep 0.05; done'
    left = leave([*shell(script), str(tmp_path)])
    assert left.returncode == 0
    assert (tmp_path / "cleaned").exists()


def test_a_command_that_does_not_want_to_end_is_killed_after_its_grace() -> None:
    left = leave(shell("trap '' TERM; echo up; sleep 600 & wait"), grace_s=0.2)
    assert left.returncode == -signal.SIGKILL
    until(lambda: group_is_gone(left.pid))


def test_a_child_that_outlived_the_command_goes_too() -> None:
    left = leave(shell("sleep 600 >/dev/null 2>&1 & echo up"))
    assert left.returncode in (0, -signal.SIGTERM)
    until(lambda: group_is_gone(left.pid))


def group_is_gone(leader: int) -> bool:
    return not any(process_group(pid) == leader and alive(pid) for pid in psutil.pids())


def process_group(pid: int) -> int | None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        return os.getpgid(pid)
    return None


def test_leaving_after_the_end_raises_what_was_raised() -> None:
    assert leave(["/bin/echo", "up"]).returncode in (0, -signal.SIGTERM)
