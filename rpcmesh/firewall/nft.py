"""A policy as one nftables table that replaces its former self. Rendering only: nothing is loaded here."""

from __future__ import annotations

from rpcmesh.firewall import rules, templates
from rpcmesh.firewall.policy import Policy, Role, Tables, of_family
from rpcmesh.firewall.rules import Rules

# A table for each role: a machine can be both, and taking one away leaves the other.
TABLES: dict[Role, str] = {"node": "inet rpcmesh", "coordinator": "inet rpcmesh_coordinator"}
FAMILIES = (("v4", "ipv4", "ip", 4), ("v6", "ipv6", "ip6", 6))


def render(policy: Policy) -> str:
    """The text for ``nft -f``: the old table goes and the new one comes in one transaction."""
    return _render(policy, policy.tables)


def make(policy: Policy) -> Rules:
    """:func:`render`, with its parts."""
    return rules.of(policy, _render)


def replacement(role: Role, tables: Tables) -> str:
    """The text for ``nft -f`` that exchanges the addresses in the loaded table, in one transaction."""
    lines = []
    for name, addresses in tables.items():
        for suffix, _, _, version in FAMILIES:
            target = f"{TABLES[role]} {name}_{suffix}"
            lines.append(f"flush set {target}\n")
            if members := of_family(addresses, version):
                lines.append(f"add element {target} {{ {', '.join(members)} }}\n")
    return "".join(lines)


def _render(policy: Policy, tables: Tables) -> str:
    limits = policy.limits
    return templates.render(
        "nftables.conf",
        table=TABLES[policy.role],
        policy=policy,
        limits=limits,
        # nft has no rate per ten seconds.
        per_minute=limits.burst * 60 // limits.window_s,
        interfaces=list(dict.fromkeys(policy.interfaces)),
        node_ports=sorted(set(policy.node_ports)),
        families=[
            (suffix, kind, header, {name: of_family(addresses, version) for name, addresses in tables.items()})
            for suffix, kind, header, version in FAMILIES
        ],
    )
