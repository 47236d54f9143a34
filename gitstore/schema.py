"""Numbered migrations of gitstore's own database, checked against the version stored in it (`PRAGMA user_version`).

Rules: a migration that was released is never edited; a change is the next number. Each runs in one transaction with
the bump of the number, so a crash leaves the old schema or the new. A file of a newer program is refused, untouched.

    tenants         one row is a tenant; `settings` are its owner's, opaque here; `refs_version` grows with every change
                    of what the mirror shows, and `mirrored_version` says which of them packed-refs has: different means
                    rewrite it
    refs            the truth about branches and tags
    deployments     commits that were checked and made ready; never changed
    channel_moves   a channel's history; never changed. `below_id` is the move that was in effect under this one:
                    following it gives the versions before, without those that were rolled back. `is_pinned` is
                    the channel's state after the move (see channels.py)
    channels        the move that each channel rests on now
    pins            commits kept, once per reason
    bundles         which bundle file a commit uses with the interpreter that asked last
    tokens          SHA-256 of each secret, never the secret
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .errors import Refused

if TYPE_CHECKING:
    import apsw

APPLICATION_ID: Final = 0x50445553  # "PDUS" in the file's header: Perdure's store of code

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE tenants (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        created_at_ms INTEGER NOT NULL,
        refs_version INTEGER NOT NULL DEFAULT 0,
        mirrored_version INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX tenants_unmirrored ON tenants (id) WHERE refs_version <> mirrored_version;

    CREATE TABLE refs (
        tenant_id INTEGER NOT NULL REFERENCES tenants ON DELETE CASCADE,
        name BLOB NOT NULL,
        oid TEXT NOT NULL,
        PRIMARY KEY (tenant_id, name)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE deployments (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant_id INTEGER NOT NULL REFERENCES tenants ON DELETE CASCADE,
        commit_oid TEXT NOT NULL,
        tree_oid TEXT NOT NULL,
        branch TEXT NOT NULL,
        channel TEXT NOT NULL,
        workflows TEXT NOT NULL,
        warnings TEXT NOT NULL,
        bundle_key TEXT NOT NULL,
        who TEXT NOT NULL,
        message TEXT NOT NULL,
        created_at_ms INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX deployments_by_tenant ON deployments (tenant_id, id);
    CREATE INDEX deployments_by_commit ON deployments (tenant_id, commit_oid, id);

    CREATE TABLE channel_moves (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant_id INTEGER NOT NULL REFERENCES tenants ON DELETE CASCADE,
        channel TEXT NOT NULL,
        from_commit TEXT,
        to_commit TEXT NOT NULL,
        deployment_id INTEGER NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('push', 'deploy', 'rollback', 'pin', 'unpin', 'undo')),
        who TEXT NOT NULL,
        why TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        below_id INTEGER,
        is_pinned INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX channel_moves_by_channel ON channel_moves (tenant_id, channel, id);

    CREATE TABLE channels (
        tenant_id INTEGER NOT NULL REFERENCES tenants ON DELETE CASCADE,
        name TEXT NOT NULL,
        move_id INTEGER NOT NULL,
        PRIMARY KEY (tenant_id, name)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE pins (
        tenant_id INTEGER NOT NULL REFERENCES tenants ON DELETE CASCADE,
        commit_oid TEXT NOT NULL,
        reason TEXT NOT NULL,
        pinned_at_ms INTEGER NOT NULL,
        PRIMARY KEY (tenant_id, commit_oid, reason)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE bundles (
        tenant_id INTEGER NOT NULL REFERENCES tenants ON DELETE CASCADE,
        commit_oid TEXT NOT NULL,
        key TEXT NOT NULL,
        PRIMARY KEY (tenant_id, commit_oid)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX bundles_by_key ON bundles (key);

    CREATE TABLE tokens (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant_id INTEGER NOT NULL REFERENCES tenants ON DELETE CASCADE,
        digest BLOB NOT NULL UNIQUE,
        access TEXT NOT NULL CHECK (access IN ('read', 'write')),
        label TEXT NOT NULL,
        created_at_ms INTEGER NOT NULL,
        expires_at_ms INTEGER,
        revoked_at_ms INTEGER
    ) STRICT;
    CREATE INDEX tokens_by_tenant ON tokens (tenant_id, id);
    """,
    """
    ALTER TABLE tenants ADD COLUMN settings TEXT NOT NULL DEFAULT '';
    """,
)


def migrate(connection: apsw.Connection) -> int:
    """Bring the file to the newest schema and return its number. Durable on return.

    Raises Refused `schema_too_new` for a file of a newer program, `foreign_file` for some other program's database.
    """
    with connection:  # a savepoint of the caller's transaction
        application = connection.pragma("application_id")
        stored = connection.pragma("user_version")
        is_empty = connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is None
        if application != APPLICATION_ID and not (application == 0 and stored == 0 and is_empty):
            raise Refused(
                f"{connection.filename} is a database, but not one of gitstore.",
                code="foreign_file",
                hint="Give the store a folder of its own.",
                details={"path": connection.filename, "application_id": application},
            )
        if stored > len(MIGRATIONS):
            raise Refused(
                f"{connection.filename} has schema {stored}; this program knows schemas up to {len(MIGRATIONS)}.",
                code="schema_too_new",
                hint="Start the newer program that wrote it.",
                details={"path": connection.filename, "stored": stored, "known": len(MIGRATIONS)},
            )
        for number in range(stored, len(MIGRATIONS)):
            connection.execute(MIGRATIONS[number])
            connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", number + 1)
    return len(MIGRATIONS)
