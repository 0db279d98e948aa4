"""What an attack is: the weakness that it aims at, and what is sent or done. Nothing here knows a server."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from rpc_worker import F32, I32, Buffer, Client, Frame, graph, greet, tensor

BUFFER_BYTES = 1 << 16
# What a stock server may map, so that no attack harms the machine.
SPACE_BYTES = 6 << 30


class Weakness(StrEnum):
    """Of llama.cpp's RPC server, as docs/threat-model.md lists them."""

    DYING_CLIENT = "dying client"
    LENGTH = "length of 2^63"
    LENGTH_CLAIM = "length claim"
    OVERCOMMIT = "overcommit"
    HUGE_READ = "huge read"
    BOUNDS = "bounds"
    STRIDES = "strides"
    REFERENCES = "references"
    OPS = "ops"
    FUNCTION_POINTER = "function pointer"
    ADDRESS = "absolute address"
    SOURCES = "missing sources"
    SHAPES = "shapes"
    VALUES = "values in tensors"
    ENDLESS = "endless compute"
    RECURSION = "recursion"
    DUPLICATES = "duplicate nodes"
    IDLE_PEER = "idle peer"
    OLD_BYTES = "old bytes"
    HEAP_ADDRESSES = "heap addresses"
    CACHE = "weight cache"
    PADDING = "backend padding"
    RDMA = "rdma"
    SECOND_CLIENT = "second client"
    UNKNOWN_NUMBER = "unknown number"
    HADAMARD = "hadamard hint"
    LONG_ROWS = "longer rows"
    GAPS = "quantized gaps"
    COPY_STRIDES = "copy strides"
    RWKV7_HEADS = "rwkv7 heads"
    ROPE_SECTIONS = "rope sections"
    RWKV6_TOKENS = "rwkv6 tokens"
    COUNT_EQUAL = "count_equal"


@dataclass(frozen=True)
class Attack:
    """A frame, for a buffer of ``size`` bytes at the buffer's own numbers, and the guard's word for it.

    It may begin with frames that do no harm. Without a word it is one that the guard cannot tell from an honest frame.
    """

    name: str
    weakness: Weakness
    word: str
    frame: Frame
    size: int = BUFFER_BYTES
    # So many bytes of the buffer are read afterwards: those that are not 0 were never the attacker's.
    loot_bytes: int = 0

    def frame_for(self, buffer: Buffer) -> bytes:
        return self.frame if isinstance(self.frame, bytes) else self.frame(buffer)


class Reach(Protocol):
    """A way to a worker."""

    @property
    def pid(self) -> int: ...

    def connect(self) -> AbstractContextManager[socket.socket]:
        """A connection on which nothing was said yet."""


@contextlib.contextmanager
def session(reach: Reach) -> Iterator[Client]:
    with reach.connect() as connection:
        yield greet(connection)


@dataclass(frozen=True)
class Loot:
    """What an attacker has to show for it."""

    disclosed_bytes: int = 0
    granted_bytes: int = 0


@dataclass(frozen=True)
class Conduct:
    """An attack by what is done rather than by a frame. It goes on as long as the block that ``act`` makes.

    ``meanwhile`` is the word with which another client is refused at once; without one, that client is served.
    ``stopped_by`` is for the table in docs/threat-model.md. ``options`` are the stock server's, and ``space_bytes`` the
    address space that it gets.
    """

    name: str
    weakness: Weakness
    act: Callable[[Reach], AbstractContextManager[Loot]]
    stopped_by: str
    meanwhile: str = ""
    options: tuple[str, ...] = ()
    space_bytes: int = SPACE_BYTES


def placed(buffer: Buffer, key: int, /, back: int | None = None, **fields: object) -> bytes:
    """A tensor at the buffer's begin, or ``back`` bytes before its end."""
    data = buffer.base if back is None else buffer.base + buffer.size - back
    return tensor(**{"key": key, "buffer": buffer.handle, "data": data, **fields})  # type: ignore[arg-type]


def node(op: int, *sources: dict[str, object], **fields: object) -> Callable[[Buffer], bytes]:
    """A graph of one node of this op, whose sources and result all lie in the buffer."""

    def of(buffer: Buffer) -> bytes:
        keys = range(1, len(sources) + 1)
        entries = [placed(buffer, key, **source) for key, source in zip(keys, sources, strict=True)]
        return graph([99], [*entries, placed(buffer, 99, op=op, **{"src": keys, **fields})])

    return of


def of_kind(kind: int, *ne: int, **fields: object) -> dict[str, object]:
    return {"kind": kind, "ne": ne, **fields}


def f32(*ne: int) -> dict[str, object]:
    return of_kind(F32, *ne)


def i32(*ne: int) -> dict[str, object]:
    return of_kind(I32, *ne)
