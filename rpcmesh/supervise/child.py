"""One child process on its tether: start it, signal it, read its output, learn how it ended. No restarts here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from rpcmesh.errors import RpcmeshError
from rpcmesh.supervise import tether

HEAD_LINES = 40
TAIL_LINES = 20
# A longer line is cut into pieces of this many bytes.
LINE_MAX_BYTES = 16 * 1024
# How long a child may take between its start and the tether's word of it, on a busy machine.
START_LIMIT_S = 20.0


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

    async def _read_output(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 (stdout=PIPE)
        pending = b""
        while received := await self._process.stdout.read(1 << 16):
            *lines, pending = (pending + received).split(b"\n")
            while len(pending) > LINE_MAX_BYTES:
                lines, pending = [*lines, pending[:LINE_MAX_BYTES]], pending[LINE_MAX_BYTES:]
            for line in lines:
                self._line(line)
        if pending:
            self._line(pending)

    def _line(self, raw: bytes) -> None:
        text = raw.decode(errors="replace").rstrip("\r")
        if len(self.head) < HEAD_LINES:
            self.head.append(text)
        self.tail.append(text)
        self._on_line(text)

    async def _follow(self, reports: asyncio.StreamReader) -> None:
        """Read the output and the tether's verdict to their ends; only then is the child known to have ended."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_output())
            verdict = await reports.readline()
        await self._process.wait()
        if not verdict:
            # The tether was killed before it could tell: its child must not outlive it.
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
    reports_read, reports_write = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", tether.__file__, str(reports_write), *argv),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            pass_fds=(reports_write,),
            start_new_session=True,
            restore_signals=False,
        )
    except OSError as error:
        os.close(reports_read)
        raise RpcmeshError(f"cannot start {name}: {error.strerror}") from error
    finally:
        os.close(reports_write)
    reports, transport = await _reader(reports_read)
    try:
        started = await _started(name, reports)
        child = Child(name, process, started, on_line)
        async with asyncio.TaskGroup() as group:
            group.create_task(child._follow(reports))
            try:
                yield child
            finally:
                # Shielded: whoever cancels the owner still wants the child gone.
                await asyncio.shield(child.stop(grace_s))
    finally:
        transport.close()
        if process.stdin is not None:
            process.stdin.close()


async def _reader(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    return reader, transport


async def _started(name: str, reports: asyncio.StreamReader) -> int:
    try:
        async with asyncio.timeout(START_LIMIT_S):
            word, _, pid = (await reports.readline()).decode().partition(" ")
    except TimeoutError as error:
        raise RpcmeshError(f"{name} did not start within {START_LIMIT_S:.0f} s") from error
    if word != "started":
        raise RpcmeshError(f"{name} could not be started")
    return int(pid)


def _parse_verdict(line: bytes) -> Exit:
    word, _, value = line.decode().strip().partition(" ")
    match word:
        case "exited":
            return Exit(code=int(value))
        case "killed":
            return Exit(signal_name=signal.Signals(int(value)).name)
        case _:
            return Exit(signal_name="SIGKILL")
