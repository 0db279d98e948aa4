"""The error log: every warning and error of one process, kept in its home, one JSON object a line, bounded.

Each record has a number, ``seq``, that only grows: it is a reader's place in the log, whatever was rotated since.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import structlog

from rpcmesh.errors import PeerError
from rpcmesh.paths import Home

NAME = "errors.jsonl"
# One old file is kept beside the one that is written: both together are twice this at most.
ROTATE_BYTES = 1 << 20
RECORD_MAX_BYTES = 16 * 1024
TEXT_MAX_CHARS = 4000
PAGE_RECORDS = 500
PAGE_BYTES = 512 * 1024
NUMBER_MAX_DIGITS = 15
# Of one kind of event in one minute; how many more there were is in the next record of that kind. Strangers cause some
# kinds as often as they like, and must not push out what somebody will look for.
KIND_MAX_RECORDS = 20
KIND_WINDOW_S = 60.0
LEVELS = frozenset({"warning", "error", "critical"})


class Page(msgspec.Struct, frozen=True):
    """Records, oldest first. What follows them is asked for with ``after=position``; ``more`` says that it is there."""

    records: tuple[msgspec.Raw, ...]
    position: int
    more: bool = False


class _Numbered(msgspec.Struct):
    seq: int


def path_of(home: Home) -> Path:
    return home.logs / NAME


def parse_query(query: Mapping[str, str]) -> tuple[int | None, int]:
    """``after`` and ``last`` of a request's query, as :func:`page` takes them. Raises :class:`PeerError`."""
    for name, text in query.items():
        if name not in {"after", "last"} or not text.isascii() or not text.isdigit() or len(text) > NUMBER_MAX_DIGITS:
            raise PeerError(f"not a place in an error log: {name}={text!r}")
    return int(query["after"]) if "after" in query else None, int(query.get("last", PAGE_RECORDS))


def query(after: int | None, last: int) -> str:
    """The inverse of :func:`parse_query`."""
    return f"last={last}" if after is None else f"after={after}"


class Share:
    """How many records of each kind of event may still be written. Pure: ``now`` is the caller's, in seconds."""

    def __init__(self) -> None:
        # By kind: when its window began, how many there were in it, and how many were left out since the last record.
        self._kinds: dict[str, tuple[float, int, int]] = {}

    def of(self, kind: str, now: float) -> int | None:
        """None when this record is one too many, else how many were left out before it."""
        began, count, left_out = self._kinds.get(kind, (now, 0, 0))
        if now - began >= KIND_WINDOW_S:
            began, count = now, 0
        if count >= KIND_MAX_RECORDS:
            self._kinds[kind] = (began, count, left_out + 1)
            return None
        self._kinds[kind] = (began, count + 1, 0)
        return left_out


class ErrorLog:
    """One process writes a log. A record that cannot be written is no error: the event goes on to standard error."""

    def __init__(
        self, path: Path, rotate_bytes: int = ROTATE_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._clock = clock
        self._share = Share()
        self._lock = threading.Lock()
        try:
            self._seq = max((seq for seq, _ in _records(path)), default=0)
        except OSError:
            self._seq = 0  # what cannot be read cannot be written either, and each event says so

    def processor(self, _: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """For structlog, behind the processors that add level and time."""
        if event.get("level") in LEVELS:
            left_out = self._share.of(str(event.get("event")), self._clock())
            if left_out is None:
                return event
            try:
                self.append(dict(event) | ({"left_out": left_out} if left_out else {}))
            except OSError as error:
                event["error_log"] = f"not written: {error.strerror}"
        return event

    def append(self, fields: dict[str, Any]) -> None:
        """Raises OSError, of a full disk for one; the next record is tried as this one was."""
        with self._lock:
            line = _line(self._seq + 1, fields)
            descriptor = _open(self._path)
            try:
                if os.fstat(descriptor).st_size + len(line) > self._rotate_bytes:
                    self._path.replace(_old(self._path))
                    os.close(descriptor)
                    descriptor = _open(self._path)
                self._seq += 1
                _write_whole(descriptor, line)
            finally:
                os.close(descriptor)


def page(path: Path, *, after: int | None = None, last: int = PAGE_RECORDS) -> Page:
    """The first records behind the place ``after``, or the ``last`` that there are; always a bounded number of bytes.

    A place beyond the newest record belongs to a log that was removed since: reading begins anew.
    """
    records = list(_records(path))
    newest = records[-1][0] if records else 0
    if after is None:
        chosen = list(_bounded(reversed(records), min(last, PAGE_RECORDS)))[::-1]
        return Page(tuple(msgspec.Raw(line) for _, line in chosen), newest)
    behind = [record for record in records if record[0] > (after if after <= newest else 0)]
    chosen = list(_bounded(iter(behind), PAGE_RECORDS))
    position = chosen[-1][0] if chosen else newest
    return Page(tuple(msgspec.Raw(line) for _, line in chosen), position, more=len(chosen) < len(behind))


def _bounded(records: Iterator[tuple[int, bytes]], count: int) -> Iterator[tuple[int, bytes]]:
    size = 0
    for number, record in enumerate(records):
        size += len(record[1])
        if number >= count or size > PAGE_BYTES:
            return
        yield record


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    """All that are whole, by number. The newer file is read first: what is rotated meanwhile is then seen twice."""
    found: dict[int, bytes] = {}
    for file in (path, _old(path)):
        for line in (file.read_bytes() if file.exists() else b"").splitlines():
            try:
                found.setdefault(msgspec.json.decode(line, type=_Numbered).seq, line)
            except msgspec.DecodeError:
                continue  # cut off by a full disk or a power cut
    yield from sorted(found.items())


def _line(seq: int, fields: dict[str, Any]) -> bytes:
    raised = fields.pop("exc_info", None)
    if raised:
        fields["exception"] = _exception_text(raised)
    line = _encoded({"seq": seq, **fields})
    if len(line) > RECORD_MAX_BYTES:
        kept: dict[str, Any] = {key: str(fields[key])[:200] for key in ("ts", "level", "event") if key in fields}
        line = _encoded({"seq": seq, **kept, "cut": len(line)})
    return line + b"\n"


def _encoded(record: dict[str, Any]) -> bytes:
    return msgspec.json.encode(record, enc_hook=str)


def _exception_text(raised: Any) -> str:
    """As Python prints it: lines of code and no values of variables, among which secrets may be."""
    error: BaseException | tuple[type[BaseException], BaseException, TracebackType] | None
    error = raised if isinstance(raised, BaseException) else raised[1] if isinstance(raised, tuple) else sys.exception()
    return "".join(traceback.format_exception(error))[-TEXT_MAX_CHARS:] if isinstance(error, BaseException) else ""


def _write_whole(descriptor: int, line: bytes) -> None:
    """What a full disk cut off is taken away again, so that the next line begins where one should."""
    before = os.fstat(descriptor).st_size
    written = os.write(descriptor, line)
    if written < len(line):
        os.ftruncate(descriptor, before)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _old(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def _open(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor
