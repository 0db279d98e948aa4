"""When a sequence's KV cells are saved, in which pieces, and whether it pays. No I/O, no clock, no llama.cpp.

Saving takes the engine from all streams for a moment, so it goes piece by piece, at most one after each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rpcmesh.engine.messages import Piece

# A whole prefill step is four times as long and more. Each piece costs one question a layer for the keys and one for
# the values, so much smaller ones would mostly wait for answers.
PIECE_TOKENS = 128
# Saving must be so many times faster than prefilling: every long prompt pays it, and few lose their engine. With it a
# piece halts the other streams for less than a tenth of what a prefill step of 512 tokens does.
PAYS_FROM = 4.0
# What is won by restoring less than this is not felt.
GAIN_MIN_S = 0.05
# Rates follow a change of the links or of the load within so many tokens.
RATE_MEMORY_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens and the seconds that they took together."""

    tokens: float = 0.0
    seconds: float = 0.0

    def plus(self, tokens: int, seconds: float) -> Rate:
        kept = 0.5 if self.tokens > RATE_MEMORY_TOKENS else 1.0
        return Rate(kept * self.tokens + tokens, kept * self.seconds + seconds)

    def time_of(self, n_tokens: int) -> float | None:
        """Seconds for ``n_tokens``; None before anything was measured."""
        return n_tokens * self.seconds / self.tokens if self.tokens else None


def worth(n_tokens: int, prefill: Rate, saving: Rate) -> bool:
    """Whether to have ``n_tokens`` saved beats prefilling them again. What was never measured is tried.

    Restoring is taken to be as fast as saving: the same bytes go the other way.
    """
    prefill_s, saving_s = prefill.time_of(n_tokens), saving.time_of(n_tokens)
    if prefill_s is None or saving_s is None:
        return True
    return prefill_s >= PAYS_FROM * saving_s and prefill_s - saving_s >= GAIN_MIN_S


def next_piece(*, n_saved: int, n_cached: int, n_prompt: int, min_tokens: int, whole: bool) -> tuple[int, int] | None:
    """``(start, stop)`` of the tokens to save next, None for nothing.

    The rest of a prompt is saved as soon as it is there, what is generated behind it only in full pieces: a loss then
    costs a prefill of about a piece. With ``whole`` the state cannot be cut, and is saved once, behind the prompt.
    """
    if n_cached < max(min_tokens, n_prompt, n_saved + 1):
        return None
    if whole:
        return (0, n_cached) if n_saved == 0 else None
    stop = min(n_saved + PIECE_TOKENS, n_cached)
    if stop - n_saved < PIECE_TOKENS and n_saved >= n_prompt:
        return None
    return n_saved, stop


def unusable(pieces: Sequence[Piece], n_tokens: int, n_bytes: int) -> str | None:
    """Why these pieces, of a file of ``n_bytes``, cannot begin a sequence of ``n_tokens``; None when they can.

    The last token has to be decoded. It always is: a piece is announced behind the token that was sampled from it.
    """
    n_restored = 0
    for piece in pieces:
        if piece.start != n_restored or piece.stop <= piece.start:
            return f"tokens {piece.start} to {piece.stop} do not follow {n_restored}"
        if piece.offset < 0 or piece.n_bytes < 1 or piece.offset + piece.n_bytes > n_bytes:
            return f"{piece.n_bytes} bytes at {piece.offset} are not in a file of {n_bytes}"
        n_restored = piece.stop
    if not 0 < n_restored < n_tokens:
        return f"{n_restored} tokens do not begin a sequence of {n_tokens}"
    return None


class PrefillWatch:
    """Times prefills from outside. A step without logits only asks for work; the next one with logits waits for it."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._tokens = 0

    def took(self, *, n_prefill: int, logits: bool, began: float, ended: float) -> tuple[int, float] | None:
        """``(tokens, seconds)`` once a run of prefill is known to be done."""
        self._tokens += n_prefill
        since = began if self._since is None else self._since
        if not logits:
            self._since = since
            return None
        tokens, self._tokens, self._since = self._tokens, 0, None
        return (tokens, ended - since) if tokens else None
