"""Which address a new coordinator or node binds: the one asked for, or the best found, with the others named."""

from __future__ import annotations

import msgspec

from rpcmesh import config, interfaces


class Chosen(msgspec.Struct, frozen=True):
    """``listen`` is ADDR:PORT. ``others`` are sentences about the interfaces that were not chosen."""

    listen: str
    reason: str = ""
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.listen} ({self.reason})" if self.reason else self.listen


def choose(asked: str | None, port: int) -> Chosen:
    """Raises :class:`~rpcmesh.errors.RpcmeshError` when ``asked`` is no address of this machine."""
    if asked is not None:
        interfaces.require_local(config.parse_address(asked)[0])
        return Chosen(asked)
    best, *rest = interfaces.candidates()
    others = (f"{found.reason}: --listen {config.join_address(found.address, port)}" for found in rest)
    return Chosen(config.join_address(best.address, port), best.reason, tuple(others))
