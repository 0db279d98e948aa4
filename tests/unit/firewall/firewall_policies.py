"""Policies to render: a few that people have, each with a golden file, and any at all."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import strategies as st

from rpcmesh.firewall.policy import Policy

GOLDEN = Path(__file__).parents[2] / "golden" / "firewall"

KNOWN = {
    "node": Policy(role="node", tls_port=7443, peers=("192.168.1.10",)),
    "node-stock-worker": Policy(
        role="node",
        tls_port=7443,
        peers=("fd00:6d65:7368::2", "192.168.1.10", "10.10.0.0/30"),
        interfaces=("en0", "bridge0"),
        stock_worker_port=50052,
        service_uid=478,
    ),
    "coordinator-any": Policy(role="coordinator", tls_port=8443),
    "coordinator-clients": Policy(
        role="coordinator",
        tls_port=8443,
        peers=("10.0.0.0/8", "fd00::/8"),
        interfaces=("en0",),
        revoked=("192.168.1.12", "fd00::12"),
        node_ports=(7443, 7444),
    ),
}


def assert_golden(name: str, text: str) -> None:
    """``UPDATE_GOLDENS=1`` writes the file in place of comparing it; then read the difference."""
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDENS") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.read_bytes() == text.encode(), f"{name} differs; if that is meant: UPDATE_GOLDENS=1"


def _network(bits: int, address: int, prefix: int) -> str:
    cleared = address >> (bits - prefix) << (bits - prefix)
    groups = [f"{cleared >> shift & 0xFFFF:x}" for shift in range(112, -16, -16)]
    octets = [str(cleared >> shift & 0xFF) for shift in range(24, -8, -8)]
    return f"{'.'.join(octets) if bits == 32 else ':'.join(groups)}/{prefix}"


# Unicast only: 1.0.0.0 to 223.255.255.255, and what begins with 2 to d in IPv6. They cannot add up to everything.
peers = st.one_of(
    st.builds(_network, st.just(32), st.integers(1 << 24, (224 << 24) - 1), st.integers(8, 32)),
    st.builds(_network, st.just(128), st.integers(0x2 << 124, (0xE << 124) - 1), st.integers(8, 128)),
)
linux_names = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,14}", fullmatch=True)
macos_names = st.from_regex(r"[a-z]{1,11}[0-9]{1,4}", fullmatch=True)


@st.composite
def policies(draw: st.DrawFn, names: st.SearchStrategy[str]) -> Policy:
    role = draw(st.sampled_from(["node", "coordinator"]))
    tls_port, worker_port = draw(st.lists(st.integers(1, 65535), min_size=2, max_size=2, unique=True))
    stock = draw(st.booleans())
    coordinates = role == "coordinator"
    return Policy(
        role=role,
        tls_port=tls_port,
        peers=tuple(draw(st.lists(peers, min_size=1 if role == "node" else 0, max_size=12))),
        interfaces=tuple(draw(st.lists(names, max_size=4))),
        revoked=tuple(draw(st.lists(peers, max_size=6))) if coordinates else (),
        node_ports=tuple(draw(st.lists(st.integers(1, 65535), min_size=1, max_size=4))),
        stock_worker_port=worker_port if stock else None,
        service_uid=draw(st.integers(0, 2**31 - 1)) if stock else None,
    )
