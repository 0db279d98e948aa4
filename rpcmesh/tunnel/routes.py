"""Routes files: which ALPN leads to which Unix socket, and whose certificate may use it. One line a route."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from rpcmesh.pki.files import write_private

AGENT_ALPN = "rpcmesh/agent"


def rpc_alpn(worker: str) -> str:
    return f"rpcmesh/rpc/{worker}"


class IngressRoute(msgspec.Struct, frozen=True):
    """A peer whose certificate names ``peer`` and whose ALPN is ``alpn`` is connected to ``socket``."""

    alpn: str
    socket: Path
    peer: str


class EgressRoute(msgspec.Struct, frozen=True):
    """A local client of ``listen`` is connected to ``address`` (HOST:PORT), which must prove to be ``peer``."""

    listen: Path
    address: str
    alpn: str
    peer: str


def write_ingress(path: Path, routes: Iterable[IngressRoute]) -> None:
    _write(path, ((route.alpn, str(route.socket), route.peer) for route in routes))


def write_egress(path: Path, routes: Iterable[EgressRoute]) -> None:
    _write(path, ((str(route.listen), route.address, route.alpn, route.peer) for route in routes))


def _write(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    lines = []
    for row in rows:
        odd = next(
            (field for field in row if not field or not field.isprintable() or " " in field or field[0] == "#"), None
        )
        if odd is not None:
            raise ValueError(f"{odd!r} cannot stand in a routes file")
        lines.append(" ".join(row) + "\n")
    write_private(path, "".join(lines).encode())
