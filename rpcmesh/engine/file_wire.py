"""Open files change hands between engine and owner, one for one request id, beside the messages that speak of them.

The files have no name, so a descriptor is the only way to them, and nothing is left to remove when both sides are gone.
A file is sent before the message that speaks of it, and both arrive in order.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
import tempfile

from rpcmesh.errors import PeerError

_MARK_BYTES = 8


class FileWire:
    """One end of a stream socketpair. Whether its calls wait is the socket's own setting."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send(self, request_id: str, file: int) -> None:
        """Hand over a copy of ``file``. Raises OSError when the other end is gone, or full and not to be waited for."""
        socket.send_fds(self._socket, [_mark(request_id)], [file])

    def receive(self, request_id: str) -> int:
        """The file that was sent for ``request_id``; it is the caller's to close. Raises OSError, PeerError."""
        mark, files, _, _ = socket.recv_fds(self._socket, _MARK_BYTES, 1)
        for file in files:
            os.set_inheritable(file, False)
        if mark != _mark(request_id) or len(files) != 1:
            for file in files:
                os.close(file)
            raise PeerError(f"no file has come for request {request_id!r}")
        return files[0]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


def nameless_file(folder: str) -> int:
    """A new file that no path leads to. It is gone with its last descriptor, whatever ends its holders.

    Without ``folder`` it is in memory on Linux, and in the user's own temporary directory elsewhere. Raises OSError.
    """
    if sys.platform == "linux" and not folder:
        return os.memfd_create("rpcmesh-snapshot")
    with tempfile.TemporaryFile(dir=folder or None) as made:
        return os.dup(made.fileno())


def _mark(request_id: str) -> bytes:
    return hashlib.blake2b(request_id.encode(), digest_size=_MARK_BYTES).digest()
