"""The file format of a recorded RPC session: entries in the order in which they were seen. README.md has its layout.

Nothing here opens a socket, and nothing here knows the guard.
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

MAGIC = b"RPCREC\x01\n"
SUFFIX = ".rec.xz"
# u8 kind, u8 command, u32 kept bytes, u64 payload bytes.
_ENTRY = struct.Struct("<BBIQ")
# Of a SET_TENSOR: the tensor, the cache flag and the offset. What follows are weights and inputs.
SET_HEAD_BYTES = 305


class Kind(IntEnum):
    SESSION, REQUEST, REPLY = 0, 1, 2


class Command(IntEnum):
    ALLOC_BUFFER = 0
    FREE_BUFFER = 4
    BUFFER_CLEAR = 5
    SET_TENSOR = 6
    GET_TENSOR = 8
    GRAPH_COMPUTE = 10
    HELLO = 14
    GRAPH_RECOMPUTE = 16


# Requests that the worker answers.
ANSWERED = frozenset((0, 1, 2, 3, 7, 8, 9, 11, 13, 14, 15))


class Entry(NamedTuple):
    """A session's begin, a request or a reply. ``kept`` are the first bytes of its ``length`` bytes of payload."""

    kind: Kind
    command: int
    length: int
    kept: bytes


def session(name: str) -> Entry:
    return Entry(Kind.SESSION, 0, len(name.encode()), name.encode())


def request(command: int, length: int, payload: bytes) -> Entry:
    """Of a SET_TENSOR's ``payload`` only the head is kept, and only that much of it has to be there."""
    return Entry(Kind.REQUEST, command, length, payload[:SET_HEAD_BYTES] if command == Command.SET_TENSOR else payload)


def reply(command: int, payload: bytes) -> Entry:
    return Entry(Kind.REPLY, command, len(payload), b"" if command == Command.GET_TENSOR else payload)


def dump(entries: Iterable[Entry]) -> bytes:
    parts = [MAGIC]
    for kind, command, length, kept in entries:
        parts += (_ENTRY.pack(kind, command, len(kept), length), kept)
    return b"".join(parts)


def parse(content: bytes) -> Iterator[Entry]:
    """Raises :class:`ValueError` for anything that :func:`dump` has not made."""
    if not content.startswith(MAGIC):
        raise ValueError(f"a recording does not begin with {content[: len(MAGIC)]!r}")
    at = len(MAGIC)
    while at < len(content):
        if at + _ENTRY.size > len(content):
            raise ValueError(f"a recording ends inside the entry at byte {at}")
        kind, command, kept, length = _ENTRY.unpack_from(content, at)
        end = at + _ENTRY.size + kept
        if kept > length or end > len(content):
            raise ValueError(f"the entry at byte {at} keeps {kept} of {length} bytes")
        yield Entry(Kind(kind), command, length, content[at + _ENTRY.size : end])
        at = end


def save(path: Path, entries: Iterable[Entry]) -> None:
    # Graphs of one model differ in a few numbers only; with this dictionary each later one is found in the first.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 64 << 20}]
    path.write_bytes(lzma.compress(dump(entries), format=lzma.FORMAT_XZ, filters=filters))


def load(path: Path) -> bytes:
    """The uncompressed recording, for :func:`parse` and for guard_replay."""
    return lzma.decompress(path.read_bytes())


def distinct(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Without what says again what the same session said before: the next token's inputs, graph and logits.

    What makes or frees a buffer is kept, and behind it everything counts as new: the worker forgets its graphs when a
    buffer is freed. So each session that is left is one that a worker would serve.
    """
    seen: set[Entry] = set()
    repeated = False
    for entry in entries:
        if entry.kind is Kind.REPLY:
            if not repeated:
                yield entry
            continue
        if entry.kind is Kind.SESSION or entry.command in (Command.ALLOC_BUFFER, Command.FREE_BUFFER):
            seen.clear()
        repeated = entry in seen
        if not repeated:
            seen.add(entry)
            yield entry
