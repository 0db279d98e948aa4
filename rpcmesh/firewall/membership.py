"""What a home's own service knows of the mesh's addresses, for the rules. It writes the file; the firewall reads it."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import msgspec

from rpcmesh.errors import PeerError, RpcmeshError
from rpcmesh.pki.files import read_private, write_private

# A coordinator has an address or two on the way to one node.
MAX_PEERS = 8


class Membership(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """On a node ``peers`` are the coordinator's addresses; on the coordinator ``revoked`` are those of nodes that were
    put out, and ``node_ports`` the ports on which nodes listen."""

    peers: tuple[str, ...] = ()
    revoked: tuple[str, ...] = ()
    node_ports: tuple[int, ...] = ()


NOTHING = Membership()


def path(home: Path) -> Path:
    return home / "membership.json"


def read(home: Path) -> Membership:
    """What is known; nothing before the service wrote it first."""
    file = path(home)
    if not os.path.lexists(file):  # a link is there, whatever it leads to: `read_private` refuses it
        return NOTHING
    try:
        return msgspec.json.decode(read_private(file), type=Membership)
    except msgspec.DecodeError as error:
        raise RpcmeshError(f"{str(file)!r} is not what rpcmesh wrote: {error}", hint=f"rm {file}") from error


def write(home: Path, known: Membership) -> bool:
    """Remember ``known``; False when that is no news."""
    file = path(home)
    if file.exists() and read(home) == known:
        return False
    write_private(file, msgspec.json.encode(known))
    return True


def single_addresses(texts: tuple[str, ...]) -> tuple[str, ...]:
    """What a coordinator may say of where it is: a few addresses, never a network. Raises :class:`PeerError`."""
    if not 1 <= len(texts) <= MAX_PEERS:
        raise PeerError(f"a coordinator has 1 to {MAX_PEERS} addresses, not {len(texts)}")
    try:
        found = [ipaddress.ip_address(text) for text in texts]
    except ValueError as error:
        raise PeerError(f"not an address: {error}") from error
    for one in found:
        if (
            one.is_unspecified
            or one.is_multicast
            or getattr(one, "scope_id", None)
            or getattr(one, "ipv4_mapped", None)
        ):
            raise PeerError(f"{str(one)!r} is not an address that a coordinator can have")
    return tuple(str(one) for one in sorted(set(found), key=lambda one: (one.version, int(one))))
