"""Whose fault it was decides what a person sees. Every error that rpcmesh raises on purpose is declared here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class RpcmeshError(Exception):
    """The user's fault or the environment's: one line, lower case, and a hint that names the next command.

    Reaches the terminal as ``error: <message>`` and ``hint: <hint>``, exit status 1.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let a single error out of the group that a task group wraps it in: callers know errors, not how we run tasks."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise


class PeerError(RpcmeshError):
    """The other side of one connection broke its contract: that connection ends and nothing else does."""
