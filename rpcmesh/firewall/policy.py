"""Who may reach which port of this machine. A policy that exists is valid; no rule language is known here."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Literal, TypeGuard

import msgspec

from rpcmesh import config
from rpcmesh.errors import RpcmeshError
from rpcmesh.firewall.membership import Membership

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Role = Literal["node", "coordinator"]
# Addresses by what they mean, as both rule languages write them.
Tables = Mapping[str, tuple[str, ...]]

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


# One coordinator with a few long connections a worker, which opens a dozen short ones more each time that it loads a
# model; clients that may be many, and behind one address.
LIMITS = {
    "node": Limits(sources=64, connections=128, states=256, burst=120, window_s=10),
    "coordinator": Limits(sources=8192, connections=512, states=1024, burst=300, window_s=10),
}


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The rules that one home needs.

    ``peers`` are addresses or networks that may reach ``tls_port``: a node's coordinator, a coordinator's clients
    (none means any). ``interfaces`` are where they may come from (none means any). A coordinator's connections to
    ``node_ports`` of ``revoked`` addresses are cut. A stock llama.cpp worker on TCP is closed to all but the user
    ``service_uid`` of this machine.

    Raises :class:`RpcmeshError` that quotes the first wrong value.
    """

    role: Role
    tls_port: int
    peers: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    revoked: tuple[str, ...] = ()
    node_ports: tuple[int, ...] = (config.TUNNEL_PORT,)
    stock_worker_port: int | None = None
    service_uid: int | None = None

    def __post_init__(self) -> None:
        if self.role not in LIMITS:
            raise RpcmeshError(f"{self.role!r} is not a role", hint="it is node or coordinator")
        _require_port(self.tls_port)
        self._require_peers()
        self._require_revoked()
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
    def tables(self) -> Tables:
        """The addresses by what they mean: without duplicates and overlaps, IPv4 first."""
        peers, revoked = _collapsed(self.peers), _collapsed(self.revoked)
        return {"peers": peers, "revoked": revoked} if self.role == "coordinator" else {"peers": peers}

    def _require_peers(self) -> None:
        for peer in self.peers:
            network(peer)
        for whole in _collapsed(self.peers):
            if network(whole).prefixlen == 0:
                raise RpcmeshError(f"{whole!r} lets everybody in", hint=self._peers_hint)
        if self.role == "node" and not self.peers:
            raise RpcmeshError(f"no address may reach this node's port {self.tls_port}", hint=self._peers_hint)

    def _require_revoked(self) -> None:
        if self.role == "node" and self.revoked:
            raise RpcmeshError("a node has no connections to other nodes that could be cut")
        for address in self.revoked:
            network(address)
        for port in self.node_ports:
            _require_port(port)
        if not self.node_ports:
            raise RpcmeshError("a coordinator's nodes listen on some port", hint="the default is 7443")

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


def for_home(settings: config.Config, role: Role, known: Membership, owner_uid: int) -> Policy:
    """The policy that the config file asks for, with the addresses that the mesh is known to have.

    ``owner_uid`` is the user that the home belongs to, and its services run as.
    """
    stock_port = settings.firewall.stock_worker_port or None
    listen = settings.node.listen if role == "node" else settings.coordinator.listen
    _, port = config.parse_address(listen)
    # Addresses in the config file are an admin's decision, and what the coordinator says does not change it.
    of_a_node = settings.firewall.peers or known.peers
    return Policy(
        role=role,
        tls_port=port,
        peers=of_a_node if role == "node" else settings.firewall.clients,
        interfaces=settings.firewall.interfaces,
        revoked=known.revoked if role == "coordinator" else (),
        node_ports=known.node_ports or (config.TUNNEL_PORT,),
        stock_worker_port=stock_port,
        service_uid=owner_uid if stock_port is not None else None,
    )


def of_family(addresses: Iterable[str], version: int) -> tuple[str, ...]:
    """Those of ``addresses`` that are of IP ``version`` 4 or 6."""
    return tuple(one for one in addresses if network(one).version == version)


def _collapsed(texts: Iterable[str]) -> tuple[str, ...]:
    found = [network(text) for text in texts]
    v4 = ipaddress.collapse_addresses(one for one in found if isinstance(one, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(one for one in found if isinstance(one, ipaddress.IPv6Network))
    return (*map(_written, v4), *map(_written, v6))


def _written(one: Network) -> str:
    """As both rule languages write it: a single address without its prefix length."""
    return str(one.network_address) if one.prefixlen == one.max_prefixlen else one.with_prefixlen


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
