"""What engines saved of the open answers, kept for the engine after them, within a limit. It never looks inside.

It is what users asked, in another form. So it is in files that have no name, each is closed with its answer, and when
this process ends, by whatever, all of them are gone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec
import structlog

from rpcmesh.engine.messages import GenerateRequest, Piece, Restored, Saved, Snapshot

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Kept:
    """One answer's file. What the pieces of it take together is ``n_bytes``."""

    file: int
    fingerprint: str
    pieces: list[Piece]
    n_bytes: int = 0


def room(held: Mapping[str, int], request_id: str, n_bytes: int, limit: int) -> tuple[str, ...] | None:
    """Which answers give way to ``n_bytes`` more of one, or None where that one is not to grow any more.

    ``held`` are the bytes of each, in the order in which they began. The oldest goes first, as it has the least left to
    lose. None gives way to an older one, or two long answers would take turns, and both be saved for nothing.
    """
    total = sum(held.values()) + n_bytes
    give_way: list[str] = []
    for other, other_bytes in held.items():
        if total <= limit:
            break
        if other == request_id:
            return None
        give_way.append(other)
        total -= other_bytes
    return tuple(give_way) if total <= limit else None


class Snapshots:
    """The keeper of the engines' snapshots. ``on_restored`` is called when a later engine has made use of one."""

    def __init__(self, limit_bytes: int, on_restored: Callable[[], None]) -> None:
        self._limit = limit_bytes
        self._on_restored = on_restored
        self._open: set[str] = set()
        self._kept: dict[str, _Kept] = {}

    @property
    def n_bytes(self) -> int:
        return sum(kept.n_bytes for kept in self._kept.values())

    @contextlib.contextmanager
    def while_open(self, request_id: str) -> Iterator[None]:
        """What is saved of this answer is kept until the block is left."""
        self._open.add(request_id)
        try:
            yield
        finally:
            self._open.discard(request_id)
            self._drop(request_id)

    def beside(self, request: GenerateRequest) -> tuple[GenerateRequest, int | None]:
        """The request with what is kept of its answer, and the file of that."""
        kept = self._kept.get(request.id)
        if kept is None or not kept.pieces:
            return request, None
        snapshot = Snapshot(kept.fingerprint, tuple(kept.pieces))
        return msgspec.structs.replace(request, snapshot=snapshot), kept.file

    def saved(self, saved: Saved, file: int | None) -> tuple[str, ...]:
        """See :class:`rpcmesh.engine.client.Keeper`."""
        if file is not None:
            self._drop(saved.id)
            if saved.id not in self._open:
                os.close(file)  # the answer ended while its first piece was saved
                return ()
            self._kept[saved.id] = _Kept(file, saved.fingerprint, [])
        kept = self._kept.get(saved.id)
        if kept is None:
            return ()
        held = {request_id: each.n_bytes for request_id, each in self._kept.items()}
        give_way = room(held, saved.id, saved.piece.n_bytes, self._limit)
        if give_way is None:
            log.info("snapshot_full", limit_mib=self._limit >> 20, kept_bytes=kept.n_bytes)
            if not kept.pieces:
                self._drop(saved.id)
            return (saved.id,)
        for request_id in give_way:
            self._drop(request_id)
        kept.pieces.append(saved.piece)
        kept.n_bytes += saved.piece.n_bytes
        return give_way

    def restored(self, restored: Restored) -> None:
        """See :class:`rpcmesh.engine.client.Keeper`."""
        if restored.n_tokens:
            log.info("snapshot_restored", tokens=restored.n_tokens, seconds=round(restored.seconds, 3))
            self._on_restored()
        else:
            log.warning("snapshot_refused", hint="the prompt is prefilled again")

    def _drop(self, request_id: str) -> None:
        kept = self._kept.pop(request_id, None)
        if kept is not None:
            os.close(kept.file)
