"""A policy as one nftables table that replaces its former self. Rendering only: nothing is loaded here."""

from __future__ import annotations

from rpcmesh.firewall import templates
from rpcmesh.firewall.policy import Policy, addresses

TABLE = "inet rpcmesh"


def render(policy: Policy) -> str:
    """The text for ``nft -f``: the old table goes and the new one comes in one transaction."""
    limits = policy.limits
    return templates.render(
        "nftables.conf",
        table=TABLE,
        policy=policy,
        limits=limits,
        # nft has no rate per ten seconds.
        per_minute=limits.burst * 60 // limits.window_s,
        interfaces=list(dict.fromkeys(policy.interfaces)),
        families=(
            ("v4", "ipv4", "ip", addresses(policy.networks_v4)),
            ("v6", "ipv6", "ip6", addresses(policy.networks_v6)),
        ),
    )
