"""The index: instances by name, wake time, state, tenant, workflow and commit, over the state database and the tail.

Every function here takes a view of the tail that was taken *before* the snapshot began (see tail.py) and merges the
two: rows that the tail tells better are left out of the database's answer. No query walks all instances: each is a
range of an index plus what is in the tail. (`min(wake_at_ms)` would ignore the partial index; ordering uses it.)
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from pathlib import Path

import apsw

from facets.database import connect, query, reading
from facets.errors import Refused
from facets.records import InstanceRow, Record
from facets.tail import View, Wake

COLUMNS = (
    'tenant, instance, key, sequence, state, wake_at_ms, workflow, "commit", '
    "created_at_ms, updated_at_ms, summary, facet_bytes"
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A read transaction on the state database, complete up to position `folded` of the log."""

    connection: apsw.Connection
    folded: int


class Readers:
    """Connections to the state database for readers in any thread: one connection is used by one thread at a time."""

    def __init__(self, path: Path, *, vfs: str | None = None) -> None:
        self._path = path
        self._vfs = vfs
        self._lock = threading.Lock()
        self._idle: list[apsw.Connection] = []
        self._closed = False

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Raises Corrupt or Unavailable, also for what is read inside."""
        with reading(self._path):
            with self._lock:
                if self._closed:
                    raise Refused("The store is closed.", code="store_closed")
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                connection = connect(self._path, vfs=self._vfs)
            try:
                connection.execute("BEGIN")
                yield Snapshot(connection, connection.execute("SELECT folded FROM progress").get)
            finally:
                # A connection whose transaction cannot be ended is not given to the next reader.
                try:
                    connection.execute("ROLLBACK")
                except apsw.Error:
                    connection.close(True)
                else:
                    self._give_back(connection)

    def _give_back(self, connection: apsw.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Connections in use are closed when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def find(snapshot: Snapshot, view: View, tenant: str, instance: str) -> InstanceRow | None:
    """The row of one instance."""
    return find_with_tail(snapshot, view, tenant, instance)[0]


def find_with_tail(
    snapshot: Snapshot, view: View, tenant: str, instance: str
) -> tuple[InstanceRow | None, list[Record]]:
    """The row of one instance, and its records behind the snapshot: at least those that the row counts."""
    entry = view.instance(tenant, instance)
    if entry is not None and (row := entry.row_behind(snapshot.folded)) is not None:
        return row, entry.records_behind(snapshot.folded)
    if view.is_cleared(tenant, instance, snapshot.folded):
        return None, []
    found = snapshot.connection.execute(
        f"SELECT {COLUMNS} FROM instance WHERE tenant = ? AND instance = ?",  # noqa: S608 - own names, values are bound
        (tenant, instance),
    ).fetchone()
    return (None if found is None else InstanceRow(*found)), []


def due(snapshot: Snapshot, view: View, wakes: Sequence[Wake], now_ms: int, limit: int) -> list[InstanceRow]:
    """Rows whose wake time has come, earliest first.

    Database and tail only nominate; each nominee's present row decides. So one that changes meanwhile is neither missed
    nor told with an old time.
    """
    stored = _select(snapshot, "wake_at_ms IS NOT NULL AND wake_at_ms <= ? ORDER BY wake_at_ms, key", (now_ms,))
    nominees = merge(
        ((row.wake_at_ms, row.generation, view.resolve(row, snapshot.folded)) for row in stored),
        ((wake, key, _present(view, tenant, instance, snapshot)) for wake, key, tenant, instance in wakes),
        key=lambda nominee: nominee[:2],
    )
    found: dict[int, InstanceRow] = {}
    for _, _, row in nominees:
        if len(found) >= limit:
            break
        if row is not None and row.wake_at_ms is not None and row.wake_at_ms <= now_ms:
            found[row.generation] = row
    return sorted(found.values(), key=lambda row: (row.wake_at_ms, row.generation))


def _present(view: View, tenant: str, instance: str, snapshot: Snapshot) -> InstanceRow | None:
    """The row in the tail; None if the database has it by now, or nobody."""
    entry = view.instance(tenant, instance)
    return None if entry is None else entry.row_behind(snapshot.folded)


def next_wake_ms(snapshot: Snapshot, view: View, wake: Wake | None) -> int | None:
    """The earliest wake time of all."""
    earliest = None if wake is None else wake[0]
    for stored in _select(snapshot, "wake_at_ms IS NOT NULL ORDER BY wake_at_ms"):
        if earliest is not None and stored.wake_at_ms is not None and earliest <= stored.wake_at_ms:
            break
        row = view.resolve(stored, snapshot.folded)
        if row is not None and row.wake_at_ms is not None:
            earliest = row.wake_at_ms if earliest is None else min(earliest, row.wake_at_ms)
    return earliest


def in_states(snapshot: Snapshot, view: View, states: Sequence[str], *, after: int, limit: int) -> list[InstanceRow]:
    """Rows of all tenants in these states, oldest first, behind generation `after`."""
    wanted = set(states)
    overlays = {tenant: view.overlay(tenant, snapshot.folded) for tenant in view.tenants()}
    stored = [
        (
            row
            for row in _select(snapshot, "state = ? AND key > ? ORDER BY key", (state, after))
            if row.tenant not in overlays or not overlays[row.tenant].hides(row.instance)
        )
        for state in sorted(wanted)
    ]
    ahead = [
        row
        for overlay in overlays.values()
        for row in overlay.present()
        if row.state in wanted and row.generation > after
    ]
    ahead.sort(key=lambda row: row.generation)
    return list(islice(merge(*stored, ahead, key=lambda row: row.generation), limit))


def list_rows(
    snapshot: Snapshot,
    view: View,
    tenant: str,
    *,
    state: str | None,
    workflow: str | None,
    commit: str | None,
    before: int | None,
    limit: int,
) -> list[InstanceRow]:
    """Rows of a tenant, newest first, older than generation `before`."""
    conditions: list[tuple[str, object]] = [("tenant = ?", tenant)]
    conditions += [
        (f"{column} = ?", value)
        for column, value in (('"commit"', commit), ("state", state), ("workflow", workflow))
        if value is not None
    ]
    if before is not None:
        conditions.append(("key < ?", before))
    where = " AND ".join(text for text, _ in conditions)
    overlay = view.overlay(tenant, snapshot.folded)
    stored = (
        row
        for row in _select(snapshot, f"{where} ORDER BY key DESC", tuple(value for _, value in conditions))
        if not overlay.hides(row.instance)
    )
    ahead = [
        row
        for row in overlay.present()
        if (state is None or row.state == state)
        and (workflow is None or row.workflow == workflow)
        and (commit is None or row.commit == commit)
        and (before is None or row.generation < before)
    ]
    ahead.sort(key=lambda row: -row.generation)
    return list(islice(merge(stored, ahead, key=lambda row: -row.generation), limit))


def count(snapshot: Snapshot, view: View, tenant: str) -> dict[str, int]:
    """Number of a tenant's instances by state; states without any are left out."""
    counts: dict[str, int] = {}
    overlay = view.overlay(tenant, snapshot.folded)
    if not overlay.hides_all:
        by_state = "SELECT state, count(*) FROM instance WHERE tenant = ? {} GROUP BY state"
        counts.update(query(snapshot.connection, by_state.format(""), (tenant,)))
        if overlay.rows:
            named = "AND instance IN (SELECT value FROM json_each(?))"
            hidden = json.dumps(list(overlay.rows))
            for state, number in query(snapshot.connection, by_state.format(named), (tenant, hidden)):
                counts[state] -= number
    for row in overlay.present():
        counts[row.state] = counts.get(row.state, 0) + 1
    return {state: number for state, number in counts.items() if number}


def commits(snapshot: Snapshot, view: View, tenant: str) -> set[str]:
    """The commits of all of a tenant's instances."""
    overlay = view.overlay(tenant, snapshot.folded)
    found = {row.commit for row in overlay.present()}
    if overlay.hides_all:
        return found
    # One step of the index for each different commit, however many instances share it.
    skipping = """
        WITH RECURSIVE named(one) AS (
            SELECT min("commit") FROM instance WHERE tenant = ?1
            UNION ALL
            SELECT (SELECT min("commit") FROM instance WHERE tenant = ?1 AND "commit" > one)
            FROM named WHERE one IS NOT NULL
        )
        SELECT one FROM named WHERE one IS NOT NULL
    """
    hidden = json.dumps(list(overlay.rows))
    for (commit,) in list(query(snapshot.connection, skipping, (tenant,))):
        if not overlay.rows or commit in found:
            found.add(commit)
            continue
        another = snapshot.connection.execute(
            'SELECT 1 FROM instance WHERE tenant = ? AND "commit" = ? '
            "AND instance NOT IN (SELECT value FROM json_each(?)) LIMIT 1",
            (tenant, commit, hidden),
        ).get
        if another is not None:
            found.add(commit)
    return found


def _select(snapshot: Snapshot, where: str, bindings: tuple[object, ...] = ()) -> Iterator[InstanceRow]:
    """Rows of the database, read no further than they are asked for."""
    sql = f"SELECT {COLUMNS} FROM instance WHERE {where}"  # noqa: S608 - the text is this module's own, values are bound
    return (InstanceRow(*found) for found in query(snapshot.connection, sql, bindings))
