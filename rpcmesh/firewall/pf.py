"""A policy as the pf rules that macOS reads (OpenBSD 4.3's dialect). Rendering only: nothing is loaded here."""

from __future__ import annotations

import re

from rpcmesh.errors import RpcmeshError
from rpcmesh.firewall import rules, templates
from rpcmesh.firewall.policy import Policy, Role, Tables
from rpcmesh.firewall.rules import Rules

# Evaluated by the stock /etc/pf.conf, which asks for `anchor "com.apple/*"`. One for each role, as in nftables.
ANCHORS: dict[Role, str] = {"node": "com.apple/100.rpcmesh", "coordinator": "com.apple/100.rpcmesh-coordinator"}

# pf takes a name without a number for a whole group ("en" is every en*), and some for its own words ("any").
_MACOS_INTERFACE = re.compile(r"[a-z]+[0-9]+", re.ASCII)


def render(policy: Policy) -> str:
    """The text of the anchor. Raises :class:`RpcmeshError` for an interface name that macOS cannot have."""
    return _render(policy, policy.tables)


def make(policy: Policy) -> Rules:
    """:func:`render`, with its parts."""
    return rules.of(policy, _render)


def _render(policy: Policy, tables: Tables) -> str:
    for name in policy.interfaces:
        if not _MACOS_INTERFACE.fullmatch(name):
            raise RpcmeshError(
                f"{name!r} is not the name of a network interface on macOS",
                hint="[firewall] interfaces takes names as en0 or bridge0: networksetup -listallhardwareports",
            )
    return templates.render(
        "pf.conf",
        anchor=ANCHORS[policy.role],
        policy=policy,
        limits=policy.limits,
        interfaces=list(dict.fromkeys(policy.interfaces)),
        node_ports=sorted(set(policy.node_ports)),
        tables=tables,
    )
