"""One child process on its tether: start it, signal it, read its output, learn how it ended. No restarts here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from io import FileIO
from pathlib import Path

import msgspec

from rpcmesh.errors import RpcmeshError, alone
from rpcmesh.supervise import tether

HEAD_LINES = 100
TAIL_LINES = 20
# A longer line is cut into pieces of this many bytes.
LINE_MAX_BYTES = 16 * 1024
# How long a child may take between its start and the tether's word of it, on a busy machine.
START_LIMIT_S = 20.0
# How long after the end of a child its output is read on, when a descendant that left the group holds it open.
OUTPUT_LIMIT_S = 2.0


class Exit(msgspec.Struct, frozen=True):
    """How a process ended: with ``code``, or by ``signal_name``."""

    code: int | None = None
    signal_name: str | None = None

    def __str__(self) -> str:
        return f"killed by {self.signal_name}" if self.signal_name else f"exit status {self.code}"


class Child:
    """Use :func:`running`. ``pid`` leads a process group that holds all its descendants unless they left it."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, pid: int, on_line: Callable[[str], None]
    ) -> None:
        self.name = name
        self.pid = pid
        self.head: list[str] = []
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._process = process
        self._on_line = on_line
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    @property
    def exit(self) -> Exit | None:
        """How it ended, None while it runs."""
        return self._exit.result() if self._exit.done() else None

    async def wait(self) -> Exit:
        """Wait for the end. Cancelling the wait does not touch the child."""
        return await asyncio.shield(self._exit)

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the child alone, for example SIGHUP to reload."""
        if not self._exit.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """KILL the whole group, now. How it ended is known once it was reaped: see :meth:`wait`."""
        self._signal_group(signal.SIGKILL)

    async def stop(self, grace_s: float) -> Exit:
        """TERM the whole group, KILL what is left of it after ``grace_s``, and reap it."""
        self._signal_group(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            self._signal_group(signal.SIGKILL)
            return await self.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        if not self._exit.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    async def _read_output(self, output: asyncio.StreamReader) -> None:
        pending = b""
        while received := await output.read(1 << 16):
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                self._line(line)
            while len(pending) > LINE_MAX_BYTES:
                self._line(pending[:LINE_MAX_BYTES])
                pending = pending[LINE_MAX_BYTES:]
        if pending:
            self._line(pending)

    def _line(self, raw: bytes) -> None:
        for start in range(0, max(1, len(raw)), LINE_MAX_BYTES):
            text = raw[start : start + LINE_MAX_BYTES].decode(errors="replace").rstrip("\r")
            if len(self.head) < HEAD_LINES:
                self.head.append(text)
            self.tail.append(text)
            self._on_line(text)

    async def _follow(self, reports: asyncio.StreamReader, output: asyncio.StreamReader) -> None:
        """Read the output and the tether's verdict to their ends; only then is the child known to have ended."""
        verdict = b""
        try:
            with alone():
                async with asyncio.TaskGroup() as group:
                    reading = group.create_task(self._read_output(output))
                    if not (verdict := await reports.readline()):
                        # The tether was killed before it could tell: its child must not outlive it.
                        self._signal_group(signal.SIGKILL)
                    await asyncio.wait([reading], timeout=OUTPUT_LIMIT_S)
                    reading.cancel()
            await self._process.wait()
        finally:
            if not verdict:
                # The same when nobody follows it any longer.
                self._signal_group(signal.SIGKILL)
            self._exit.set_result(_parse_verdict(verdict))


@contextlib.asynccontextmanager
async def running(
    name: str,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    on_line: Callable[[str], None],
    cwd: Path | None = None,
    grace_s: float = 5.0,
) -> AsyncIterator[Child]:
    """Start ``argv`` (an absolute path first) with exactly ``env``; stop it when the block is left.

    ``on_line`` gets each line of its output. Raises :class:`RpcmeshError` when it cannot be started.
    """
    async with _pipe() as (reports, reports_end), _pipe() as (output, output_end):
        process = await _start_tether(name, argv, env, cwd, reports_end, output_end)
        try:
            child = Child(name, process, await _started(name, reports), on_line)
            with alone():
                async with asyncio.TaskGroup() as group:
                    group.create_task(child._follow(reports, output))
                    try:
                        yield child
                    finally:
                        # Shielded: whoever cancels the owner still wants the child gone.
                        await asyncio.shield(child.stop(grace_s))
        finally:
            if process.stdin is not None:
                process.stdin.close()
            await asyncio.shield(process.wait())


@contextlib.asynccontextmanager
async def _pipe() -> AsyncIterator[tuple[asyncio.StreamReader, FileIO]]:
    """What to read, and the end to write to, which is to be closed once the tether has it."""
    read, write = os.pipe()
    with os.fdopen(read, "rb", 0) as read_end, os.fdopen(write, "wb", 0) as write_end:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), read_end
        )
        try:
            yield reader, write_end
        finally:
            transport.close()


async def _start_tether(
    name: str, argv: Sequence[str], env: Mapping[str, str], cwd: Path | None, reports: FileIO, output: FileIO
) -> asyncio.subprocess.Process:
    # Python adds this to its own environment in the C locale; the tether takes it away again.
    not_given = "" if "LC_CTYPE" in env else "LC_CTYPE"
    with reports, output:
        try:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", tether.__file__, str(reports.fileno()), not_given, *argv),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                pass_fds=(reports.fileno(),),
                start_new_session=True,
                restore_signals=False,
            )
        except OSError as error:
            raise RpcmeshError(f"cannot start {name}: {error.strerror}") from error


async def _started(name: str, reports: asyncio.StreamReader) -> int:
    try:
        async with asyncio.timeout(START_LIMIT_S):
            word, _, rest = (await reports.readline()).decode().strip().partition(" ")
    except TimeoutError as error:
        raise RpcmeshError(f"{name} did not start within {START_LIMIT_S:.0f} s") from error
    match word:
        case "started":
            return int(rest)
        case "failed":
            raise RpcmeshError(f"cannot start {name}: {rest}")
        case _:
            raise RpcmeshError(f"{name} could not be started")


def _parse_verdict(line: bytes) -> Exit:
    word, _, value = line.decode().strip().partition(" ")
    match word:
        case "exited":
            return Exit(code=int(value))
        case "killed":
            return Exit(signal_name=_signal_name(int(value)))
        case _:
            return Exit(signal_name="SIGKILL")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        # One of the real-time signals.
        return f"signal {number}"
