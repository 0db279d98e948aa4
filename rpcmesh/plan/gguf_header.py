"""A GGUF file's header: numbers among its settings, and how large each tensor is. Pure: bytes in, a value out.

The ``gguf`` package's reader makes an object of every word of the vocabulary: 2.3 s and 190 MB for SmolLM2. This one
passes over strings, in milliseconds. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from mmap import mmap
from typing import TypeAlias

import msgspec

from rpcmesh.errors import RpcmeshError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
# ggml allows four; none has more than this.
MAX_DIMENSIONS = 8
# Longer arrays are vocabularies.
MAX_KEPT = 4096
Value: TypeAlias = int | float | str | tuple[int | float, ...]

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
# enum gguf_type; 8 is a string, 9 an array.
_SCALARS = {number: struct.Struct("<" + code) for number, code in enumerate("BbHhIif?")} | {
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_STRING, _ARRAY = 8, 9


class HeaderError(RpcmeshError):
    """The bytes are no header that we can read."""


class Header(msgspec.Struct, frozen=True):
    """``settings`` without vocabularies and arrays of strings. ``tensor_bytes`` may include up to 31 of padding."""

    settings: dict[str, Value]
    tensor_bytes: dict[str, int]


def parse(file: bytes | mmap) -> Header:
    """Read the header of a whole file. Raises :class:`HeaderError`."""
    with memoryview(file) as view:
        try:
            return _Cursor(view).header()
        except (struct.error, IndexError, OverflowError, UnicodeDecodeError) as error:
            raise HeaderError(f"the header of a GGUF file of {len(view)} bytes cannot be read: {error}") from error


class _Cursor:
    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def header(self) -> Header:
        if bytes(self._view[:4]) != MAGIC:
            raise HeaderError(f"a GGUF file begins with {MAGIC!r}, not with {bytes(self._view[:4])!r}")
        self._at = 4
        if (version := self._number(_U32)) not in VERSIONS:
            raise HeaderError(f"GGUF version {version} is not known", hint="convert the model again")
        n_tensors, n_settings = self._number(_U64), self._number(_U64)
        settings: dict[str, Value] = {}
        for _ in range(n_settings):
            name = self._text()
            value = self._value(self._number(_U32))
            if value is not None:
                settings[name] = value
        offsets = dict(self._tensor() for _ in range(n_tensors))
        return Header(settings, self._sizes(offsets, settings.get("general.alignment")))

    def _sizes(self, offsets: dict[str, int], alignment: Value | None) -> dict[str, int]:
        """Tensors lie one behind the other: each reaches to the next, the last to the end of the file."""
        unit = alignment if isinstance(alignment, int) and alignment > 0 else DEFAULT_ALIGNMENT
        begin = -(-self._at // unit) * unit
        ordered = sorted(offsets.items(), key=lambda item: item[1])
        ends = [offset for _, offset in ordered[1:]] + [len(self._view) - begin]
        if ordered and (ordered[0][1] != 0 or ends[-1] < ordered[-1][1]):
            raise HeaderError(f"the tensors do not fit the file of {len(self._view)} bytes", hint="copy it again")
        return {name: end - offset for (name, offset), end in zip(ordered, ends, strict=False)}

    def _tensor(self) -> tuple[str, int]:
        name = self._text()
        if (n_dimensions := self._number(_U32)) > MAX_DIMENSIONS:
            raise HeaderError(f"tensor {name!r} has {n_dimensions} dimensions")
        self._at += n_dimensions * _U64.size + _U32.size
        return name, self._number(_U64)

    def _value(self, kind: int) -> Value | None:
        """None for what is passed over."""
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array(self._number(_U32), self._number(_U64))
        return self._scalar(self._form(kind))

    def _array(self, kind: int, count: int) -> Value | None:
        if kind == _STRING:
            for _ in range(count):
                length = self._number(_U64)
                self._at += length
            return None
        if kind == _ARRAY:
            raise HeaderError("a setting is an array of arrays, which is not known")
        form = self._form(kind)
        if count <= MAX_KEPT:
            return tuple(self._scalar(form) for _ in range(count))
        self._at += count * form.size
        return None

    def _form(self, kind: int) -> struct.Struct:
        if kind not in _SCALARS:
            raise HeaderError(f"a setting of type {kind} is not known")
        return _SCALARS[kind]

    def _scalar(self, form: struct.Struct) -> int | float:
        (value,) = form.unpack_from(self._view, self._at)
        self._at += form.size
        number: int | float = value
        return number

    def _number(self, form: struct.Struct) -> int:
        return int(self._scalar(form))

    def _text(self) -> str:
        length = self._number(_U64)
        if length > len(self._view) - self._at:
            raise HeaderError(f"a string of {length} bytes is longer than the file")
        text = bytes(self._view[self._at : self._at + length]).decode()
        self._at += length
        return text
