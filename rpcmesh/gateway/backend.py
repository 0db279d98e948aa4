"""What the gateway asks of whatever runs the models. The coordinator implements it; nothing here does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from rpcmesh.engine.messages import Delta, Embedded, EmbedRequest, GenerateRequest, LoadedModel
from rpcmesh.errors import RpcmeshError


class ClusterCapacityError(RpcmeshError):
    """No engine goes on with this answer: what is left of the cluster cannot run the model."""


class Backend(Protocol):
    def models(self) -> tuple[LoadedModel, ...]:
        """The models that answer now."""
        ...

    def not_ready_reason(self) -> str | None:
        """None when a real token came back, else one snake_case word (``loading``) that any stranger may read."""
        ...

    def slots(self) -> int:
        """How many requests decode at the same time; 0 while there is no engine."""
        ...

    def awaited(self) -> tuple[str, ...]:
        """The models whose engine is being replaced just now: a request for one may wait for the next engine."""
        ...

    def generate(self, model: str, request: GenerateRequest) -> AsyncIterator[Delta]:
        """The answer, piece by piece; the last piece has a ``finish_reason`` and ``usage``.

        ``aclose`` or a cancelled ``__anext__`` cancels the request in the engine. Raises ``EngineRequestError`` for a
        request the engine refuses, ``EngineLost`` when engines keep ending under it, and ``ClusterCapacityError`` when
        there is none left that would go on with it.
        """
        ...

    async def embed(self, model: str, request: EmbedRequest) -> tuple[Embedded, ...]:
        """A vector for each input, in their order. Raises as ``generate`` does."""
        ...


@asynccontextmanager
async def closing(deltas: AsyncIterator[Delta]) -> AsyncIterator[AsyncIterator[Delta]]:
    """Close an answer on the way out, however that is left: an abandoned one would keep its slot in the engine."""
    try:
        yield deltas
    finally:
        if isinstance(deltas, AsyncGenerator):
            await deltas.aclose()
