"""The engine process, ``python -m rpcmesh.engine.process``: requests in, steps, events out. It decides nothing.

It lives as long as its owner's end of the socketpair. A lost worker makes ggml abort it; that is expected, the owner
starts another. A second socketpair carries files, see ``file_wire.py``.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence

from rpcmesh.engine.file_wire import FileWire
from rpcmesh.engine.ggml_log import Log
from rpcmesh.engine.llama import LoadError, NoMemoryError, attach_log
from rpcmesh.engine.messages import (
    Cancel,
    EmbedRequest,
    Event,
    Failure,
    GenerateRequest,
    Load,
    Loaded,
    LoadFailed,
    LoadSpec,
    Progress,
    Request,
    Score,
    Shutdown,
    Started,
    StopSaving,
    encode,
    request_frames,
)
from rpcmesh.engine.serving import Serving

PROGRESS_STEP = 0.01


class OwnerGone(Exception):  # noqa: N818
    """The other end of the socketpair is closed."""


class Link:
    """The socketpair's end in the engine. Raises :class:`OwnerGone` from every call once the owner is gone."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._frames = request_frames()

    def receive(self, *, wait: bool) -> list[Request]:
        """The requests that have come; with ``wait``, at least one read is waited for."""
        try:
            received = self._socket.recv(1 << 16, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError as error:
            raise OwnerGone from error
        if not received:
            raise OwnerGone
        return list(self._frames.feed(received))

    def send(self, event: Event) -> None:
        try:
            self._socket.sendall(encode(event))
        except OSError as error:
            raise OwnerGone from error


class EngineProcess:
    """Runs until it is told to shut down or its owner is gone."""

    def __init__(self, link: Link, files: FileWire, log: Log) -> None:
        self._link = link
        self._files = files
        self._log = log
        self._serving: Serving | None = None
        self._shut_down = False

    def run(self) -> None:
        self._link.send(Started(os.getpid()))
        while not self._shut_down:
            idle = self._serving is None or self._serving.idle
            for request in self._link.receive(wait=idle):
                self._handle(request)
            if self._serving is not None and not self._serving.idle:
                for event in self._serving.step():
                    self._link.send(event)

    def _handle(self, request: Request) -> None:
        match request:
            case Load(spec):
                self._link.send(self._load(spec))
            case GenerateRequest() | EmbedRequest():
                self._submit(request)
            case Score():
                self._score(request)
            case Cancel(request_id) if self._serving is not None:
                self._serving.cancel(request_id)
            case StopSaving(request_id) if self._serving is not None:
                self._serving.stop_saving(request_id)
            case Shutdown():
                self._shut_down = True

    def _load(self, spec: LoadSpec) -> Loaded | LoadFailed:
        if self._serving is not None:
            return LoadFailed(f"model {self._serving.model.name!r} is loaded already: an engine holds one model")
        try:
            self._serving = Serving(spec, self._log, self._progress(), self._hand_over, _print_line)
        except LoadError as error:
            return LoadFailed(error.message, memory=isinstance(error, NoMemoryError))
        return Loaded(self._serving.model)

    def _progress(self) -> Callable[[float], bool]:
        reported = -PROGRESS_STEP

        def report(fraction: float) -> bool:
            nonlocal reported
            if fraction - reported < PROGRESS_STEP and fraction < 1:
                return True
            reported = fraction
            try:
                self._link.send(Progress(fraction))
            except OwnerGone:
                # Nobody is left to load for. An exception cannot cross llama.cpp; False makes it give up.
                return False
            return True

        return report

    def _submit(self, request: GenerateRequest | EmbedRequest) -> None:
        if self._serving is None:
            self._link.send(Failure(request.id, "engine_error", "no model is loaded"))
            return
        if isinstance(request, EmbedRequest):
            answer: Event | None = self._serving.embed(request)
        else:
            answer = self._submitted(self._serving, request)
        if answer is not None:
            self._link.send(answer)

    def _submitted(self, serving: Serving, request: GenerateRequest) -> Event | None:
        file = None if request.snapshot is None else self._received(request.id)
        try:
            return serving.submit(request, file)
        finally:
            if file is not None:
                os.close(file)

    def _received(self, request_id: str) -> int:
        try:
            return self._files.receive(request_id)
        except OSError as error:
            raise OwnerGone from error

    def _hand_over(self, request_id: str, file: int) -> None:
        try:
            self._files.send(request_id, file)
        except OSError as error:
            raise OwnerGone from error

    def _score(self, score: Score) -> None:
        if self._serving is None:
            self._link.send(Failure(score.id, "engine_error", "no model is loaded"))
            return
        self._link.send(self._serving.score(score))


def _print_line(line: str) -> None:
    # The owner reads this pipe; ggml's last words before an abort come through it too, in order.
    os.write(2, line.encode(errors="replace") + b"\n")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="rpcmesh.engine.process")
    parser.add_argument("--fd", type=int, required=True, help="the engine's end of a socketpair")
    parser.add_argument("--files-fd", type=int, required=True, help="its end of another, for files")
    parsed = parser.parse_args(arguments)
    # Ctrl-C reaches the whole foreground group; when the engine ends is its owner's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log = Log(_print_line)
    attach_log(log)
    with socket.socket(fileno=parsed.fd) as sock, socket.socket(fileno=parsed.files_fd) as files:
        try:
            EngineProcess(Link(sock), FileWire(files), log).run()
        except OwnerGone:
            _print_line("the owner is gone")
    # Workers free their buffers when the connection closes. ggml's own tear-down would tell them one by one, and
    # abort if one of them is gone.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
