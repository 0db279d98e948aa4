"""The database file: its tables, how an older one becomes a newer one, and how a connection is opened safely."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from rpcmesh.errors import RpcmeshError
from rpcmesh.pki import files

# How long a writer waits for another process's transaction. Ours take milliseconds.
BUSY_TIMEOUT_MS = 5000

# Row n takes the database from user_version n to n + 1. A row that was released is never edited: add one below it.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE mesh (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            name TEXT NOT NULL,
            founded_at REAL NOT NULL,
            crl_number INTEGER NOT NULL,
            crl_updated_at REAL NOT NULL
        ) STRICT""",
        """CREATE TABLE members (
            name TEXT PRIMARY KEY,
            address TEXT NOT NULL,
            build_id TEXT NOT NULL,
            os TEXT NOT NULL,
            joined_at REAL NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('joined', 'revoked'))
        ) STRICT""",
        # A serial has 160 bits and an INTEGER 64, so it is text. The gateway's certificate has no URI.
        """CREATE TABLE certificates (
            serial TEXT PRIMARY KEY,
            uri TEXT,
            not_before REAL NOT NULL,
            not_after REAL NOT NULL,
            revoked_at REAL
        ) STRICT""",
        "CREATE INDEX certificates_by_uri ON certificates (uri)",
        """CREATE TABLE join_tokens (
            id TEXT PRIMARY KEY,
            mac_key BLOB NOT NULL,
            node TEXT,
            created_at REAL NOT NULL,
            expires_at REAL NOT NULL,
            consumed_at REAL
        ) STRICT""",
        """CREATE TABLE api_keys (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            secret_hash BLOB NOT NULL,
            created_at REAL NOT NULL,
            expires_at REAL,
            revoked_at REAL,
            models TEXT NOT NULL CHECK (json_valid(models))
        ) STRICT""",
        """CREATE TABLE audit (
            id INTEGER PRIMARY KEY,
            at REAL NOT NULL,
            actor TEXT NOT NULL,
            action TEXT NOT NULL,
            subject TEXT NOT NULL,
            detail TEXT NOT NULL CHECK (json_valid(detail))
        ) STRICT""",
        "CREATE TRIGGER audit_stays BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END",
        "CREATE TRIGGER audit_holds BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END",
    ),
    ("ALTER TABLE members ADD COLUMN drained_at REAL",),
)


def connect(path: Path) -> sqlite3.Connection:
    """Open the database, making or migrating it first. Transactions are begun explicitly.

    Raises :class:`RpcmeshError` if the file is open to others, no database, or of a newer version of rpcmesh.
    """
    _make_private(path)
    try:
        # The caller holds a lock around every use, so the connection may wander between threads.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise RpcmeshError(f"cannot open the database {str(path)!r}: {error}") from error
    try:
        connection.row_factory = sqlite3.Row
        # Two that make the database at once would meet in the switch to WAL, where SQLite does not wait for the other.
        with files.locked(path.parent):
            _configure(connection)
            _migrate(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise RpcmeshError(
            f"cannot open the database {str(path)!r}: {error}",
            hint=f"restore it from a backup, or move it away: {path}",
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _make_private(path: Path) -> None:
    # SQLite gives its journal files the mode of the database, so it is enough to make that one 0600.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        found = path.lstat()
    except OSError as error:
        raise RpcmeshError(f"cannot open the database {str(path)!r}: {error.strerror}") from error
    files.require_private(path, found)


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    # FULL: a consumed token stays consumed after a power cut. fullfsync is macOS's word for it, ignored elsewhere.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")
    connection.execute("PRAGMA foreign_keys = ON")


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    if _version(connection) == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Asked again under the lock: another process may have been quicker.
        version = _version(connection)
        if version > len(MIGRATIONS):
            raise RpcmeshError(
                f"the database {str(path)!r} was written by a newer rpcmesh (schema {version}, "
                f"this one knows {len(MIGRATIONS)})",
                hint="install that version again",
            )
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def roll_back(connection: sqlite3.Connection) -> None:
    """End a failed transaction. On a full disk SQLite has done so by itself, and asking again would hide why."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version
