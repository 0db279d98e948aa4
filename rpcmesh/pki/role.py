"""What a home is for, told by what lies in it."""

from __future__ import annotations

from typing import Literal

from rpcmesh.paths import Home
from rpcmesh.pki import identity

Role = Literal["coordinator", "node", "none"]


def of(home: Home) -> Role:
    """The coordinator alone has an authority; it has an identity too, as every node has."""
    if home.authority.exists():
        return "coordinator"
    return "node" if identity.exists(home.identity) else "none"
