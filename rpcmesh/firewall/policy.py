"""Who may reach which port of this machine. A policy that exists is valid; no rule language is known here."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Literal, TypeGuard

import msgspec

from rpcmesh import config
from rpcmesh.errors import RpcmeshError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# A kernel's interface name, 15 bytes at most, and no character that means something in a rule file.
_INTERFACE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}", re.ASCII)
_MAX_UID = 2**31 - 1


class Limits(msgspec.Struct, frozen=True):
    """What one source address may do before its connections are refused."""

    # Sources tracked at once (pf only; nftables bounds its sets).
    sources: int
    # Open connections, and connections on their way up or down besides.
    connections: int
    states: int
    # More than ``burst`` new connections in ``window_s`` is abuse.
    burst: int
    window_s: int


# One coordinator with a few long connections a worker; clients that may be many, and behind one address.
LIMITS = {
    "node": Limits(sources=64, connections=64, states=96, burst=30, window_s=10),
    "coordinator": Limits(sources=8192, connections=512, states=1024, burst=300, window_s=10),
}


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The rules that one machine needs.

    ``peers`` are addresses or networks that may reach ``tls_port``: a node's coordinator, a coordinator's clients
    (none means any). ``interfaces`` are where they may come from (none means any). A stock llama.cpp worker on TCP is
    closed to all but the user ``service_uid`` of this machine.

    Raises :class:`RpcmeshError` that quotes the first wrong value.
    """

    role: Literal["node", "coordinator"]
    tls_port: int
    peers: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    stock_worker_port: int | None = None
    service_uid: int | None = None

    def __post_init__(self) -> None:
        if self.role not in LIMITS:
            raise RpcmeshError(f"{self.role!r} is not a role", hint="it is node or coordinator")
        _require_port(self.tls_port)
        self._require_peers()
        for name in self.interfaces:
            if not isinstance(name, str) or not _INTERFACE.fullmatch(name):
                raise RpcmeshError(
                    f"{name!r} is not the name of a network interface", hint="[firewall] interfaces takes names as en0"
                )
        self._require_stock_worker()

    @property
    def limits(self) -> Limits:
        return LIMITS[self.role]

    @property
    def networks(self) -> tuple[Network, ...]:
        """The peers without duplicates and overlaps, IPv4 first."""
        return (*self.networks_v4, *self.networks_v6)

    @property
    def networks_v4(self) -> tuple[ipaddress.IPv4Network, ...]:
        found = (network(peer) for peer in self.peers)
        return tuple(ipaddress.collapse_addresses(one for one in found if isinstance(one, ipaddress.IPv4Network)))

    @property
    def networks_v6(self) -> tuple[ipaddress.IPv6Network, ...]:
        found = (network(peer) for peer in self.peers)
        return tuple(ipaddress.collapse_addresses(one for one in found if isinstance(one, ipaddress.IPv6Network)))

    def _require_peers(self) -> None:
        for peer in self.peers:
            network(peer)
        for whole in self.networks:
            if whole.prefixlen == 0:
                raise RpcmeshError(f"{whole.with_prefixlen!r} lets everybody in", hint=self._peers_hint)
        if self.role == "node" and not self.peers:
            raise RpcmeshError(f"no address may reach this node's port {self.tls_port}", hint=self._peers_hint)

    @property
    def _peers_hint(self) -> str:
        if self.role == "node":
            return 'in config.toml set [firewall] peers = ["ADDRESS"] to the coordinator\'s address'
        return "in config.toml leave [firewall] clients empty to allow any, or list networks"

    def _require_stock_worker(self) -> None:
        if self.stock_worker_port is None:
            if self.service_uid is not None:
                raise RpcmeshError(f"service uid {self.service_uid!r} is given without a stock worker's port")
            return
        _require_port(self.stock_worker_port)
        if self.stock_worker_port == self.tls_port:
            raise RpcmeshError(f"port {self.tls_port} cannot be the tunnel's and a stock worker's")
        if not _is_int(self.service_uid) or not 0 <= self.service_uid <= _MAX_UID:
            raise RpcmeshError(
                f"{self.service_uid!r} is not a numeric user id", hint="rules for a stock worker need its user: id -u"
            )


def network(text: str) -> Network:
    """Parse one address or network. Raises :class:`RpcmeshError` on a name, a scope, or bits set below the prefix."""
    hint = "write an IP address or a network, as 192.168.1.10 or fd00:6d65:7368::/64"
    if not isinstance(text, str) or "%" in text or text != text.strip():
        raise RpcmeshError(f"{text!r} is not an address that a rule can name", hint=hint)
    try:
        found = ipaddress.ip_network(text)
    except ValueError:
        raise RpcmeshError(f"{text!r} is not an IP address or network", hint=_whole_network(text) or hint) from None
    if found.is_multicast or text in {"0.0.0.0", "::"}:
        raise RpcmeshError(f"{text!r} is not an address that a peer can have", hint=hint)
    if isinstance(found, ipaddress.IPv6Network) and found.network_address.ipv4_mapped is not None:
        raise RpcmeshError(f"{text!r} is an IPv4 address in IPv6 form, which no packet carries", hint=hint)
    return found


def for_home(settings: config.Config, role: Literal["node", "coordinator"]) -> Policy:
    """The policy that the config file asks for."""
    if role == "node":
        _, port = config.parse_address(settings.node.listen)
        peers = settings.firewall.peers
    else:
        _, port = config.parse_address(settings.coordinator.listen)
        peers = settings.firewall.clients
    return Policy(role=role, tls_port=port, peers=peers, interfaces=settings.firewall.interfaces)


def addresses(networks: Iterable[Network]) -> list[str]:
    """As both rule languages write them: a single address without its prefix length."""
    return [str(one.network_address) if one.prefixlen == one.max_prefixlen else one.with_prefixlen for one in networks]


def _whole_network(text: str) -> str | None:
    try:
        return f"the network that it lies in is {ipaddress.ip_network(text, strict=False)}"
    except ValueError:
        return None


def _require_port(port: object) -> None:
    if not _is_int(port) or not 1 <= port <= 65535:
        raise RpcmeshError(f"{port!r} is not a port", hint="ports are 1 to 65535")


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
