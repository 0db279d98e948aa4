"""A child on its tether, with real programs: what it is given, what is heard of it, and that it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest
from process_probe import alive, kill, python, shell, until, until_gone

from rpcmesh.errors import RpcmeshError
from rpcmesh.supervise import child
from rpcmesh.supervise.child import LINE_MAX_BYTES, Exit

IGNORES_TERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
SAYS_BYE = """
import signal, sys
def bye(*_):
    print("bye")
    sys.exit(7)
signal.signal(signal.SIGTERM, bye)
print("up", flush=True)
signal.pause()
"""
# It ends once its descendant has left the group. That one holds the output open.
LEAVES_A_STRAY = """
import os, time
left, leaves = os.pipe()
if pid := os.fork():
    os.read(left, 1)
    print(pid, flush=True)
else:
    os.setsid()
    os.write(leaves, b".")
    time.sleep(300)
"""


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Every process that a test starts is gone and reaped when it ends."""
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


async def outcome(
    argv: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> tuple[Exit, list[str]]:
    """How a program ended that was let run to its own end, and its lines."""
    lines: list[str] = []
    async with child.running("probe", argv, env=env or {}, on_line=lines.append, cwd=cwd) as started:
        return await started.wait(), lines


async def test_lines_arrive_in_order_from_both_streams_and_the_last_needs_no_newline() -> None:
    _, lines = await outcome(shell("echo one; echo two >&2; echo; printf 'four\\r\\nfive'"))
    assert lines == ["one", "two", "", "four", "five"]


async def test_invalid_utf8_is_replaced() -> None:
    _, lines = await outcome(python(r"import os; os.write(1, b'caf\xe9 \xff\nna\xc3\xafve\n')"))
    assert lines == ["caf\ufffd \ufffd", "naïve"]


@pytest.mark.parametrize("written_at_once", [100, 1000, LINE_MAX_BYTES, 1 << 20])
@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize(
    ("length", "pieces"),
    [
        (LINE_MAX_BYTES, [LINE_MAX_BYTES]),
        (LINE_MAX_BYTES + 1, [LINE_MAX_BYTES, 1]),
        (3 * LINE_MAX_BYTES + 7, [LINE_MAX_BYTES] * 3 + [7]),
    ],
)
async def test_a_longer_line_is_cut_in_pieces(length: int, pieces: list[int], end: str, written_at_once: int) -> None:
    code = (
        f"import os\nline = b'x' * {length} + {end!r}.encode()\n"
        f"while line: line = line[os.write(1, line[:{written_at_once}]):]"
    )
    _, lines = await outcome(python(code))
    assert [len(line) for line in lines] == pieces
    assert set("".join(lines)) == {"x"}


async def test_the_first_and_the_last_lines_are_kept() -> None:
    async with child.running("probe", python("for n in range(100): print(n)"), env={}, on_line=str) as started:
        await started.wait()
    assert started.head == [str(number) for number in range(child.HEAD_LINES)]
    assert list(started.tail) == [str(number) for number in range(100 - child.TAIL_LINES, 100)]


@pytest.mark.parametrize("code", [0, 1, 3, 127, 255])
async def test_the_exit_status_is_reported(code: int) -> None:
    ended, _ = await outcome(shell(f"exit {code}"))
    assert ended == Exit(code=code)
    assert str(ended) == f"exit status {code}"


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGSEGV", "SIGABRT", "SIGHUP", "SIGINT"])
async def test_the_signal_that_ended_it_is_reported_by_name(name: str) -> None:
    ended, _ = await outcome(shell(f"kill -{name.removeprefix('SIG')} $$; sleep 300"))
    assert ended == Exit(signal_name=name)
    assert str(ended) == f"killed by {name}"


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="there are no real-time signals on macOS")
async def test_a_signal_without_a_name_is_reported_by_number() -> None:
    number = signal.SIGRTMIN + 3
    ended, _ = await outcome(python(f"import os; os.kill(os.getpid(), {number})"))
    assert str(ended) == f"killed by signal {number}"


@pytest.mark.parametrize(
    "env", [{}, {"A": "1", "EMPTY": ""}, {"LC_CTYPE": "C.UTF-8"}, {"LC_ALL": "C"}, {"PYTHONPATH": "/x", "LANG": "C"}]
)
async def test_the_environment_is_exactly_what_was_given(env: dict[str, str]) -> None:
    _, lines = await outcome(("/usr/bin/env",), env)
    assert sorted(lines) == sorted(f"{name}={value}" for name, value in env.items())


async def test_it_starts_in_its_directory_with_nothing_on_its_input(tmp_path: Path) -> None:
    ended, lines = await outcome(shell("cat; pwd -P"), cwd=tmp_path)
    assert (ended, lines) == (Exit(code=0), [str(tmp_path.resolve())])


async def test_it_holds_no_descriptor_of_ours() -> None:
    code = "import os\nfor n in range(3, 200):\n try: os.fstat(n)\n except OSError: continue\n print(n)"
    assert await outcome(python(code)) == (Exit(code=0), [])


@pytest.mark.parametrize(("name", "mode"), [("missing", None), ("not-executable", 0o600)])
async def test_a_program_that_cannot_be_run_is_one_line(tmp_path: Path, name: str, mode: int | None) -> None:
    program = tmp_path / name
    if mode is not None:
        program.write_text("#!/bin/sh\n")
        program.chmod(mode)
    lines: list[str] = []
    with pytest.raises(RpcmeshError) as caught:
        async with child.running("worker-w0", (str(program),), env={}, on_line=lines.append):
            pytest.fail("it runs")
    why = "No such file or directory" if mode is None else "Permission denied"
    assert caught.value.message == f"cannot start worker-w0: '{program}': {why}"
    assert lines == []


async def test_a_directory_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RpcmeshError, match=r"^cannot start probe: No such file or directory$"):
        await outcome(shell("true"), cwd=tmp_path / "missing")


async def test_leaving_the_block_lets_it_end_politely() -> None:
    lines: list[str] = []
    async with child.running("probe", python(SAYS_BYE), env={}, on_line=lines.append) as started:
        assert started.exit is None
        await until(lambda: lines == ["up"])
    assert started.exit == Exit(code=7)
    assert lines == ["up", "bye"]


async def test_a_program_that_ignores_term_is_killed_after_its_grace() -> None:
    lines: list[str] = []
    began = time.monotonic()
    async with child.running("probe", python(IGNORES_TERM), env={}, on_line=lines.append, grace_s=0.3) as started:
        await until(lambda: lines == ["up"])
    assert started.exit == Exit(signal_name="SIGKILL")
    assert 0.3 <= time.monotonic() - began < 10


async def test_a_stop_right_after_the_start_is_not_lost() -> None:
    for _ in range(10):
        began = time.monotonic()
        async with child.running("probe", ("/bin/sleep", "300"), env={}, on_line=str, grace_s=60) as started:
            pass
        assert started.exit == Exit(signal_name="SIGTERM")
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("then", ["wait", "exit 0"])
async def test_its_group_goes_with_it(then: str) -> None:
    pids: list[str] = []
    script = f"(trap '' TERM; while :; do sleep 0.1; done) & echo $!; {then}"
    async with child.running("probe", shell(script), env={}, on_line=pids.append, grace_s=5) as started:
        await until(lambda: pids)
    assert started.exit is not None
    await until_gone(int(pids[0]), started.pid)


async def test_a_stray_that_holds_the_output_does_not_hold_up_the_end() -> None:
    pids: list[str] = []
    async with child.running("probe", python(LEAVES_A_STRAY), env={}, on_line=pids.append) as started:
        ended = await asyncio.wait_for(started.wait(), 15)
    stray = int(pids[0])
    assert (ended, alive(stray)) == (Exit(code=0), True)
    kill(stray)
    await until_gone(stray)


async def test_a_signal_reaches_the_child_alone() -> None:
    lines: list[str] = []
    script = "sleep 300 & trap 'echo reloaded' HUP; echo $!; wait; wait"
    async with child.running("probe", shell(script), env={}, on_line=lines.append) as started:
        await until(lambda: lines)
        started.send_signal(signal.SIGHUP)
        await until(lambda: lines[1:] == ["reloaded"])
        assert alive(int(lines[0]))
        assert started.exit is None


async def test_a_signal_after_the_end_reaches_nobody() -> None:
    async with child.running("probe", shell("exit 4"), env={}, on_line=str) as started:
        await started.wait()
        started.send_signal(signal.SIGHUP)
        assert await started.stop(grace_s=1) == Exit(code=4)


async def test_giving_up_a_wait_does_not_touch_the_child() -> None:
    async with child.running("probe", ("/bin/sleep", "300"), env={}, on_line=str) as started:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(started.wait(), 0.05)
        assert started.exit is None
        assert os.getpgid(started.pid) == started.pid


@pytest.mark.parametrize("cancellations", [1, 2])
async def test_cancelling_the_owner_stops_the_child(cancellations: int) -> None:
    pids: list[int] = []
    lines: list[str] = []

    async def own() -> None:
        async with child.running("probe", python(IGNORES_TERM), env={}, on_line=lines.append, grace_s=2) as started:
            pids.append(started.pid)
            await asyncio.Event().wait()

    owner = asyncio.create_task(own())
    await until(lambda: lines)
    for _ in range(cancellations):
        owner.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await owner
    assert not psutil.pid_exists(pids[0])


async def test_an_error_in_the_block_stops_the_child_and_comes_out() -> None:
    with pytest.raises(ValueError, match=r"^ours$"):
        async with child.running("probe", ("/bin/sleep", "300"), env={}, on_line=str) as started:
            raise ValueError("ours")
    assert started.exit == Exit(signal_name="SIGTERM")


async def test_an_error_in_the_listener_ends_the_child_and_comes_out() -> None:
    def refuse(line: str) -> None:
        raise ValueError(line)

    with pytest.raises(ValueError, match=r"^x$"):
        async with child.running("probe", shell("echo x; exec sleep 300"), env={}, on_line=refuse) as started:
            await asyncio.Event().wait()
    assert started.exit == Exit(signal_name="SIGKILL")


async def test_no_descriptor_is_left_open() -> None:
    async def once() -> None:
        await outcome(shell("echo x"))
        with pytest.raises(RpcmeshError):
            await outcome(("/missing",))

    await once()
    before = psutil.Process().num_fds()
    for _ in range(3):
        await once()
    assert psutil.Process().num_fds() == before
