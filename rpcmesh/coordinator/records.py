"""The rows that the coordinator's database holds, as plain values."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class MemberState(StrEnum):
    JOINED = "joined"
    REVOKED = "revoked"


class Mesh(msgspec.Struct, frozen=True):
    """The one mesh that this coordinator founded, and where its revocation list stands. Times are Unix seconds."""

    name: str
    founded_at: float
    crl_number: int
    crl_updated_at: float


class Member(msgspec.Struct, frozen=True):
    """A node that was admitted. ``address`` is HOST:PORT of its tunnel; ``drained_at`` is None unless it is drained."""

    name: str
    address: str
    build_id: str
    os: str
    joined_at: float
    state: MemberState = MemberState.JOINED
    drained_at: float | None = None


class IssuedCertificate(msgspec.Struct, frozen=True):
    """A leaf that was signed. ``serial`` is lower-case hex, ``uri`` None for the gateway's."""

    serial: str
    uri: str | None
    not_before: float
    not_after: float
    revoked_at: float | None = None


class Action(StrEnum):
    """What the audit trail tells of."""

    MESH_FOUNDED = "mesh_founded"
    TOKEN_CREATED = "token_created"  # noqa: S105
    TOKEN_CONSUMED = "token_consumed"  # noqa: S105
    JOIN_REFUSED = "join_refused"
    NODE_JOINED = "node_joined"
    NODE_REVOKED = "node_revoked"
    NODE_DRAINED = "node_drained"
    NODE_RESUMED = "node_resumed"
    CERTIFICATE_ISSUED = "certificate_issued"
    CERTIFICATE_RENEWED = "certificate_renewed"
    KEY_CREATED = "key_created"
    KEY_REVOKED = "key_revoked"


class AuditEntry(msgspec.Struct, frozen=True):
    """One line of the audit trail: ``actor`` did ``action`` to ``subject``. Secrets never stand in ``detail``."""

    id: int
    at: float
    actor: str
    action: Action
    subject: str
    detail: dict[str, str]
