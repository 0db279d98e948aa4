"""One engine process seen from its owner: its socket, its output, its end. What the messages mean is not known here.

No task runs here: the event loop calls the two protocols below, and they call back. So nothing can leak.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

import structlog

import rpcmesh
from rpcmesh.engine.file_wire import FileWire
from rpcmesh.engine.messages import Event, Request, encode, event_frames
from rpcmesh.errors import PeerError, RpcmeshError

log = structlog.get_logger(__name__)

LOG_TAIL_LINES = 20
EXIT_GRACE_S = 1.0
# What the engine sees of our environment; it has no use for the rest, secrets among it.
PASSED_ON = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR")


class EngineLost(RpcmeshError):  # noqa: N818
    """The engine process has ended. ``exit_code`` is negative for a signal; ``log_tail`` are its last lines."""

    def __init__(self, pid: int, exit_code: int, log_tail: tuple[str, ...]) -> None:
        last_words = f": {log_tail[-1]}" if log_tail else ""
        super().__init__(f"engine process {pid} {_ending(exit_code)}{last_words}", hint="rpcmesh status")
        self.pid = pid
        self.exit_code = exit_code
        self.log_tail = log_tail


class Child:
    """Calls ``on_event`` for each message, ``on_line`` for each line of output, ``on_lost`` once, when all is over."""

    def __init__(
        self,
        *,
        on_event: Callable[[Event], None],
        on_line: Callable[[str], None],
        on_lost: Callable[[EngineLost], None],
    ) -> None:
        self._on_event = on_event
        self._on_line = on_line
        self._on_lost = on_lost
        self._frames = event_frames()
        self._log_tail: deque[str] = deque(maxlen=LOG_TAIL_LINES)
        self._wire: asyncio.WriteTransport | None = None
        self._files: FileWire | None = None
        self._process: asyncio.SubprocessTransport | None = None
        # The socket may still hold messages when the process is reaped, and the other way round: it is over when
        # both have ended.
        self._open = {"wire", "process"}
        self._last_resort: asyncio.TimerHandle | None = None

    async def spawn(self, lib_dir: Path) -> None:
        """Start the process. Raises OSError when that is impossible."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        our_files, their_files = socket.socketpair()
        for sock in (ours, our_files):
            sock.setblocking(False)
        self._files = FileWire(our_files)
        fds = (theirs.fileno(), their_files.fileno())
        with theirs, their_files:
            self._wire, _ = await loop.create_unix_connection(lambda: _Wire(self), sock=ours)
            try:
                self._process, _ = await loop.subprocess_exec(
                    lambda: _Output(self),
                    # -P: no module may come from the directory we happen to stand in.
                    *(sys.executable, "-P", "-m", "rpcmesh.engine.process"),
                    *("--fd", str(fds[0]), "--files-fd", str(fds[1])),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    pass_fds=fds,
                    start_new_session=True,
                    env=_environment(lib_dir),
                )
            except BaseException:
                self._wire.abort()
                self._files.close()
                raise

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.get_pid()

    def send(self, request: Request) -> None:
        """Nothing happens when the process is gone. Raises UnicodeEncodeError for text with a lone surrogate."""
        frame = encode(request)
        if self._wire is not None and not self._wire.is_closing():
            self._wire.write(frame)

    def send_file(self, request_id: str, file: int) -> bool:
        """A copy of ``file`` for the request that is sent next. False when it could not be sent."""
        try:
            if self._files is not None:
                self._files.send(request_id, file)
                return True
        except OSError as error:
            log.warning("snapshot_not_sent", pid=self.pid, error=str(error))
        return False

    def receive_file(self, request_id: str) -> int | None:
        """The file that came with the first of what is saved of a request; it is the caller's to close."""
        try:
            return None if self._files is None else self._files.receive(request_id)
        except OSError as error:
            raise PeerError(f"no file has come for request {request_id!r}: {error}") from error

    def kill(self) -> None:
        if self._process is not None and self._process.get_returncode() is None:
            self._process.kill()

    def received(self, received: bytes) -> None:
        try:
            for event in self._frames.feed(received):
                self._on_event(event)
        except PeerError as error:
            log.error("engine_broke_protocol", pid=self.pid, error=error.message)
            self.kill()

    def printed(self, line: str) -> None:
        self._log_tail.append(line)
        self._on_line(line)

    def ended(self, part: str) -> None:
        self._open.discard(part)
        if part == "wire":
            # An engine that is ending closes its socket first; one that closed it for another reason is of no use.
            self._last_resort = asyncio.get_running_loop().call_later(EXIT_GRACE_S, self.kill)
        if not self._open and self._process is not None:
            if self._last_resort is not None:
                self._last_resort.cancel()
            exit_code = self._process.get_returncode()
            self._process.close()
            if self._files is not None:
                self._files.close()
            self._on_lost(EngineLost(self._process.get_pid(), exit_code or 0, tuple(self._log_tail)))


class _Wire(asyncio.Protocol):
    def __init__(self, child: Child) -> None:
        self._child = child

    def data_received(self, data: bytes) -> None:
        self._child.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._child.ended("wire")


class _Output(asyncio.SubprocessProtocol):
    def __init__(self, child: Child) -> None:
        self._child = child
        self._pending = b""

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in filter(None, lines):
            self._child.printed(line.decode(errors="replace"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._pending:
            self._child.printed(self._pending.decode(errors="replace"))
        self._child.ended("process")


def _environment(lib_dir: Path) -> dict[str, str]:
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {
        "LLAMA_CPP_LIB_PATH": str(lib_dir),
        # ggml's abort would start a debugger for a back trace: seconds that the requests wait for the next engine.
        "GGML_NO_BACKTRACE": "1",
        "PYTHONPATH": str(Path(rpcmesh.__file__).parent.parent),
    }


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit status {exit_code}"
    return f"was ended by {signal.Signals(-exit_code).name}"
