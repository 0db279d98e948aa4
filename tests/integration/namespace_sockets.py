"""Sockets in the networks of other namespaces, held by the test itself. They know nothing of TLS."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from network_namespaces import inside

LIMIT_S = 60
# How long a packet may take before the test says that nothing comes.
SILENCE_S = 1.0
CLONE_NEWNET = 0x40000000
T = TypeVar("T")

# Listens on the ports given and says so; a connection that is accepted gets one byte.
LISTEN = """
import selectors, socket, sys
chosen = selectors.DefaultSelector()
for port in sys.argv[1:]:
    listener = socket.create_server(("0.0.0.0", int(port)))
    chosen.register(listener, selectors.EVENT_READ)
print("listening", flush=True)
while True:
    for key, _ in chosen.select():
        client, _ = key.fileobj.accept()
        client.sendall(b"!")
        client.close()
"""


def in_network_of(namespace: str, act: Callable[[], T]) -> T:
    """``act()`` with the network of ``namespace``, where the sockets that it makes stay."""

    def entered() -> T:
        with Path("/run/netns", namespace).open() as there:
            if _libc().setns(there.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
        return act()

    # A thread of its own: it alone moves there, and it ends.
    with ThreadPoolExecutor(1) as mover:
        return mover.submit(entered).result()


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def listening(namespace: str, *ports: int) -> Iterator[None]:
    argv = inside(namespace, sys.executable, "-I", "-S", "-c", LISTEN, *map(str, ports))
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as listener:
        try:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "listening\n"
            yield
        finally:
            listener.kill()


def reach(namespace: str, address: str, port: int) -> bool:
    """Whether a connection from there is accepted, and gets its byte."""
    try:
        with connect(namespace, address, port) as there:
            return there.recv(1) == b"!"
    except OSError:
        return False


def connect(namespace: str, address: str, port: int, timeout_s: float = SILENCE_S) -> socket.socket:
    return in_network_of(namespace, lambda: socket.create_connection((address, port), timeout=timeout_s))


def outcome(namespace: str, address: str, port: int) -> str:
    """What becomes of a connection from there: ``connected``, ``silent`` or ``refused``."""
    try:
        with connect(namespace, address, port) as made:
            end_at_once(made)
    except TimeoutError:
        return "silent"
    except ConnectionRefusedError:
        return "refused"
    return "connected"


def end_at_once(connection: socket.socket) -> None:
    """With a reset, so that nobody counts it among the open ones."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@dataclass(frozen=True)
class Line:
    """An open connection with both of its ends here. It knows nothing of TLS and holds on until it is closed."""

    near: socket.socket
    far: socket.socket

    def carries(self) -> bool:
        """Whether a byte gets through in both directions."""
        return passes(self.near, self.far) and passes(self.far, self.near)

    def is_dead(self) -> bool:
        """Whether none gets through in either direction."""
        return not passes(self.near, self.far) and not passes(self.far, self.near)


def passes(source: socket.socket, target: socket.socket) -> bool:
    """Whether one byte more arrives. A connection that was cut loses it or is reset."""
    try:
        source.sendall(b"x")
        return target.recv(1) == b"x"
    except OSError:
        return False


@contextlib.contextmanager
def listener(namespace: str, port: int) -> Iterator[socket.socket]:
    """Accepts nothing by itself: the system lets connections in as far as its backlog goes."""
    with in_network_of(namespace, lambda: _server(port)) as made:
        made.settimeout(LIMIT_S)
        yield made


def _server(port: int) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=both)


@contextlib.contextmanager
def line(namespace: str, address: str, to: socket.socket) -> Iterator[Line]:
    """A connection from ``namespace`` to the listener ``to``, which is at ``address``."""
    with connect(namespace, address, to.getsockname()[1]) as near:
        far, _ = to.accept()
        with far:
            far.settimeout(SILENCE_S)
            yield Line(near, far)
