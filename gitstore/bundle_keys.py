"""Which bundle each commit uses, inside a transaction. Bundles are shared by commits, and by tenants, of equal trees.

All functions run inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import apsw


def find(connection: apsw.Connection, tenant_id: int, commit: str) -> str | None:
    """The key last recorded; None if none was."""
    query = "SELECT key FROM bundles WHERE tenant_id = ? AND commit_oid = ?"
    row = connection.execute(query, (tenant_id, commit)).fetchone()
    return None if row is None else str(row[0])


def record(connection: apsw.Connection, tenant_id: int, commit: str, key: str) -> None:
    connection.execute("INSERT OR REPLACE INTO bundles VALUES (?, ?, ?)", (tenant_id, commit, key))


def of_tenant(connection: apsw.Connection, tenant_id: int) -> set[str]:
    """The keys that any commit of the tenant uses."""
    rows = connection.execute("SELECT DISTINCT key FROM bundles WHERE tenant_id = ?", (tenant_id,))
    return {str(row[0]) for row in rows}


def forget(connection: apsw.Connection, tenant_id: int, keep: Collection[str]) -> set[str]:
    """Forget what all commits but `keep` use; the keys that those used."""
    rows = connection.execute("SELECT commit_oid, key FROM bundles WHERE tenant_id = ?", (tenant_id,)).fetchall()
    gone = [(str(commit), str(key)) for commit, key in rows if commit not in keep]
    connection.executemany(
        "DELETE FROM bundles WHERE tenant_id = ? AND commit_oid = ?", [(tenant_id, commit) for commit, _ in gone]
    )
    return {key for _, key in gone}


def remove_unused(connection: apsw.Connection, keys: Collection[str], remove_bundle: Callable[[str], None]) -> None:
    """Remove files inside the writing transaction: whoever records a key and then looks for its file is either
    seen here, or finds that the file is gone and builds it again. A crash before the commit leaves rows without
    a file, which are built again too.
    """
    for key in keys:
        if connection.execute("SELECT 1 FROM bundles WHERE key = ? LIMIT 1", (key,)).fetchone() is None:
            remove_bundle(key)
