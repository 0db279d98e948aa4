"""Whose fault it was decides what a person sees. Every error that rpcmesh raises on purpose is declared here."""

from __future__ import annotations


class RpcmeshError(Exception):
    """The user's fault or the environment's: one line, lower case, and a hint that names the next command.

    Reaches the terminal as ``error: <message>`` and ``hint: <hint>``, exit status 1.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class PeerError(RpcmeshError):
    """The other side of one connection broke its contract: that connection ends and nothing else does."""
