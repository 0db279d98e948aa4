"""Stands between a stock client and a bare worker, passes everything on, and notes what both say. Decides nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from recordings.recording import ANSWERED, SET_HEAD_BYTES, Command, Entry, reply, request

CHUNK = 1 << 20


class Relay:
    """One client at a time, as the worker has it. ``sessions`` has a list of entries for each connection."""

    def __init__(self, listener: socket.socket, worker: Path) -> None:
        self.sessions: list[list[Entry]] = []
        self._listener = listener
        self._worker = worker
        self._serving = threading.Lock()

    def serve(self) -> None:
        """Until the listener is shut down."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with self._serving, client, socket.socket(socket.AF_UNIX) as worker:
                    worker.connect(str(self._worker))
                    noted: list[Entry] = []
                    self.sessions.append(noted)
                    # The end of a connection is the end of a session; half a frame is no entry.
                    with contextlib.suppress(EOFError, ConnectionError):
                        _relay(client, worker, noted)

    def take(self) -> list[list[Entry]]:
        """The sessions so far, which are forgotten here. Call it when the client has ended."""
        # What a client sent last, and needed no answer for, may still be on its way.
        with self._serving:
            taken, self.sessions = self.sessions, []
        return taken


def _relay(client: socket.socket, worker: socket.socket, noted: list[Entry]) -> None:
    while True:
        header = _exactly(client, 9)
        command, length = header[0], int.from_bytes(header[1:], "little")
        looked_at = min(length, SET_HEAD_BYTES) if command == Command.SET_TENSOR else length
        payload = _exactly(client, looked_at)
        worker.sendall(header + payload)
        _pass_on(client, worker, length - looked_at)
        noted.append(request(command, length, payload))
        if command in ANSWERED:
            size = _exactly(worker, 8)
            answer = _exactly(worker, int.from_bytes(size, "little"))
            client.sendall(size + answer)
            noted.append(reply(command, answer))


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        piece = connection.recv(min(size - len(received), CHUNK))
        if not piece:
            raise EOFError
        received += piece
    return bytes(received)


def _pass_on(source: socket.socket, target: socket.socket, size: int) -> None:
    while size:
        piece = source.recv(min(size, CHUNK))
        if not piece:
            raise EOFError
        target.sendall(piece)
        size -= len(piece)


@contextlib.contextmanager
def relaying(path: Path, worker: Path) -> Iterator[Relay]:
    """A relay that listens at ``path``, on a thread of its own."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        relay = Relay(listener, worker)
        thread = threading.Thread(target=relay.serve)
        thread.start()
        try:
            yield relay
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
