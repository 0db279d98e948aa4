"""How many prompt tokens a step may hold beside decoding. Learns from what steps took; the times are given to it.

A step of decoding alone is what a running stream is used to. Beside it, prompts get what makes it take ``STEP_GROWTH``
longer; that is learned, as it depends on the model, the workers and how full the batch is. Where that is less than a
token, or so few that tokens would share no work, prompts get many tokens in a few steps and none in the others: so few
steps are long that a stream's 95th percentile knows nothing of them, and prompts take half of the time at most.

A long prompt gets no more than that. Short ones may also spend what was saved up: whoever waits for a first token is
then answered at once, and a stream pauses for a step or two, which a rush of short prompts cannot repeat at will.
"""

from __future__ import annotations

import math
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
PREFILL_STEPS = 3
BURSTS = 3
# How much short prompts may spend at once, in batches.
SAVED_BATCHES = 4
# With fewer tokens a step than these, bursts are better where a token of theirs costs less than half as much.
FEW_TOKENS = 8
# A burst comes after so many steps at the earliest and at the latest. What it took decides where between.
BURST_AFTER_STEPS = 32
BURST_WITHIN_STEPS = 128
# It may take this long, or half as long as the steps before it.
BURST_S = 0.5
# Between bursts few tokens are tried after so many steps: they may have become cheap.
TRY_AFTER_STEPS = 128


@dataclass(frozen=True, slots=True)
class Allowance:
    """Prompt tokens of one step: at most ``total``, of which long prompts get at most ``long``."""

    long: int
    total: int


class Pace:
    """One loaded model's. ``n_batch``: tokens a step; a prompt of more than that counts as long.

    ``n_piece``: batches of a multiple of so many tokens use the workers best.
    """

    def __init__(self, n_batch: int, n_piece: int) -> None:
        self._n_batch = n_batch
        self._n_piece = n_piece
        # By how many sequences decode.
        self._decode_s: dict[int, deque[float]] = {}
        self._share: dict[int, _Share] = {}
        self._bursts = _Bursts(n_piece)
        self._steps_since_look = 0
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
        due, saved = min(room, self._due(n_decoding)), self._saved
        if saved < self._n_piece and self._in_bursts(n_decoding):
            saved = 0
        return Allowance(due, min(room, max(due, saved)))

    def observe(self, n_decoding: int, n_prefilled: int, took_s: float) -> None:
        """A step is over. ``took_s``: decoding and sampling."""
        if n_decoding == 0:
            self._saved = self._saved_max
            self._bursts.over()
        elif n_prefilled == 0:
            self._decode_s.setdefault(n_decoding, deque(maxlen=DECODE_STEPS)).append(took_s)
            self._steps_since_look = 0
            self._bursts.waited(took_s)
            if self._saved < self._saved_max:
                self._saved = min(self._saved_max, self._saved + self._share_of(n_decoding).n_tokens)
        elif self._decode_s:
            self._steps_since_look += 1
            self._learn(n_decoding, n_prefilled, took_s)

    def prefilled(self, n_tokens: int, took_s: float) -> None:
        """So many tokens were prefilled while nobody decoded, at a time or in several steps."""
        if n_tokens >= self._n_piece:
            self._bursts.learn(took_s / n_tokens)

    def _learn(self, n_decoding: int, n_prefilled: int, took_s: float) -> None:
        due, alone_s = self._due(n_decoding), self._alone_s(n_decoding)
        self._saved = min(self._saved_max, max(0, self._saved + due - n_prefilled))
        token_s = max(0.0, took_s - alone_s) / n_prefilled
        share = self._share_of(n_decoding)
        if n_prefilled > share.n_tokens and self._in_bursts(n_decoding):
            self._bursts.had(n_prefilled, token_s, due if due > share.n_tokens else 0)
            return
        self._bursts.waited(took_s)
        if n_decoding in self._decode_s:
            self._share[n_decoding] = share
            if share.learn(n_prefilled, token_s, STEP_GROWTH * alone_s):
                self._bursts.tried()

    def _must_look(self, n_decoding: int) -> bool:
        if n_decoding in self._decode_s:
            return self._steps_since_look >= LOOK_AFTER_STEPS
        return not self._decode_s or self._steps_since_look >= LOOK_AGAIN_AFTER_STEPS

    def _due(self, n_decoding: int) -> int:
        share = self._share_of(n_decoding)
        if not self._in_bursts(n_decoding):
            return share.n_tokens
        if self._bursts.due:
            return max(share.n_tokens + 1, self._bursts.n_tokens(n_decoding, self._alone_s(n_decoding), share.token_s))
        return share.n_tokens if self._bursts.may_try else 0

    def _in_bursts(self, n_decoding: int) -> bool:
        share = self._share_of(n_decoding)
        return share.is_nothing or (share.n_tokens < FEW_TOKENS and self._bursts.cheaper_than(share.token_s / 2))

    def _share_of(self, n_decoding: int) -> _Share:
        if n_decoding not in self._share and self._share:
            nearest = min(self._share, key=lambda n: abs(n - n_decoding))
            return self._share[nearest].copy()
        return self._share.get(n_decoding) or _Share()

    def _alone_s(self, n_decoding: int) -> float:
        nearest = min(self._decode_s, key=lambda n: abs(n - n_decoding))
        return statistics.median(self._decode_s[nearest])


class _Share:
    """How many tokens make a step ``STEP_GROWTH`` longer: found by trying, from ``FIRST_TOKENS`` on."""

    def __init__(self) -> None:
        self._n = float(FIRST_TOKENS)
        self._tried_s: list[float] = []
        # What a token costs among so many; 0.0 before it is known.
        self.token_s = 0.0

    def copy(self) -> _Share:
        """To begin with where another number of sequences decode."""
        other = _Share()
        other._n, other.token_s = self._n, self.token_s
        return other

    @property
    def n_tokens(self) -> int:
        return max(1, int(self._n))

    @property
    def is_nothing(self) -> bool:
        """Whether one token alone is too long."""
        return self._n < 1.0

    def learn(self, n_tokens: int, token_s: float, extra_s: float) -> bool:
        """``n_tokens`` took ``token_s`` each, and may take ``extra_s`` together. False if too many or few to tell."""
        if not self.n_tokens <= 2 * n_tokens <= 4 * self.n_tokens:
            return False
        self._tried_s.append(token_s)
        if len(self._tried_s) == PREFILL_STEPS:
            self.token_s = statistics.median(self._tried_s)
            self._tried_s.clear()
            # Half way there, at most twice as many: one token more may cost nothing, or a whole kernel.
            n_most = 4 * self._n
            wanted = extra_s / self.token_s if self.token_s * n_most > extra_s else n_most
            self._n = math.sqrt(self._n * max(wanted, self._n / 4))
        return True


class _Bursts:
    """When the next burst is due, and of how many tokens. Streams are alone for as long as the last one took."""

    def __init__(self, n_piece: int) -> None:
        self._n_piece = n_piece
        self._token_s: deque[float] = deque(maxlen=BURSTS)
        self._n_last = n_piece
        self._owed_s = 0.0
        self._n_waited = BURST_AFTER_STEPS
        self._n_untried = 0

    @property
    def due(self) -> bool:
        return self._n_waited >= (BURST_AFTER_STEPS if self._owed_s <= 0.0 else BURST_WITHIN_STEPS)

    @property
    def may_try(self) -> bool:
        """Whether few tokens were not tried for long."""
        return self._n_untried >= TRY_AFTER_STEPS

    def cheaper_than(self, token_s: float) -> bool:
        return bool(self._token_s) and statistics.median(self._token_s) < token_s

    def n_tokens(self, n_decoding: int, alone_s: float, single_s: float) -> int:
        """Of the next one. ``single_s``: what a token costs without many others."""
        token_s = statistics.median(self._token_s) if self._token_s else single_s
        may_take_s, n_most = max(BURST_S, BURST_AFTER_STEPS * alone_s / 2), 2 * self._n_last
        n_tokens = n_most if token_s * n_most <= may_take_s else int(may_take_s / token_s)
        # Those that decode are in the batch too.
        n_rounded = round((n_tokens + n_decoding) / self._n_piece) * self._n_piece - n_decoding
        return n_rounded if n_rounded > 0 else n_tokens

    def waited(self, took_s: float) -> None:
        """A step without."""
        self._owed_s -= took_s
        self._n_waited += 1
        self._n_untried += 1

    def had(self, n_tokens: int, token_s: float, due: int) -> None:
        """A step with ``n_tokens`` of ``token_s`` each. One without a burst ``due`` had been saved up for."""
        self._owed_s = max(0.0, self._owed_s) + n_tokens * token_s
        self._n_untried += 1
        self._n_waited = 0 if due else self._n_waited + 1
        # The few tokens at a prompt's end share less.
        if due and 2 * n_tokens >= due:
            self.learn(token_s)
            self._n_last = n_tokens

    def learn(self, token_s: float) -> None:
        self._token_s.append(token_s)

    def tried(self) -> None:
        """Few tokens were."""
        self._n_untried = 0

    def over(self) -> None:
        """Nobody decodes any more."""
        self._owed_s = 0.0
        self._n_waited = BURST_AFTER_STEPS


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
