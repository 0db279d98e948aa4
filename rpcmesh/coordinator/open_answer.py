"""One answer that outlives engines: what was asked, what was sent of it, and what the next engine is asked. No I/O."""

from __future__ import annotations

import msgspec

from rpcmesh.engine.messages import Delta, GenerateRequest

# An answer that gets no token from so many engines in a row may well be what ends them, and with them all others.
FRUITLESS_ENGINES_MAX = 5


class OpenAnswer:
    """``seed`` is what a request without one of its own samples with, on every engine that it meets."""

    def __init__(self, request: GenerateRequest, seed: int) -> None:
        sampling = request.sampling
        if sampling.seed is None:
            sampling = msgspec.structs.replace(sampling, seed=seed)
        self._request = msgspec.structs.replace(request, sampling=sampling)
        self._sent = list(request.resume_token_ids)
        self._fruitless = 0
        self._moved = False

    @property
    def n_sent(self) -> int:
        """Tokens that an engine has delivered. They are never changed, and never asked for again."""
        return len(self._sent)

    @property
    def moved(self) -> bool:
        """Whether an engine has ended under it."""
        return self._moved

    def to_ask(self) -> GenerateRequest:
        """The same question to any engine: it goes on behind what was sent."""
        return msgspec.structs.replace(self._request, resume_token_ids=tuple(self._sent))

    def took(self, delta: Delta) -> None:
        self._sent += delta.token_ids
        self._fruitless = 0

    def engine_lost(self, *, planned: bool) -> bool:
        """Note that the engine ended under this answer. False when too many have without one new token.

        A ``planned`` end is no answer's fault and does not count.
        """
        self._fruitless += not planned
        self._moved = True
        return self._fruitless < FRUITLESS_ENGINES_MAX
