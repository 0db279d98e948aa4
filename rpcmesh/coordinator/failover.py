"""What happened when an engine was lost and another took its place, step by step. No I/O and no clock."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Stage(StrEnum):
    """In the order in which they come. A loss that finds no open answer has no last one.

    Prefill has no stage of its own: the first new token is sampled from the logits of the prefill's last token. It is
    short where a snapshot came before it; without one there is no such stage.
    """

    PLANNED = "planned"
    STARTED = "engine_started"
    LOADED = "loaded"
    RESTORED = "restored"
    RESUMED = "first_new_token"


class Failover(msgspec.Struct, frozen=True):
    """``at`` is the Unix time at which the loss was noticed; ``stages`` are seconds since then.

    ``answers`` were open. ``silence_s`` is how long none of them had got a token by then, 0 without any.
    """

    at: float
    reason: str
    answers: int
    silence_s: float
    stages: dict[str, float] = {}

    def reached(self, stage: Stage, after_s: float) -> Failover:
        """With ``stage`` reached after ``after_s`` seconds."""
        return msgspec.structs.replace(self, stages={**self.stages, stage.value: round(after_s, 4)})


class Tally(msgspec.Struct, frozen=True):
    """How often a stage was reached since the start, and the seconds of all times together."""

    count: int = 0
    seconds: float = 0.0

    def plus(self, seconds: float) -> Tally:
        return Tally(self.count + 1, self.seconds + seconds)
