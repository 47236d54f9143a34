"""Pins inside a transaction: commits that are kept, each for reasons of its own.

All functions run inside the caller's transaction.
"""

from __future__ import annotations

import apsw

from .refs import bump_version
from .rows import Pin


def of_tenant(connection: apsw.Connection, tenant_id: int) -> list[Pin]:
    """All pins by commit and reason."""
    rows = connection.execute(
        "SELECT commit_oid, reason, pinned_at_ms FROM pins WHERE tenant_id = ? ORDER BY 1, 2", (tenant_id,)
    )
    return [Pin(*row) for row in rows]


def commits(connection: apsw.Connection, tenant_id: int) -> set[str]:
    """Commits that are pinned, whatever for."""
    rows = connection.execute("SELECT DISTINCT commit_oid FROM pins WHERE tenant_id = ?", (tenant_id,))
    return {str(row[0]) for row in rows}


def has(connection: apsw.Connection, tenant_id: int, commit: str, reason: str) -> bool:
    query = "SELECT 1 FROM pins WHERE tenant_id = ? AND commit_oid = ? AND reason = ?"
    return connection.execute(query, (tenant_id, commit, reason)).fetchone() is not None


def add(connection: apsw.Connection, tenant_id: int, commit: str, reason: str, now_ms: int) -> None:
    """Nothing happens if the commit is kept for that reason."""
    # The mirror has one ref per commit, not per reason.
    if not _is_pinned(connection, tenant_id, commit):
        bump_version(connection, tenant_id)
    connection.execute("INSERT OR IGNORE INTO pins VALUES (?, ?, ?, ?)", (tenant_id, commit, reason, now_ms))


def remove(connection: apsw.Connection, tenant_id: int, commit: str, reason: str) -> bool:
    """Whether there was such a pin; it is gone."""
    connection.execute(
        "DELETE FROM pins WHERE tenant_id = ? AND commit_oid = ? AND reason = ?", (tenant_id, commit, reason)
    )
    is_removed = connection.changes() > 0
    if is_removed and not _is_pinned(connection, tenant_id, commit):
        bump_version(connection, tenant_id)
    return is_removed


def _is_pinned(connection: apsw.Connection, tenant_id: int, commit: str) -> bool:
    query = "SELECT 1 FROM pins WHERE tenant_id = ? AND commit_oid = ? LIMIT 1"
    return connection.execute(query, (tenant_id, commit)).fetchone() is not None
