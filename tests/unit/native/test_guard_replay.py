"""Recorded sessions of real clients pass the guard unchanged, however their bytes arrive; spoilt ones do not."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from native_objects import SANITIZERS, built, run
from recordings import recording
from recordings.recording import Command, Entry, Kind

RECORDINGS = sorted((Path(__file__).parents[2] / "recordings").glob(f"*{recording.SUFFIX}"))
REPLAY_LIMIT_S = 600

# Of rpc_tensor: bytes, and where its fields are.
TENSOR_BYTES, NE, NB, OP, PARAMS, DATA = 296, 20, 36, 52, 56, 220
ADD, RMS_NORM, MUL_MAT, GET_ROWS, SET_ROWS, SOFT_MAX, ROPE, FLASH_ATTN_EXT = 2, 25, 29, 40, 42, 46, 48, 74
NAN = 0x7FC00000


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_every_recorded_session_passes_unchanged(sanitizer: str, llama_source: Path, tmp_path: Path) -> None:
    for path in RECORDINGS:
        (tmp_path / path.stem).write_bytes(recording.load(path))

    with built(sanitizer, llama_source, tmp_path) as objects:
        files = [str(tmp_path / path.stem) for path in RECORDINGS]
        shown = run([str(objects / "bin" / "guard_replay"), *files], REPLAY_LIMIT_S)

    counted = re.fullmatch(r"(\d+) sessions, (\d+) frames, (\d+) graphs, 0 failures\n", shown)
    assert counted, shown
    # Fewer would mean that recordings were lost.
    assert int(counted[3]) > 500


class Spoilt(NamedTuple):
    """One u32 of the first node with ``op`` of a recording, and the guard's word for it."""

    name: str
    op: int
    field: int
    value: int
    refusal: str


SPOILT = (
    Spoilt("rope_more_dimensions_than_there_are", ROPE, PARAMS + 4, 1 << 20, "op_parameter"),
    Spoilt("rope_odd_dimensions", ROPE, PARAMS + 4, 3, "op_parameter"),
    Spoilt("norm_by_nothing", RMS_NORM, PARAMS, NAN, "op_parameter"),
    Spoilt("product_of_other_length", MUL_MAT, NE + 4, 2, "op_shape"),
    Spoilt("product_with_a_gap", MUL_MAT, NB, 8, "op_shape"),
    Spoilt("sum_of_other_length", ADD, NE, 32, "op_shape"),
    Spoilt("rows_of_other_length", GET_ROWS, NE, 32, "op_shape"),
    Spoilt("another_op", ADD, OP, MUL_MAT, "op_shape"),
    Spoilt("code_by_pointer", ADD, OP, 95, "op_forbidden"),
    Spoilt("outside_its_buffer", ADD, DATA + 4, 0x7FFF, "tensor_bounds"),
)


@pytest.mark.parametrize("spoilt", SPOILT, ids=[row.name for row in SPOILT])
def test_a_recording_with_one_number_changed_is_refused(spoilt: Spoilt, llama_source: Path, tmp_path: Path) -> None:
    path = tmp_path / "spoilt.rec"
    entries = recording.parse(recording.load(next(one for one in RECORDINGS if one.name.startswith("llama."))))
    path.write_bytes(recording.dump(spoil(entries, spoilt)))

    with built("", llama_source, tmp_path) as objects:
        done = subprocess.run(
            [objects / "bin" / "guard_replay", path],
            capture_output=True,
            text=True,
            timeout=REPLAY_LIMIT_S,
            check=False,
        )

    assert done.returncode == 1
    assert f"GRAPH_COMPUTE: refused: {spoilt.refusal} " in done.stderr


def test_a_worker_that_answers_something_else_is_seen(llama_source: Path, tmp_path: Path) -> None:
    """A replay that compared nothing would pass everything."""
    path = tmp_path / "spoilt.rec"
    other_protocol = (
        entry._replace(kept=b"\x06" + entry.kept[1:])
        if (entry.kind, entry.command) == (Kind.REPLY, Command.HELLO)
        else entry
        for entry in recording.parse(recording.load(RECORDINGS[0]))
    )
    path.write_bytes(recording.dump(other_protocol))

    with built("", llama_source, tmp_path) as objects:
        done = subprocess.run(
            [objects / "bin" / "guard_replay", path],
            capture_output=True,
            text=True,
            timeout=REPLAY_LIMIT_S,
            check=False,
        )

    assert done.returncode == 1
    assert "HELLO: refused: reply_invalid " in done.stderr


def spoil(entries: Iterator[Entry], spoilt: Spoilt) -> Iterator[Entry]:
    done = False
    for entry in entries:
        at = None
        if not done and entry.kind is Kind.REQUEST and entry.command == Command.GRAPH_COMPUTE:
            at = first_tensor(entry.kept, spoilt.op)
        if at is None:
            yield entry
            continue
        done = True
        graph = bytearray(entry.kept)
        struct.pack_into("<I", graph, at + spoilt.field, spoilt.value)
        yield entry._replace(kept=bytes(graph))
    assert done, f"no graph has an op {spoilt.op}"


def first_tensor(graph: bytes, op: int) -> int | None:
    """Where the first tensor with ``op`` begins."""
    begin = 12 + 8 * int.from_bytes(graph[4:8], "little")
    places = range(begin, len(graph), TENSOR_BYTES)
    return next((at for at in places if graph[at + OP : at + OP + 4] == op.to_bytes(4, "little")), None)
