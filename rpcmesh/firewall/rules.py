"""One home's rules as text for a tool, and what that is made of: a fixed frame, and the addresses in its tables."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from rpcmesh.config import TUNNEL_PORT
from rpcmesh.firewall.policy import Policy, Role, Tables


class Rules(msgspec.Struct, frozen=True):
    """``frame_sha256`` tells settings apart: as long as it stays, only the mesh has changed."""

    role: Role
    text: str
    frame_sha256: str
    tables: dict[str, tuple[str, ...]]
    node_ports: tuple[int, ...]


def of(policy: Policy, render: Callable[[Policy, Tables], str]) -> Rules:
    """``render`` writes a policy with the addresses that it is given."""
    frame = render(msgspec.structs.replace(policy, node_ports=(TUNNEL_PORT,)), dict.fromkeys(policy.tables, ()))
    return Rules(
        role=policy.role,
        text=render(policy, policy.tables),
        frame_sha256=hashlib.sha256(frame.encode()).hexdigest(),
        tables=dict(policy.tables),
        node_ports=tuple(sorted(set(policy.node_ports))) if policy.role == "coordinator" else (),
    )
