"""Saves the KV cells of long sequences into nameless files, and puts them back. When is decided in ``snapshots.py``.

What is in these files is what users have asked, in another form: they are never logged, named or copied.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rpcmesh.engine.file_wire import nameless_file
from rpcmesh.engine.llama import Cells, LoadError, StateError
from rpcmesh.engine.llama.snapshot import Bytes
from rpcmesh.engine.messages import LoadSpec, Piece, Restored, Saved, Snapshot
from rpcmesh.engine.scheduler import Cached
from rpcmesh.engine.snapshots import Rate, next_piece, unusable, worth

DIGEST_BYTES = 16


@dataclass(slots=True)
class _Kept:
    """A sequence's file, what of it is written, and what of that is still to be put back."""

    file: int
    n_bytes: int = 0
    n_saved: int = 0
    to_restore: tuple[Piece, ...] = ()
    restore_s: float = 0.0


class Saving:
    """``hand_over`` gives a new file to the owner. Nothing happens unless the spec asks for it.

    Raises :class:`LoadError` when there is no place for such files.
    """

    def __init__(
        self,
        spec: LoadSpec,
        cells: Cells,
        n_params: int,
        hand_over: Callable[[str, int], None],
        log: Callable[[str], None],
    ) -> None:
        self._spec = spec
        self._cells = cells
        self._hand_over = hand_over
        self._log = log
        self._fingerprint = _fingerprint(spec, n_params)
        self._kept: dict[str, _Kept] = {}
        self._stopped: set[str] = set()
        self._prefill = Rate()
        self._saved = Rate()
        if spec.snapshot_min_tokens:
            _require_place(spec.snapshot_dir)

    def prefilled(self, n_tokens: int, seconds: float) -> None:
        """Note how fast this engine prefills: saving must beat it."""
        self._prefill = self._prefill.plus(n_tokens, seconds)

    def save_next(self, sequences: Iterable[Cached]) -> Saved | None:
        """Save the next piece that is due, of the first sequence that has one."""
        if not self._spec.snapshot_min_tokens:
            return None
        for sequence in sequences:
            if sequence.id in self._stopped:
                continue
            kept = self._kept.get(sequence.id)
            n_saved = kept.n_saved if kept else 0
            due = next_piece(
                n_saved=n_saved,
                n_cached=sequence.n_cached,
                n_prompt=sequence.n_prompt,
                min_tokens=self._spec.snapshot_min_tokens,
                whole=self._cells.whole,
            )
            # The first piece of each is saved to learn what it costs now.
            if due and (n_saved == 0 or worth(due[1], self._prefill, self._saved)):
                return self._save(sequence, *due)
        return None

    def accept(self, request_id: str, snapshot: Snapshot, file: int, n_tokens: int) -> bool:
        """Keep a copy of ``file``. False when it is of no use to a sequence that begins with so many tokens."""
        try:
            reason = unusable(snapshot.pieces, n_tokens, os.fstat(file).st_size)
            if snapshot.fingerprint != self._fingerprint:
                reason = "it is of another model"
            if reason is None:
                last = snapshot.pieces[-1]
                self._kept[request_id] = _Kept(os.dup(file), last.offset + last.n_bytes, last.stop, snapshot.pieces)
        except OSError as error:  # no descriptor is left, for one: the others' answers go on
            reason = error.strerror or "its file cannot be read"
        if reason is not None:
            self._log(f"snapshot not restored: {reason}")
        return reason is None

    def restore_next(self, slot_of: Callable[[str], int | None]) -> Restored | None:
        """Put back one piece of the first sequence that has a slot; an answer once all of its are done.

        After one with 0 tokens the slot is still to be cleared.
        """
        for request_id, kept in self._kept.items():
            slot = slot_of(request_id)
            if slot is None or not kept.to_restore:
                continue
            piece, *rest = kept.to_restore
            began = time.monotonic()
            try:
                self._cells.restore(slot, piece.start, piece.stop, _read(kept.file, piece))
            except (OSError, StateError) as error:
                self._log(f"snapshot not restored: {error}")
                self.forget(request_id)
                return Restored(request_id, 0, kept.restore_s)
            kept.to_restore = tuple(rest)
            kept.restore_s += time.monotonic() - began
            if rest:
                return None
            if request_id in self._stopped:
                self.stop(request_id)
            return Restored(request_id, piece.stop, kept.restore_s)
        return None

    def stop(self, request_id: str) -> None:
        """Save nothing more of an open request. What it is still to get back, it gets."""
        kept = self._kept.get(request_id)
        if kept is None or not kept.to_restore:
            self.forget(request_id)
        self._stopped.add(request_id)

    def forget(self, request_id: str) -> None:
        """Close the file of a request, if it has one."""
        self._stopped.discard(request_id)
        kept = self._kept.pop(request_id, None)
        if kept is not None:
            os.close(kept.file)

    def _save(self, sequence: Cached, start: int, stop: int) -> Saved | None:
        began = time.monotonic()
        kept = self._kept.get(sequence.id)
        try:
            state = self._cells.save(sequence.slot, start, stop)
            piece = Piece(start, stop, kept.n_bytes if kept else 0, len(state), _digest(state))
            if piece.offset + piece.n_bytes > self._spec.snapshot_bytes:
                raise StateError(f"{piece.n_bytes} bytes more are beyond the limit of {self._spec.snapshot_bytes}")
            if kept is None:
                kept = self._kept[sequence.id] = _Kept(nameless_file(self._spec.snapshot_dir))
            _write(kept.file, state, piece.offset)
        except (OSError, StateError) as error:
            # What there is already is a beginning, and of use.
            self._log(f"snapshot not saved: {error}")
            if start == 0:
                self.forget(sequence.id)
            self._stopped.add(sequence.id)
            return None
        if start == 0:
            # Not before: the owner takes the file when it hears of the piece.
            self._hand_over(sequence.id, kept.file)
        kept.n_bytes += piece.n_bytes
        kept.n_saved = stop
        seconds = time.monotonic() - began
        self._saved = self._saved.plus(stop - start, seconds)
        return Saved(sequence.id, self._fingerprint, piece, seconds)


def _fingerprint(spec: LoadSpec, n_params: int) -> str:
    """Differs for another model. What else must fit (KV types, layers, row sizes), llama.cpp checks itself."""
    found = Path(spec.model_path).stat()
    told = f"{spec.model_path}\0{found.st_size}\0{found.st_mtime_ns}\0{n_params}"
    return hashlib.blake2b(told.encode(), digest_size=DIGEST_BYTES).hexdigest()


def _require_place(folder: str) -> None:
    """Found out now, and not in the middle of a long answer."""
    try:
        os.close(nameless_file(folder))
    except OSError as error:
        raise LoadError(f"nothing can be saved in snapshot_dir {folder!r}: {error.strerror}") from error


def _digest(state: Bytes) -> bytes:
    return hashlib.blake2b(state.data, digest_size=DIGEST_BYTES).digest()


def _write(file: int, state: Bytes, offset: int) -> None:
    left = state.data
    while left:
        written = os.pwrite(file, left, offset)
        left, offset = left[written:], offset + written


def _read(file: int, piece: Piece) -> Bytes:
    """Raises OSError, and :class:`StateError` for bytes that are not those that were saved."""
    read = b""
    while len(read) < piece.n_bytes and (more := os.pread(file, piece.n_bytes - len(read), piece.offset + len(read))):
        read += more
    state: Bytes = np.frombuffer(read, np.uint8)
    if len(state) < piece.n_bytes or _digest(state) != piece.digest:
        raise StateError(f"tokens {piece.start} to {piece.stop} are not what was saved of them")
    return state
