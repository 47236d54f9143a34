"""Refs inside a transaction: read, and compare-and-set many at once. All functions run in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from .names import ref_problem
from .rows import RefOutcome, RefUpdate

ATOMIC_FAILED: Final = "atomic push failed"


def all_refs(connection: apsw.Connection, tenant_id: int) -> dict[bytes, bytes]:
    """Name → 40 hex digits, sorted by name."""
    rows = connection.execute("SELECT name, oid FROM refs WHERE tenant_id = ? ORDER BY name", (tenant_id,))
    return {bytes(name): oid.encode() for name, oid in rows}


def find(connection: apsw.Connection, tenant_id: int, name: bytes) -> str | None:
    """Where the ref is: 40 hex digits; None if there is none."""
    row = connection.execute("SELECT oid FROM refs WHERE tenant_id = ? AND name = ?", (tenant_id, name)).fetchone()
    return None if row is None else str(row[0])


def update(
    connection: apsw.Connection, tenant_id: int, updates: Sequence[RefUpdate], *, atomic: bool, count_max: int
) -> list[RefOutcome]:
    """Apply the updates whose `old` is what the row says; outcomes in their order. `atomic`: all or none.

    Deletions go first, so that `a` may give way to `a/b` in one push.
    """
    count = connection.execute("SELECT count(*) FROM refs WHERE tenant_id = ?", (tenant_id,)).fetchall()[0][0]
    assert isinstance(count, int)
    reasons: dict[int, str] = {}
    seen: set[bytes] = set()
    connection.execute("SAVEPOINT refs")
    for index, wanted in sorted(enumerate(updates), key=lambda item: item[1].new is not None):
        found = find(connection, tenant_id, wanted.name)
        problem = _problem(connection, tenant_id, wanted, found)
        if problem is None and wanted.name in seen:
            problem = "the push updates this ref twice"
        if problem is None and found is None and wanted.new is not None and count >= count_max:
            problem = f"the repository has {count} refs, the limit is {count_max}"
        seen.add(wanted.name)
        if problem is not None:
            reasons[index] = problem
        elif wanted.new is None:
            connection.execute("DELETE FROM refs WHERE tenant_id = ? AND name = ?", (tenant_id, wanted.name))
            count -= found is not None
        else:
            connection.execute("INSERT OR REPLACE INTO refs VALUES (?, ?, ?)", (tenant_id, wanted.name, wanted.new))
            count += found is None
    if atomic and reasons:
        connection.execute("ROLLBACK TO refs")
        reasons = {index: reasons.get(index, ATOMIC_FAILED) for index in range(len(updates))}
    connection.execute("RELEASE refs")
    return [
        RefOutcome(wanted.name, index not in reasons, reasons.get(index, "")) for index, wanted in enumerate(updates)
    ]


def _problem(connection: apsw.Connection, tenant_id: int, wanted: RefUpdate, found: str | None) -> str | None:
    problem = ref_problem(wanted.name)
    if problem is not None:
        return problem
    if found != wanted.old:
        if found is None:
            return "stale info: the ref is gone; fetch first"
        return f"stale info: the ref is at {found[:12]} now; fetch first"
    if wanted.new is None or found is not None:
        return None
    clash = _clash(connection, tenant_id, wanted.name)
    return None if clash is None else f"the ref {clash.decode(errors='replace')} is in the way"


def _clash(connection: apsw.Connection, tenant_id: int, name: bytes) -> bytes | None:
    """A ref that is a folder of `name`, or has `name` as a folder: git cannot keep both as files."""
    parts = name.split(b"/")
    for count in range(3, len(parts)):
        parent = b"/".join(parts[:count])
        if find(connection, tenant_id, parent) is not None:
            return parent
    row = connection.execute(
        "SELECT name FROM refs WHERE tenant_id = ? AND name > ? AND name < ? LIMIT 1",
        (tenant_id, name + b"/", name + b"0"),
    ).fetchone()
    return None if row is None else bytes(row[0])


def bump_version(connection: apsw.Connection, tenant_id: int) -> None:
    """Say, inside a transaction, that packed-refs has to be written again."""
    connection.execute("UPDATE tenants SET refs_version = refs_version + 1 WHERE id = ?", (tenant_id,))
