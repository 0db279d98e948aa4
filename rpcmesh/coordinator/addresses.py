"""Where the mesh's machines are, as their firewalls need to know it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from rpcmesh import config, interfaces
from rpcmesh.coordinator.records import Member, MemberState
from rpcmesh.firewall.membership import Membership


def addresses_towards(address: str) -> tuple[str, ...]:
    """The addresses from which this machine connects to ``address`` (HOST:PORT); none without a way there."""
    source = interfaces.source_towards(*config.parse_address(address))
    return () if source is None else (source,)


def membership_of(members: Iterable[Member]) -> Membership:
    """What the coordinator's firewall must know: where revoked nodes are, and on which ports nodes listen.

    An address that a member in good standing has is nobody's to cut, nor is this machine's own loopback.
    """
    live: set[str] = set()
    revoked: set[str] = set()
    ports: set[int] = set()
    for member in members:
        host, port = config.parse_address(member.address)
        ports.add(port)
        if _is_remote_address(host):
            (live if member.state is MemberState.JOINED else revoked).add(str(ipaddress.ip_address(host)))
    return Membership(revoked=tuple(sorted(revoked - live)), node_ports=tuple(sorted(ports)))


def _is_remote_address(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name: rules hold numbers only
