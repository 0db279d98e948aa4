"""Texts wait for their vectors: which of them make up the next batch. No llama.cpp, no socket.

An embedding model holds nothing between two batches, so this is all the scheduling that it needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rpcmesh.engine.messages import Embedded, Failure, Step
from rpcmesh.engine.scheduler import Limits
from rpcmesh.errors import RpcmeshError

Tokens = Sequence[int]


@dataclass(slots=True)
class _Job:
    id: str
    waiting: deque[Tokens]


class Embedding:
    """``embed`` gives one vector for each of the texts, which fit one batch together, or raises RpcmeshError."""

    def __init__(self, limits: Limits, embed: Callable[[Sequence[Tokens]], Sequence[bytes]]) -> None:
        self._limits = limits
        self._embed = embed
        self._jobs: deque[_Job] = deque()

    @property
    def idle(self) -> bool:
        return not self._jobs

    @property
    def n_waiting(self) -> int:
        """Requests."""
        return len(self._jobs)

    def submit(self, request_id: str, inputs: Sequence[Tokens]) -> None:
        """Queue one or more texts of at most ``n_batch`` tokens each."""
        self._jobs.append(_Job(request_id, deque(inputs)))

    def drop(self, request_id: str) -> None:
        """Forget a request, if it is known."""
        self._jobs = deque(job for job in self._jobs if job.id != request_id)

    def step(self) -> list[Step | Embedded | Failure]:
        """Embed one batch. Not to be called while idle."""
        batch = self.next_batch()
        try:
            vectors = self._embed([tokens for _, tokens in batch])
        except RpcmeshError as error:
            failed = dict.fromkeys(request_id for request_id, _ in batch)
            for request_id in failed:
                self.drop(request_id)
            return [Failure(request_id, "engine_error", error.message) for request_id in failed]
        return [
            Embedded(request_id, vector, len(tokens))
            for (request_id, tokens), vector in zip(batch, vectors, strict=True)
        ]

    def next_batch(self) -> list[tuple[str, Tokens]]:
        """As many texts as fit, one of each request in turn: a long list never keeps a single text waiting."""
        batch: list[tuple[str, Tokens]] = []
        room = self._limits.n_batch
        while self._jobs and len(batch) < self._limits.n_seq_max and len(self._jobs[0].waiting[0]) <= room:
            job = self._jobs.popleft()
            tokens = job.waiting.popleft()
            room -= len(tokens)
            batch.append((job.id, tokens))
            if job.waiting:
                self._jobs.append(job)
        return batch
