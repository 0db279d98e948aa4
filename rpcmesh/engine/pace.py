"""How many prompt tokens a step may hold beside decoding. Learns from what steps took; the times are given to it.

A step of decoding alone is what a running stream is used to. Beside it, prompts get what makes it take ``STEP_GROWTH``
longer; that is learned, as it depends on the model, the workers and how full the batch is. A long prompt gets no more
than that. Short ones may also spend what was saved up: whoever waits for a first token is then answered at once, and
a stream pauses for a step or two, which a rush of short prompts cannot repeat at will.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

# Twice a decoding step is what a stream may feel; the rest is for the machine's own noise.
STEP_GROWTH = 0.7
# Before anything is known.
FIRST_TOKENS = 8
# What decoding alone takes is looked at after so many steps with prompts in them, by a step without: contexts grow,
# machines get busy. With another number of sequences it is looked at sooner.
LOOK_AFTER_STEPS = 64
LOOK_AGAIN_AFTER_STEPS = 4
# Medians of so many steps: one that the machine was late with changes nothing.
DECODE_STEPS = 7
PREFILL_STEPS = 15
# How much short prompts may spend at once, in batches.
SAVED_BATCHES = 4


@dataclass(frozen=True, slots=True)
class Allowance:
    """Prompt tokens of one step: at most ``total``, of which long prompts get at most ``long``."""

    long: int
    total: int


class Pace:
    """One loaded model's. ``n_batch``: tokens a step; a prompt of more than that counts as long."""

    def __init__(self, n_batch: int) -> None:
        self._n_batch = n_batch
        # By how many sequences decode.
        self._decode_s: dict[int, deque[float]] = {}
        self._steps_since_look = 0
        # Each prompt token of a step, beside decoding.
        self._prefill_s: deque[float] = deque(maxlen=PREFILL_STEPS)
        self._n_tried = FIRST_TOKENS
        self._saved = self._saved_max = SAVED_BATCHES * n_batch

    def is_long(self, n_tokens: int) -> bool:
        """Whether a prompt with so many tokens to prefill would be felt by the streams beside it."""
        return n_tokens > self._n_batch

    def allowance(self, n_decoding: int) -> Allowance:
        """For a step in which ``n_decoding`` sequences decode. With none, there is nobody to be slowed down."""
        room = self._n_batch - n_decoding
        if n_decoding == 0:
            return Allowance(room, room)
        if self._must_look(n_decoding):
            return Allowance(0, 0)
        fair = min(room, self._fair(n_decoding))
        return Allowance(fair, min(room, max(fair, self._saved)))

    def observe(self, n_decoding: int, n_prefilled: int, took_s: float) -> None:
        """A step is over. ``took_s``: decoding and sampling."""
        if n_decoding == 0:
            self._saved = self._saved_max
        elif n_prefilled == 0:
            self._decode_s.setdefault(n_decoding, deque(maxlen=DECODE_STEPS)).append(took_s)
            self._steps_since_look = 0
            if self._saved < self._saved_max:
                self._saved = min(self._saved_max, self._saved + self._fair(n_decoding))
        elif self._decode_s:
            fair = self._fair(n_decoding)
            self._saved = min(self._saved_max, max(0, self._saved + fair - n_prefilled))
            self._steps_since_look += 1
            # A token of a full batch costs something else than one of a few.
            if n_decoding in self._decode_s and n_prefilled <= 2 * fair:
                self._prefill_s.append(max(0.0, took_s - self._alone_s(n_decoding)) / n_prefilled)
                self._n_tried = n_prefilled

    def _must_look(self, n_decoding: int) -> bool:
        if n_decoding in self._decode_s:
            return self._steps_since_look >= LOOK_AFTER_STEPS
        return not self._decode_s or self._steps_since_look >= LOOK_AGAIN_AFTER_STEPS

    def _fair(self, n_decoding: int) -> int:
        """How many tokens make a step ``STEP_GROWTH`` longer, at least one: it is like one more that decodes."""
        # Not more than twice what was tried: what is learned from few tokens need not hold for many.
        n_most = 2 * self._n_tried
        if not self._prefill_s:
            return self._n_tried
        token_s = statistics.median(self._prefill_s)
        extra_s = STEP_GROWTH * self._alone_s(n_decoding)
        return n_most if token_s * n_most <= extra_s else max(1, int(extra_s / token_s))

    def _alone_s(self, n_decoding: int) -> float:
        nearest = min(self._decode_s, key=lambda n: abs(n - n_decoding))
        return statistics.median(self._decode_s[nearest])


def share_out(wanted: Sequence[int], long: Sequence[bool], allowance: Allowance) -> list[int]:
    """How many of the ``wanted`` prompt tokens of each prompt are prefilled now; they are in order of arrival.

    The one that came first gets a quarter for certain, so that none is passed by for ever. The rest goes to those that
    have the least left: then most wait least.
    """
    shares = [0] * len(wanted)
    if not wanted:
        return shares
    left_long, left = allowance.long, allowance.total
    first = (0, ((allowance.long if long[0] else allowance.total) + 3) // 4)
    shortest = ((index, wanted[index]) for index in sorted(range(len(wanted)), key=lambda index: wanted[index]))
    for index, n_most in (first, *shortest):
        n_tokens = min(n_most, wanted[index] - shares[index], left, left_long if long[index] else left)
        shares[index] += n_tokens
        left -= n_tokens
        left_long -= n_tokens if long[index] else 0
    return shares
