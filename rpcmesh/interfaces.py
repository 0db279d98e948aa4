"""Which address to bind, and why: Thunderbolt before Ethernet before Wi-Fi, never a container's bridge."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Mapping

import msgspec
import psutil

from rpcmesh.errors import RpcmeshError


class Interface(msgspec.Struct, frozen=True):
    name: str
    address: str
    reason: str


# (prefixes of the interface's name, what it is), best first. macOS numbers Ethernet and Wi-Fi alike as en*.
_LINUX = ((("thunderbolt",), "Thunderbolt"), (("en", "eth", "ib"), "Ethernet"), (("wl",), "Wi-Fi"))
_MACOS = ((("bridge",), "Thunderbolt bridge"), (("en",), "Ethernet or Wi-Fi"))
_NEVER = ("docker", "br-", "virbr", "veth", "cni", "podman", "utun", "tun", "tap", "awdl", "llw", "vmnet", "lo")


def rank(addresses: Mapping[str, list[str]], platform: str = sys.platform) -> list[Interface]:
    """Order the candidates, best first. ``addresses`` maps interface names that are up to their IP addresses."""
    kinds = _MACOS if platform == "darwin" else _LINUX
    ranked = []
    for name, found in addresses.items():
        if name.startswith(_NEVER):
            continue
        position = next((i for i, (prefixes, _) in enumerate(kinds) if name.startswith(prefixes)), None)
        usable = [text for text in found if _usable(text)]
        if position is not None and usable:
            address = min(usable, key=lambda text: ipaddress.ip_address(text).version)
            ranked.append(
                (position, name, Interface(name=name, address=address, reason=f"{kinds[position][1]}, {name}"))
            )
    return [interface for _, _, interface in sorted(ranked, key=lambda row: row[:2])]


def candidates() -> list[Interface]:
    """This machine's interfaces, best first, never empty: loopback when there is no other."""
    alone = Interface(name="lo", address="127.0.0.1", reason="loopback: no other interface is up")
    return rank(_up()) or [alone]


def require_local(host: str) -> None:
    """Raise :class:`RpcmeshError` unless ``host`` is an address that this machine can bind."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        known = ", ".join(sorted(text for found in _up().values() for text in found if _usable(text)))
        raise RpcmeshError(
            f"{host!r} is not an address of this machine: {error.strerror}",
            hint=f"choose one of: {known}, 127.0.0.1",
        ) from error


def source_towards(host: str, port: int) -> str | None:
    """The address of this machine that the system would connect to ``host`` from, or None without a way there.

    A UDP socket is given a peer and sends nothing. None for a name too: to look one up could take seconds.
    """
    numeric = socket.AI_NUMERICHOST
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=numeric)[0]
        with socket.socket(family, kind) as towards:
            towards.connect(address)
            return str(towards.getsockname()[0])
    except OSError:
        return None


def _up() -> dict[str, list[str]]:
    stats = psutil.net_if_stats()
    return {
        name: [entry.address for entry in entries if entry.family in (socket.AF_INET, socket.AF_INET6)]
        for name, entries in psutil.net_if_addrs().items()
        if name in stats and stats[name].isup
    }


def _usable(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return not (address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast)
