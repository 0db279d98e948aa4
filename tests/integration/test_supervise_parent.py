"""Whoever is killed first, nothing is left: the supervisor, or the tether between it and the child."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from process_probe import alive, kill, python, shell, until, until_gone

from rpcmesh.supervise import child, tether
from rpcmesh.supervise.child import Exit

# A supervisor in a process of its own: it runs the program in its argv, prints the child's pid and then its lines.
SUPERVISOR = """
import asyncio, sys
from rpcmesh.supervise import child

async def main():
    async with child.running("probe", sys.argv[1:], env={}, on_line=lambda line: print(line, flush=True)) as started:
        print(started.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
WITH_A_GRANDCHILD = "sleep 300 & echo $!; wait"
DEAF_WITH_A_GRANDCHILD = "trap '' TERM; (while :; do sleep 0.1; done) & echo $!; while :; do sleep 0.1; done"
TALKING_GRANDCHILD = "sh -c 'echo $$; while echo still here; do sleep 0.01; done' & wait"
TIDIES_UP = """
import pathlib, signal, sys
def tidy(*_):
    pathlib.Path(sys.argv[1]).write_text("tidied")
    sys.exit()
signal.signal(signal.SIGTERM, tidy)
print("up", flush=True)
signal.pause()
"""


class Family(NamedTuple):
    supervisor: subprocess.Popen[str]
    tether: int
    child: int
    first_line: str


@contextlib.contextmanager
def family(*argv: str) -> Iterator[Family]:
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, *argv], stdout=subprocess.PIPE, text=True) as supervisor:
        try:
            assert supervisor.stdout is not None
            pid = int(supervisor.stdout.readline())
            yield Family(supervisor, psutil.Process(pid).ppid(), pid, supervisor.stdout.readline().strip())
        finally:
            supervisor.kill()


@pytest.mark.parametrize("script", [WITH_A_GRANDCHILD, TALKING_GRANDCHILD])
async def test_a_killed_supervisor_takes_child_and_grandchild_with_it(script: str) -> None:
    with family(*shell(script)) as members:
        grandchild = int(members.first_line)
        assert alive(grandchild)
        members.supervisor.kill()
        await until_gone(members.child, grandchild, members.tether, members.supervisor.pid)


async def test_those_that_ignore_term_are_killed_when_the_supervisor_is() -> None:
    with family(*shell(DEAF_WITH_A_GRANDCHILD)) as members:
        members.supervisor.kill()
        await until_gone(members.child, int(members.first_line), members.tether)


async def test_a_child_has_time_to_tidy_up_after_its_supervisor_was_killed(tmp_path: Path) -> None:
    note = tmp_path / "note"
    with family(*python(TIDIES_UP, str(note))) as members:
        members.supervisor.kill()
        await until_gone(members.child, members.tether)
    assert note.read_text() == "tidied"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_supervisor_that_is_asked_to_end_leaves_nothing(number: signal.Signals) -> None:
    with family(*shell(WITH_A_GRANDCHILD)) as members:
        members.supervisor.send_signal(number)
        await until_gone(members.child, int(members.first_line), members.tether, members.supervisor.pid)


async def test_a_stopped_supervisor_is_no_dead_supervisor() -> None:
    with family(*shell(WITH_A_GRANDCHILD)) as members:
        members.supervisor.send_signal(signal.SIGSTOP)
        await until(lambda: psutil.Process(members.supervisor.pid).status() == psutil.STATUS_STOPPED)
        with pytest.raises(psutil.TimeoutExpired):
            psutil.Process(members.child).wait(timeout=0.3)
        members.supervisor.kill()
        await until_gone(members.child, int(members.first_line), members.tether)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_the_tether_holds_when_it_is_asked_to_end(number: signal.Signals) -> None:
    async with child.running("probe", shell("sleep 0.3; exit 5"), env={}, on_line=str) as started:
        os.kill(psutil.Process(started.pid).ppid(), number)
        assert await started.wait() == Exit(code=5)


@pytest.mark.parametrize("script", [WITH_A_GRANDCHILD, TALKING_GRANDCHILD, DEAF_WITH_A_GRANDCHILD])
async def test_a_killed_tether_takes_the_child_with_it_and_the_end_is_reported(script: str) -> None:
    lines: list[str] = []
    async with child.running("probe", shell(script), env={}, on_line=lines.append) as started:
        await until(lambda: lines)
        kill(psutil.Process(started.pid).ppid())
        assert await started.wait() == Exit(signal_name="SIGKILL")
        await until_gone(started.pid, int(lines[0]))


async def test_the_tether_is_small_and_is_no_program_of_ours() -> None:
    async with child.running("probe", ("/bin/sleep", "300"), env={}, on_line=str) as started:
        holding = psutil.Process(started.pid).parent()
        assert holding is not None
        assert tether.__file__ in holding.cmdline()
        assert holding.memory_info().rss < 40 << 20
