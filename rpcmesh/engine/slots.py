"""Which slot holds which tokens, and where a prompt's beginning is to be had. Pure: llama.cpp is told elsewhere.

A slot keeps its cells when its sequence has ended. Another prompt that begins alike keeps them, or takes them from
whichever slot has them: all slots share one buffer, so a copy adds a name to cells and takes none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

# A prompt that begins like another for fewer tokens shares no more than its chat template.
SHARED_TOKENS = 64
# How many that were forgotten are remembered, as tokens without cells.
GHOSTS = 16


@dataclass(slots=True)
class _Slot:
    # The tokens whose cells are there, at the positions from 0 on, and the cell of each: equal numbers, one cell.
    tokens: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    owner: str | None = None
    # When it was given up, in releases.
    released: int = 0


class Slots:
    """``idle_tokens_max``: how many cells may be kept that no running sequence needs. Without ``reuse``, none are.

    How much of it is used is learned: idle cells slow every step down, so where nobody comes back they make room, and
    a prompt that begins like one of those just forgotten shows that more would have paid.
    """

    def __init__(self, n_slots: int, *, idle_tokens_max: int, reuse: bool) -> None:
        self._slots = [_Slot() for _ in range(n_slots)]
        self._idle_tokens_max = idle_tokens_max if reuse else 0
        self._idle_tokens = self._idle_tokens_max
        self._forgotten: deque[list[int]] = deque(maxlen=GHOSTS)
        self._reuse = reuse
        self._n_cells = 0
        self._n_releases = 0
        # Whether more may be idle than when it was last looked at.
        self._unbounded = False

    @property
    def any_free(self) -> bool:
        return any(slot.owner is None for slot in self._slots)

    def take(self, owner: str, tokens: Sequence[int]) -> int:
        """A free slot for ``tokens``; what it holds is still there, for others too, until :meth:`begin`.

        The one that holds most of their beginning, if that is at least half of what it holds: a conversation that goes
        on. Else the one given up longest ago, an empty one first; the beginning is then copied.
        """
        free = [index for index, slot in enumerate(self._slots) if slot.owner is None]
        chosen = max(free, key=lambda index: self._common(index, tokens))
        if 2 * self._common(chosen, tokens) < max(1, len(self._slots[chosen].tokens)):
            chosen = min(free, key=lambda index: (bool(self._slots[index].tokens), self._slots[index].released))
        self._slots[chosen].owner = owner
        return chosen

    def longest(self, slot: int, tokens: Sequence[int]) -> tuple[int, int]:
        """``(source, n)``: where most of the beginning of ``tokens`` lies, ``slot`` itself if it is as good, and its
        length. The last token is never part of it: its logits are needed."""
        source = max(range(len(self._slots)), key=lambda index: (self._common(index, tokens), index == slot))
        return source, min(self._common(source, tokens), len(tokens) - 1)

    def begin(self, slot: int, source: int, n_tokens: int) -> None:
        """From here on ``slot`` holds the first ``n_tokens`` of ``source``, and nothing else."""
        self._unbounded = True
        taken = self._slots[source]
        self._slots[slot].tokens, self._slots[slot].cells = taken.tokens[:n_tokens], taken.cells[:n_tokens]

    def learn(self, tokens: Sequence[int], n_reused: int) -> None:
        """A prompt begins, of which ``n_reused`` tokens were there."""
        n_missed = max((common_prefix(each, tokens) for each in self._forgotten), default=0)
        if max(n_reused, n_missed) < SHARED_TOKENS:
            self._idle_tokens -= self._idle_tokens // 8
        else:
            self._idle_tokens = min(2 * max(self._idle_tokens, n_missed), self._idle_tokens_max)

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        """``tokens`` were decoded behind what the slot holds."""
        held = self._slots[slot]
        held.tokens += tokens
        held.cells += range(self._n_cells, self._n_cells + len(tokens))
        self._n_cells += len(tokens)

    def release(self, slot: int) -> None:
        """The slot is free; its cells stay."""
        self._unbounded = True
        self._n_releases += 1
        self._slots[slot].owner, self._slots[slot].released = None, self._n_releases

    def forget(self, slot: int) -> None:
        """The slot holds nothing any more."""
        self.begin(slot, slot, 0)

    def evict(self) -> Iterator[int]:
        """Free slots to be forgotten, the one given up longest ago first, until no more is idle than may be."""
        while self._unbounded and self.n_idle > self._idle_tokens:
            idle = (index for index, slot in enumerate(self._slots) if slot.owner is None and slot.tokens)
            oldest = min(idle, key=lambda index: self._slots[index].released)
            self._forgotten.append(self._slots[oldest].tokens)
            self.forget(oldest)
            yield oldest
        self._unbounded = False

    @property
    def n_idle(self) -> int:
        """Cells that only free slots hold."""
        idle: set[int] = set()
        for slot in self._slots:
            if slot.owner is None:
                idle.update(slot.cells)
        if idle:
            for slot in self._slots:
                if slot.owner is not None:
                    idle.difference_update(slot.cells)
        return len(idle)

    @property
    def n_used(self) -> int:
        """Cells that any slot holds."""
        return len({cell for slot in self._slots for cell in slot.cells})

    def _common(self, index: int, tokens: Sequence[int]) -> int:
        return common_prefix(self._slots[index].tokens, tokens) if self._reuse else 0


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two lists begin with alike. By halves: comparing slices is far quicker than token by token."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
