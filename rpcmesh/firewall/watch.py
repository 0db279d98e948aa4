"""What `rpcmesh firewall keep` last saw of a home's rules. It writes the file as the owner; the services read it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from rpcmesh.errors import RpcmeshError
from rpcmesh.pki.files import read_private, write_private


class State(StrEnum):
    """``unwatched`` means that nobody has looked lately, whatever the rules may be."""

    VERIFIED = "verified"
    DRIFT = "drift"
    UNWATCHED = "unwatched"


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One look. ``problem`` is empty when the rules are as meant. Times in Unix seconds; ``good_until`` is when the
    next look is overdue."""

    problem: str
    at: float
    good_until: float
    # How often the rules stopped being as meant since the keeper started, mended ones included.
    drifts: int = 0


class FirewallStatus(msgspec.Struct, frozen=True):
    """As the status documents show it. ``drifts`` counts how often the rules stopped being as meant."""

    state: State = State.UNWATCHED
    reason: str = ""
    drifts: int = 0


def path(home: Path) -> Path:
    return home / "firewall-seen.json"


def write(home: Path, seen: Seen) -> None:
    write_private(path(home), msgspec.json.encode(seen))


def read(home: Path) -> Seen | None:
    """The last look, or None when there was none that can be read."""
    try:
        return msgspec.json.decode(read_private(path(home)), type=Seen)
    except (RpcmeshError, msgspec.DecodeError):
        return None


def judge(seen: Seen | None, now: float, booted_at: float) -> FirewallStatus:
    """What the last look means at ``now``; one from before the machine started tells nothing. Unix seconds."""
    if seen is None or seen.at < booted_at:
        return FirewallStatus(State.UNWATCHED, "`rpcmesh firewall keep` does not run here")
    if now > seen.good_until:
        return FirewallStatus(State.UNWATCHED, "`rpcmesh firewall keep` has gone silent", seen.drifts)
    return FirewallStatus(State.DRIFT if seen.problem else State.VERIFIED, seen.problem, seen.drifts)
