"""What the coordinator must not forget, in SQLite. Every method is one short transaction, its audit entry included.

Safe to use from several processes and threads; killed at any moment, the database holds whole transactions only.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from rpcmesh.coordinator import schema
from rpcmesh.coordinator.records import Action, AuditEntry, IssuedCertificate, Member, MemberState, Mesh
from rpcmesh.errors import RpcmeshError
from rpcmesh.gateway.keys import ApiKey
from rpcmesh.pki import names, revocation, tokens
from rpcmesh.pki.certificate import Certificate
from rpcmesh.pki.revocation import Revocations, Revoked
from rpcmesh.pki.tokens import JoinToken, Problem

T = TypeVar("T")


class Store:
    """One connection to the database at ``path``, which is made if there is none. A context manager.

    ``actor`` says who acted ("admin", "coordinator", "joiner 10.0.0.7"), ``now`` is in Unix seconds. Every method
    raises :class:`RpcmeshError` when the database cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection = schema.connect(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    # The mesh

    def found_mesh(self, name: str, actor: str, now: float) -> Mesh:
        """Remember that this is mesh ``name``'s coordinator. Raises :class:`RpcmeshError` if it already is one."""
        mesh = Mesh(names.check_name(name, "mesh"), now, crl_number=1, crl_updated_at=revocation.next_update(None, now))
        with self._transaction():
            found = self._mesh()
            if found is not None:
                raise RpcmeshError(
                    f"this home already holds mesh {found.name!r}", hint="set RPCMESH_HOME to found another"
                )
            self._execute("INSERT INTO mesh VALUES (1, ?, ?, ?, ?)", *msgspec.structs.astuple(mesh))
            self._note(now, actor, Action.MESH_FOUNDED, name)
        return mesh

    def mesh(self) -> Mesh:
        """Raises :class:`RpcmeshError` before :meth:`found_mesh`."""
        with self._transaction(write=False):
            found = self._mesh()
        if found is None:
            raise RpcmeshError("this home holds no mesh", hint="rpcmesh init")
        return found

    # Join tokens

    def add_token(self, token: JoinToken, actor: str, now: float) -> None:
        with self._transaction():
            self._execute("INSERT INTO join_tokens VALUES (?, ?, ?, ?, ?, ?)", *msgspec.structs.astuple(token))
            self._note(now, actor, Action.TOKEN_CREATED, token.id, node=token.node or "")

    def find_token(self, token_id: str) -> JoinToken | None:
        return self._one(JoinToken, "SELECT * FROM join_tokens WHERE id = ?", token_id)

    def consume_token(self, token_id: str, node: str, actor: str, now: float) -> Problem | None:
        """Use the token up for ``node``. Of all who try, in whatever process, one gets None, the others the reason."""
        with self._transaction():
            consumed = self._execute(
                "UPDATE join_tokens SET consumed_at = ? WHERE id = ? AND consumed_at IS NULL AND expires_at > ?",
                now,
                token_id,
                now,
            ).rowcount
            if not consumed:
                return tokens.problem(self.find_token(token_id), now) or Problem.EXPIRED
            self._note(now, actor, Action.TOKEN_CONSUMED, token_id, node=node)
        return None

    # Members and their certificates

    def members(self) -> tuple[Member, ...]:
        """All of them, the revoked ones too, by name."""
        return self._all(Member, "SELECT * FROM members ORDER BY name")

    def find_member(self, name: str) -> Member | None:
        return self._one(Member, "SELECT * FROM members WHERE name = ?", name)

    def is_live(self, name: str) -> bool:
        """Whether ``name`` is a member that was not revoked."""
        found = self.find_member(name)
        return found is not None and found.state is MemberState.JOINED

    def admit(self, member: Member, certificate: Certificate, actor: str, now: float) -> None:
        """Record a new member with its first certificate. A revoked member's name may be given again.

        Raises :class:`NameTakenError` if a live node has the name.
        """
        with self._transaction():
            if self.is_live(member.name):
                raise NameTakenError(member.name)
            self._execute(
                "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?, ?)", *msgspec.structs.astuple(member)
            )
            self._record(certificate)
            self._note(now, actor, Action.NODE_JOINED, member.name, address=member.address, serial=certificate.serial)

    def record_certificate(self, certificate: Certificate, action: Action, actor: str, now: float) -> None:
        """Record a leaf before it is handed out: the coordinator's, the gateway's, or a member's renewed one.

        Raises :class:`RpcmeshError` for a node that is not a live member, so that nobody outlives a revocation by
        renewing at the same moment.
        """
        node = names.parse_uri(certificate.uri).node if certificate.uri is not None else None
        with self._transaction():
            if node is not None and not self.is_live(node):
                raise _not_a_member(node)
            self._record(certificate)
            self._note(now, actor, action, certificate.uri or "gateway", serial=certificate.serial)

    def drain_member(self, name: str, actor: str, now: float) -> None:
        """Keep in mind that the member is to hold no layers; one that is drained already stays so.

        Raises :class:`RpcmeshError` if ``name`` is not a live member.
        """
        self._mark_drained(name, now, Action.NODE_DRAINED, actor, now)

    def resume_member(self, name: str, actor: str, now: float) -> None:
        """The opposite of :meth:`drain_member`."""
        self._mark_drained(name, None, Action.NODE_RESUMED, actor, now)

    def _mark_drained(self, name: str, since: float | None, action: Action, actor: str, now: float) -> None:
        with self._transaction():
            if not self.is_live(name):
                raise _not_a_member(name)
            changed = self._execute(
                "UPDATE members SET drained_at = ? WHERE name = ? AND (drained_at IS NULL) <> ?",
                since,
                name,
                since is None,
            ).rowcount
            if changed:
                self._note(now, actor, action, name)

    def certificates(self, uri: str) -> tuple[IssuedCertificate, ...]:
        """All that were signed for ``uri``, oldest first."""
        return self._all(IssuedCertificate, "SELECT * FROM certificates WHERE uri = ? ORDER BY not_before", uri)

    def revoke_member(self, name: str, actor: str, now: float) -> Revocations:
        """Put the member out, and all its certificates on the list, which gets its next number in the same transaction.

        Returns the new list, to be signed and sent. Raises :class:`RpcmeshError` if ``name`` is not a live member.
        """
        with self._transaction():
            mesh = self.mesh()
            if not self.is_live(name):
                raise _not_a_member(name)
            self._execute("UPDATE members SET state = ? WHERE name = ?", MemberState.REVOKED, name)
            self._execute(
                "UPDATE certificates SET revoked_at = ? WHERE uri = ? AND revoked_at IS NULL",
                now,
                names.node_uri(mesh.name, name),
            )
            updated_at = revocation.next_update(mesh.crl_updated_at, now)
            self._execute("UPDATE mesh SET crl_number = crl_number + 1, crl_updated_at = ?", updated_at)
            self._note(now, actor, Action.NODE_REVOKED, name)
            return self.revocations()

    def revocations(self) -> Revocations:
        """The list as it stands. Signed again it has the same number and entries: a crash before sending is no loss."""
        with self._transaction(write=False):
            mesh = self.mesh()
            # Entries stay after their certificate expired: one costs 40 bytes, and a slow clock somewhere may need it.
            revoked = self._all(
                Revoked,
                "SELECT serial, revoked_at AS at FROM certificates WHERE revoked_at IS NOT NULL ORDER BY at, serial",
            )
        return Revocations(number=mesh.crl_number, updated_at=mesh.crl_updated_at, revoked=revoked)

    # API keys

    def add_key(self, key: ApiKey, actor: str, now: float) -> None:
        with self._transaction():
            row = (*msgspec.structs.astuple(key)[:-1], msgspec.json.encode(key.models).decode())
            self._execute("INSERT INTO api_keys VALUES (?, ?, ?, ?, ?, ?, ?)", *row)
            self._note(now, actor, Action.KEY_CREATED, key.id, name=key.name)

    def find_key(self, key_id: str) -> ApiKey | None:
        """One look-up by primary key, microseconds: what :class:`rpcmesh.gateway.keys.KeyStore` asks for."""
        return self._one(ApiKey, "SELECT * FROM api_keys WHERE id = ?", key_id)

    def keys(self) -> tuple[ApiKey, ...]:
        return self._all(ApiKey, "SELECT * FROM api_keys ORDER BY created_at, id")

    def revoke_key(self, key_id: str, actor: str, now: float) -> None:
        """Raises :class:`RpcmeshError` if there is no such key or it was revoked before."""
        with self._transaction():
            revoked = self._execute(
                "UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", now, key_id
            ).rowcount
            if not revoked:
                known = "is revoked already" if self.find_key(key_id) else "does not exist"
                raise RpcmeshError(f"API key {key_id!r} {known}", hint="rpcmesh key ls")
            self._note(now, actor, Action.KEY_REVOKED, key_id)

    # Audit

    def append_audit(self, at: float, actor: str, action: Action, subject: str, **detail: str) -> None:
        """For what happens outside the store. The store's own methods append their entries themselves."""
        with self._transaction():
            self._note(at, actor, action, subject, **detail)

    def audit(self, limit: int = 100) -> tuple[AuditEntry, ...]:
        """The latest ``limit`` entries, newest first."""
        return self._all(AuditEntry, "SELECT * FROM audit ORDER BY id DESC LIMIT ?", limit)

    # Inside a transaction

    def _mesh(self) -> Mesh | None:
        return self._one(Mesh, "SELECT * FROM mesh")

    def _record(self, certificate: Certificate) -> None:
        self._execute(
            "INSERT INTO certificates VALUES (?, ?, ?, ?, NULL)",
            certificate.serial,
            certificate.uri,
            certificate.not_before,
            certificate.not_after,
        )

    def _note(self, at: float, actor: str, action: Action, subject: str, **detail: str) -> None:
        self._execute(
            "INSERT INTO audit (at, actor, action, subject, detail) VALUES (?, ?, ?, ?, ?)",
            at,
            actor,
            action,
            subject,
            msgspec.json.encode(detail).decode(),
        )

    # SQLite

    @contextlib.contextmanager
    def _transaction(self, *, write: bool = True) -> Iterator[None]:
        with self._lock:
            if self._connection.in_transaction:
                yield  # part of the one that is open
                return
            try:
                # IMMEDIATE takes the write lock now: taken later, it could fail after something was read.
                self._connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                try:
                    yield
                    self._connection.execute("COMMIT")
                except BaseException:
                    schema.roll_back(self._connection)
                    raise
            except sqlite3.Error as error:
                raise RpcmeshError(f"the database {str(self.path)!r} failed: {error}") from error

    def _execute(self, sql: str, *values: str | bytes | float | None) -> sqlite3.Cursor:
        return self._connection.execute(sql, values)

    def _all(self, kind: type[T], sql: str, *values: str | float) -> tuple[T, ...]:
        with self._lock:
            try:
                rows: Sequence[sqlite3.Row] = self._execute(sql, *values).fetchall()
            except sqlite3.Error as error:
                raise RpcmeshError(f"the database {str(self.path)!r} failed: {error}") from error
        return tuple(msgspec.convert(_plain(row), kind) for row in rows)

    def _one(self, kind: type[T], sql: str, *values: str | float) -> T | None:
        found = self._all(kind, sql, *values)
        return found[0] if found else None


class NameTakenError(RpcmeshError):
    """A live node has the name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the node name {name!r} is taken",
            hint=f"on the coordinator: rpcmesh node revoke {name}, then rpcmesh token create --node {name}",
        )


def _not_a_member(name: str) -> RpcmeshError:
    return RpcmeshError(f"{name!r} is not a live member of this mesh", hint="rpcmesh node ls")


# Columns that hold JSON.
_JSON = ("models", "detail")


def _plain(row: sqlite3.Row) -> dict[str, object]:
    return {name: msgspec.json.decode(row[name]) if name in _JSON else row[name] for name in row.keys()}  # noqa: SIM118
