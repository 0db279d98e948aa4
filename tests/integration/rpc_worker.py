"""llama.cpp's RPC protocol as tests speak it: its frames, a client that asks, and a worker that notes what it is asked.

The frames are whatever a test wants them to be, right or wrong; only :class:`Worker` believes what it reads.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import socket
import ssl
import struct
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from tunnel_harness import PATIENCE_S, Tunnel, eventually, receive


class Command(IntEnum):
    ALLOC_BUFFER = 0
    GET_ALIGNMENT = 1
    GET_MAX_SIZE = 2
    BUFFER_GET_BASE = 3
    FREE_BUFFER = 4
    BUFFER_CLEAR = 5
    SET_TENSOR = 6
    SET_TENSOR_HASH = 7
    GET_TENSOR = 8
    COPY_TENSOR = 9
    GRAPH_COMPUTE = 10
    GET_DEVICE_MEMORY = 11
    INIT_TENSOR = 12
    GET_ALLOC_SIZE = 13
    HELLO = 14
    DEVICE_COUNT = 15
    GRAPH_RECOMPUTE = 16
    MEMSET_TENSOR = 17


F32, F16, Q4_0, Q8_0, Q8_1, I8, I32, I64 = 0, 1, 2, 8, 9, 24, 26, 27
# Elements of a block, and its bytes.
BLOCKS = {
    F32: (1, 4),
    F16: (1, 2),
    Q4_0: (32, 18),
    Q8_0: (32, 34),
    Q8_1: (32, 36),
    I8: (1, 1),
    I32: (1, 4),
    I64: (1, 8),
}

ADD = 2

TENSOR_BYTES = 296
_TENSOR = struct.Struct("<QIQ4I4II16ii10QQQQ64si")
assert _TENSOR.size == TENSOR_BYTES

CAPS = bytes(range(1, 25))
PROTOCOL = b"\x07\x00\x00\x00"


def u32(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def u64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def header(command: int, length: int) -> bytes:
    return bytes([command]) + u64(length)


def frame(command: int, payload: bytes = b"") -> bytes:
    return header(command, len(payload)) + payload


def reply(payload: bytes) -> bytes:
    return u64(len(payload)) + payload


def tensor(
    *,
    key: int = 0x1000,
    kind: int = F32,
    buffer: int = 0,
    data: int = 0,
    ne: Sequence[int] = (64, 1, 1, 1),
    nb: Sequence[int] | None = None,
    op: int = 0,
    params: Sequence[int] = (),
    src: Sequence[int] = (),
) -> bytes:
    """``key`` is its id, ``kind`` its ggml type. Strides not given are those of contiguous rows; the rest is 1 or 0."""
    ne = (*ne, 1, 1, 1)[:4]
    if nb is None:
        block, block_bytes = BLOCKS[kind]
        row_bytes = ne[0] // block * block_bytes
        nb = (block_bytes, row_bytes, row_bytes * ne[1], row_bytes * ne[1] * ne[2])
    params, src = (*params, *[0] * 16)[:16], (*src, *[0] * 10)[:10]
    compute = 16 if op else 0
    return _TENSOR.pack(key, kind, buffer, *ne, *nb, op, *params, compute, *src, 0, 0, data, b"", 0)


def set_tensor(where: bytes, offset: int, content: bytes, cache: int = 0) -> bytes:
    return frame(Command.SET_TENSOR, where + bytes([cache]) + u64(offset) + content)


def get_tensor(where: bytes, offset: int, size: int) -> bytes:
    return frame(Command.GET_TENSOR, where + u64(offset, size))


def graph(nodes: Sequence[int], tensors: Sequence[bytes], device: int = 0) -> bytes:
    return frame(Command.GRAPH_COMPUTE, u32(device, len(nodes)) + u64(*nodes) + u32(len(tensors)) + b"".join(tensors))


HELLO_REQUEST = frame(Command.HELLO, CAPS)
HELLO_REPLY = reply(PROTOCOL + CAPS)
HELLO_REPLY_ZEROED = reply(PROTOCOL + bytes(24))


class Buffer(NamedTuple):
    """As a client knows it."""

    handle: int
    base: int
    size: int

    def bytes_at(self, offset: int = 0, size: int | None = None) -> bytes:
        """A tensor of single bytes, from ``offset`` to the buffer's end or of ``size``."""
        length = self.size - offset if size is None else size
        return tensor(kind=I8, buffer=self.handle, data=self.base + offset, ne=(length,))


# As it is, or as it is once there is a buffer.
Frame = bytes | Callable[[Buffer], bytes]


def sum_of(buffer: Buffer) -> bytes:
    """A graph that adds the buffer's first 64 floats and its next, over the first."""
    a, b = (tensor(key=key, buffer=buffer.handle, data=buffer.base + 256 * (key - 1)) for key in (1, 2))
    return graph([3], [a, b, tensor(key=3, buffer=buffer.handle, data=buffer.base, op=ADD, src=(1, 2))])


class Client:
    """Asks over ``connection``. Every answer is read in full, and an end in the middle of one is an error."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def send(self, *frames: bytes) -> None:
        self.connection.sendall(b"".join(frames))

    def answer(self) -> bytes:
        length = int.from_bytes(self._exactly(8), "little")
        return self._exactly(length)

    def ask(self, command: int, payload: bytes = b"") -> bytes:
        self.send(frame(command, payload))
        return self.answer()

    def alloc(self, size: int) -> Buffer:
        handle, granted = struct.unpack("<QQ", self.ask(Command.ALLOC_BUFFER, u32(0) + u64(size)))
        assert (handle, granted) != (0, 0), f"no buffer of {size} bytes"
        base = int.from_bytes(self.ask(Command.BUFFER_GET_BASE, u64(handle)), "little")
        return Buffer(handle, base, granted)

    def read(self, buffer: Buffer, offset: int = 0, size: int | None = None) -> bytes:
        where = buffer.bytes_at(offset, size)
        self.send(get_tensor(where, 0, buffer.size - offset if size is None else size))
        return self.answer()

    def _exactly(self, size: int) -> bytes:
        received = receive(self.connection, size)
        assert len(received) == size, f"the connection ended after {len(received)} of {size} bytes"
        return received


def greet(connection: socket.socket) -> Client:
    connection.sendall(HELLO_REQUEST)
    assert receive(connection, len(HELLO_REPLY)) == HELLO_REPLY_ZEROED
    return Client(connection)


def assert_cut(connection: socket.socket) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        assert connection.recv(100) == b""


class Request(NamedTuple):
    command: int
    # What came of it, where the connection ended before it was whole.
    payload: bytes


class Worker:
    """Serves connections as ggml's RPC server does, with buffers that hold old bytes, and notes every request."""

    HANDLE, BASE, OLD_BYTE, ALIGNMENT = 0x5555_0000_1000, 0x7F00_0000_0040, 0xAA, 64

    def __init__(self) -> None:
        self.sessions: list[list[Request]] = []
        # By handle: base and bytes.
        self.buffers: dict[int, tuple[int, bytearray]] = {}

    def __call__(self, connection: socket.socket) -> None:
        noted: list[Request] = []
        self.sessions.append(noted)
        for request in requests_of(connection):
            noted.append(request)
            answer = self.answer(request)
            if answer is not None:
                self.send(connection, reply(answer))

    def send(self, connection: socket.socket, answer: bytes) -> None:
        if len(answer) == len(HELLO_REPLY):
            # Byte by byte: the capabilities are to be found across any split.
            for byte in answer:
                connection.send(bytes([byte]))
        else:
            connection.sendall(answer)

    @property
    def requests(self) -> list[Request]:
        """Of the first session."""
        return self.sessions[0] if self.sessions else []

    @property
    def commands(self) -> list[int]:
        return [request.command for request in self.requests]

    def answer(self, request: Request) -> bytes | None:
        payload = request.payload
        match request.command:
            case Command.HELLO:
                return PROTOCOL + CAPS
            case Command.DEVICE_COUNT:
                return u32(1)
            case Command.ALLOC_BUFFER:
                return self._alloc(int.from_bytes(payload[4:], "little"))
            case Command.BUFFER_GET_BASE:
                return u64(self.buffers[_first(payload)][0])
            case Command.FREE_BUFFER:
                del self.buffers[_first(payload)]
            case Command.BUFFER_CLEAR:
                content = self.buffers[_first(payload)][1]
                content[:] = payload[8:9] * len(content)
            case Command.SET_TENSOR:
                self._write(payload, payload[TENSOR_BYTES + 9 :])
            case Command.GET_TENSOR:
                return self._read(payload)
            case Command.GET_ALIGNMENT | Command.GET_MAX_SIZE:
                return u64(self.ALIGNMENT)
            case Command.SET_TENSOR_HASH | Command.COPY_TENSOR:
                return b"\x01"
            case Command.GET_DEVICE_MEMORY:
                return u64(8 << 30, 16 << 30)
            case Command.GET_ALLOC_SIZE:
                return u64(256)
        return None

    def _alloc(self, size: int) -> bytes:
        number = len(self.buffers)
        handle = self.HANDLE + (number << 12)
        self.buffers[handle] = (self.BASE + (number << 36), bytearray([self.OLD_BYTE]) * size)
        return u64(handle, size)

    def _place(self, payload: bytes, offset_at: int) -> tuple[bytearray, int]:
        fields = _TENSOR.unpack(payload[:TENSOR_BYTES])
        base, content = self.buffers[fields[2]]
        return content, fields[-3] - base + _first(payload[offset_at:])

    def _write(self, payload: bytes, content: bytes) -> None:
        memory, at = self._place(payload, TENSOR_BYTES + 1)
        memory[at : at + len(content)] = content

    def _read(self, payload: bytes) -> bytes:
        memory, at = self._place(payload, TENSOR_BYTES)
        return bytes(memory[at : at + _first(payload[TENSOR_BYTES + 8 :])])


class Thinker(Worker):
    """Answers DEVICE_COUNT when it may, and notes how much lay unread by then."""

    def __init__(self) -> None:
        super().__init__()
        self.thinks, self.may_answer = threading.Event(), threading.Event()
        self.unread: list[int] = []

    def send(self, connection: socket.socket, answer: bytes) -> None:
        if answer == reply(u32(1)):
            self.thinks.set()
            assert self.may_answer.wait(PATIENCE_S)
            self.unread.append(unread_bytes(connection))
        super().send(connection, answer)

    def answer_once_there_are(self, tunnel: Tunnel, bytes_in: int) -> None:
        """When the tunnel has ``bytes_in`` of its only client."""
        assert self.thinks.wait(PATIENCE_S)
        eventually(lambda: tunnel.status().sessions[0].bytes_in == bytes_in, "the tunnel has all of it")
        self.may_answer.set()


def _first(payload: bytes) -> int:
    return int.from_bytes(payload[:8], "little")


def requests_of(connection: socket.socket) -> Iterator[Request]:
    """All that come, also one that was cut off in its middle."""
    while start := receive(connection, 9):
        length = int.from_bytes(start[1:], "little")
        yield Request(start[0], receive(connection, length) if len(start) == 9 else b"")


def unread_bytes(connection: socket.socket) -> int:
    """How many bytes have come and were not read yet."""
    count = array.array("i", [0])
    fcntl.ioctl(connection, termios.FIONREAD, count)
    return count[0]
