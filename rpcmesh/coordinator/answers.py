"""The answers that are open, when one last got anything, and the failover that they wait through. Starts no engine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import structlog

from rpcmesh.coordinator.failover import Failover, Stage
from rpcmesh.coordinator.moves import Ended

log = structlog.get_logger(__name__)


class Answers:
    """``on_stage`` gets the failover under way whenever it reaches a stage. ``clock`` counts seconds."""

    def __init__(self, on_stage: Callable[[Failover], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._on_stage = on_stage
        self._clock = clock
        self._n_open = 0
        self._idle_since = 0.0
        self._last_token_at = 0.0
        self._lost_at = 0.0
        self._failover: Failover | None = None

    @property
    def n_open(self) -> int:
        return self._n_open

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        """One answer is open until the block is left."""
        self._n_open += 1
        try:
            yield
        finally:
            self._n_open -= 1
            self._idle_since = self._clock()
            if not self._n_open and self._failover is not None and Stage.LOADED in self._failover.stages:
                self._failover = None  # nobody is left who could get a first new token

    def idle_s(self, since: float) -> float:
        """For how long nobody has asked, counted from ``since`` at the earliest. 0 while an answer is open."""
        return 0.0 if self._n_open else self._clock() - max(since, self._idle_since)

    def served_since(self, at: float) -> bool:
        """Whether an answer has got a token, or vectors, after ``at``."""
        return self._last_token_at > at

    def took(self) -> None:
        """One of them got a token, or its vectors."""
        self._last_token_at = self._clock()
        self.reached(Stage.RESUMED)

    def begin_failover(self, ended: Ended) -> None:
        """Of a planned end only open answers feel anything."""
        now = self._clock()
        self._lost_at = now
        silence_s = now - self._last_token_at if self._n_open else 0.0
        felt = self._n_open or not ended.planned
        self._failover = Failover(time.time(), ended.reason, self._n_open, silence_s) if felt else None

    def reached(self, stage: Stage) -> None:
        """Note a step of the failover that is under way, if one is. A load that failed as well repeats steps."""
        if self._failover is None or stage in self._failover.stages:
            return
        if stage is Stage.RESUMED and Stage.LOADED not in self._failover.stages:
            return  # what the lost engine had sent and nobody had read yet
        after_s = self._clock() - self._lost_at
        self._failover = self._failover.reached(stage, after_s)
        self._on_stage(self._failover)
        log.info("failover", stage=stage.value, after_s=round(after_s, 3), answers=self._failover.answers)
        waiting = self._failover.answers and self._n_open
        if stage is Stage.RESUMED or (stage is Stage.LOADED and not waiting):
            self._failover = None

    def give_up(self) -> None:
        """No engine will come."""
        self._failover = None
