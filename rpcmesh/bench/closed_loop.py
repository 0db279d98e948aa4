"""What N clients ask in one turn, and what their answers amount to. Nobody is asked here."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import msgspec

from rpcmesh.bench.rounds import percentile
from rpcmesh.bench.streams import Told

# Each client's answers have as many tokens together as this many whole ones.
ANSWERS = 2
PROMPT_WORDS = (12, 60)
WORDS = (
    *("anchor", "autumn", "bridge", "candle", "castle", "copper", "desert", "engine", "famous", "garden", "harbour"),
    *("island", "journey", "kitchen", "lantern", "marble", "narrow", "ocean", "painter", "quiet", "river", "silver"),
    *("thunder", "umbrella", "village", "winter", "yellow", "zebra"),
)


class Question(msgspec.Struct, frozen=True):
    prompt: str
    max_tokens: int


class Turn(msgspec.Struct, frozen=True):
    """One side's turn. ``first_s`` has each answer's time to its first token, ``between_s`` each gap after that.

    ``clients_cpu`` and ``idle_cpu`` are processor seconds a second that the clients, and the side that was not asked,
    took meanwhile: both should be far from 1.
    """

    tokens_per_s: float
    first_s: tuple[float, ...]
    between_s: tuple[float, ...]
    clients_cpu: float = 0.0
    idle_cpu: float = 0.0


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds, over all answers of all turns."""

    first_p50_ms: float
    first_p95_ms: float
    between_p50_ms: float
    between_p95_ms: float


def questions(turn: int, client: int, clients: int, tokens: int) -> tuple[Question, ...]:
    """What one client asks in one turn, one after the other: ``ANSWERS * tokens`` tokens in all.

    The first answer is cut short by another length for each client and the last makes up for it, so that after the
    beginning requests come one at a time, as they come to a service, and all clients have equally much to do. No two
    prompts of a run begin alike: a cache of prompts has nothing to give.
    """
    chance = random.Random(f"{clients}/{turn}/{client}")  # noqa: S311 (repeatable on purpose)
    first = tokens * (client + 1) // clients
    lengths = [first, *[tokens] * (ANSWERS - 1), tokens - first]
    return tuple(
        Question(" ".join(chance.choices(WORDS, k=chance.randint(*PROMPT_WORDS))), length)
        for length in lengths
        if length
    )


def outcome(told: Sequence[Told], clients_cpu: float, idle_cpu: float) -> Turn:
    """``told`` are whole answers, at least one."""
    began, ended = min(answer.began for answer in told), max(answer.ended for answer in told)
    return Turn(
        tokens_per_s=sum(answer.counted or 0 for answer in told) / (ended - began),
        first_s=tuple(answer.arrivals[0] - answer.began for answer in told if answer.arrivals),
        between_s=tuple(later - earlier for answer in told for earlier, later in itertools.pairwise(answer.arrivals)),
        clients_cpu=clients_cpu,
        idle_cpu=idle_cpu,
    )


def latency(turns: Sequence[Turn]) -> Latency:
    first = sorted(each for turn in turns for each in turn.first_s)
    between = sorted(each for turn in turns for each in turn.between_s)
    return Latency(
        first_p50_ms=percentile(first, 0.5) * 1000,
        first_p95_ms=percentile(first, 0.95) * 1000,
        between_p50_ms=percentile(between, 0.5) * 1000,
        between_p95_ms=percentile(between, 0.95) * 1000,
    )
