"""The index: instances by name, wake time, state, tenant, workflow and commit, over the state database and the tail.

Every function here takes a view of the tail that was taken *before* the snapshot began (see tail.py) and merges the
two: rows that the tail tells better are left out of the database's answer. No query walks all instances: each is a
range of an index plus what is in the tail; how many there are of what is kept in a tally. (`min(wake_at_ms)` would
ignore the partial index; ordering uses it.)
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import heappop, heappush, merge
from itertools import chain, islice
from pathlib import Path

import apsw
import msgspec

from facets.database import connect, query, reading
from facets.erasure import DOOMED_TENANT
from facets.errors import Corrupt, Refused
from facets.records import InstanceRow, RecordLike
from facets.tail import Overlay, View, Wake

COLUMNS = (
    "(SELECT name FROM tenant WHERE id = instance.tenant), instance.instance, instance.key, instance.sequence, "
    "(SELECT name FROM state WHERE id = instance.state), wake_at_ms, "
    "(SELECT workflow FROM version WHERE id = instance.version), "
    '(SELECT "commit" FROM version WHERE id = instance.version), '
    "created_at_ms, updated_at_ms, summary, facet_bytes, "
    "coalesce((SELECT content FROM attribute_set WHERE attribute_set.key = instance.key), x'')"
)
OF_TENANT = "tenant = (SELECT id FROM tenant WHERE name = ?)"
# A listing by workflow or commit goes along this many versions of it at once; for more, along the tenant's instances.
VERSION_COUNT_MAX = 200


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
                folded: int | None = connection.execute("SELECT folded FROM progress").get
                if folded is None:  # pages from before the file was a store: the disk gave up what it had taken
                    raise Corrupt(f"{self._path.name} does not say what is in it.", code="store_corrupt")
                yield Snapshot(connection, folded)
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
) -> tuple[InstanceRow | None, list[RecordLike]]:
    """The row of one instance, and its records behind the snapshot: at least those that the row counts."""
    held = view.holds(tenant, instance, snapshot.folded)
    if held:
        row = held[0].row()
        return row, [] if row is None else [record for each in reversed(held) for record in list(each.records)]
    found = snapshot.connection.execute(
        f"SELECT {COLUMNS} FROM instance WHERE {OF_TENANT} AND instance = ?",  # noqa: S608 - own names, values are bound
        (tenant, instance),
    ).fetchone()
    return (None if found is None else InstanceRow(*found)), []


def known(snapshot: Snapshot, view: View, keys: set[int]) -> set[int]:
    """Those keys that are of an instance, or of one that is deleted and not folded yet."""
    sql = "SELECT key FROM instance WHERE key IN (SELECT value FROM json_each(?))"
    stored = {key for (key,) in query(snapshot.connection, sql, (json.dumps(sorted(keys)),))}
    return keys & (stored | view.keys())


def heads(snapshot: Snapshot, tenant: str, instances: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Key, sequence and facet bytes of those of a tenant's instances that the database has."""
    sql = (
        "SELECT instance, key, sequence, facet_bytes FROM instance "  # noqa: S608 - own names, values are bound
        f"WHERE {OF_TENANT} AND instance IN (SELECT value FROM json_each(?))"
    )
    rows = query(snapshot.connection, sql, (tenant, msgspec.json.encode(instances).decode()))
    return {instance: (key, sequence, facet_bytes) for instance, key, sequence, facet_bytes in rows}


def due(snapshot: Snapshot, view: View, wakes: Sequence[Wake], now_ms: int, limit: int) -> list[InstanceRow]:
    """Rows whose wake time has come, earliest first.

    Database and tail only nominate; each nominee's present row decides, at its own time. So one that changes meanwhile
    is neither missed nor told with an old time.
    """
    stored = _select(snapshot, "wake_at_ms IS NOT NULL AND wake_at_ms <= ? ORDER BY wake_at_ms, key", (now_ms,))
    nominees = merge(
        ((row.wake_at_ms, row.generation, view.resolve(row, snapshot.folded)) for row in stored),
        ((wake, key, _present(view, tenant, instance, snapshot)) for wake, key, tenant, instance in wakes),
        key=lambda nominee: nominee[:2],
    )
    later: list[tuple[int, int, InstanceRow]] = []  # a heap of those that were nominated before their time
    found: dict[int, InstanceRow] = {}
    for wake, key, row in chain(nominees, [(now_ms + 1, 0, None)]):
        while later and later[0][:2] <= (wake, key):
            moved = heappop(later)[2]
            found.setdefault(moved.generation, moved)
        if len(found) >= limit:
            break
        if row is None or row.wake_at_ms is None or row.wake_at_ms > now_ms or row.generation in found:
            continue
        if (row.wake_at_ms, row.generation) > (wake, key):
            heappush(later, (row.wake_at_ms, row.generation, row))
        else:
            found[row.generation] = row
    return sorted(found.values(), key=lambda row: (row.wake_at_ms, row.generation))[:limit]


def _present(view: View, tenant: str, instance: str, snapshot: Snapshot) -> InstanceRow | None:
    """The row in the tail; None if the database has it by now, or nobody."""
    held = view.holds(tenant, instance, snapshot.folded)
    return held[0].row() if held else None


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
    """Rows of all tenants in these states, oldest first, behind generation `after`.

    Looks at the instances in these states only, each of them once a page: meant for states that few are in.
    """
    wanted = set(states)
    overlays = {tenant: view.overlay(tenant, snapshot.folded) for tenant in view.tenants()}
    keys = query(
        snapshot.connection,
        "SELECT instance.key FROM (SELECT DISTINCT version.tenant AS tenant, tally.state AS state "
        "FROM tally JOIN version ON version.id = tally.version WHERE tally.number > 0 "
        "AND tally.state IN (SELECT id FROM state WHERE name IN (SELECT value FROM json_each(?)))) AS place "
        "CROSS JOIN instance ON instance.tenant = place.tenant AND instance.state = place.state "
        "WHERE instance.key > ? ORDER BY instance.key",
        (json.dumps(sorted(wanted)), after),
    )
    stored = (
        row
        for (key,) in keys
        for row in _select(snapshot, "key = ?", (key,))
        if row.tenant not in overlays or not overlays[row.tenant].hides(row.instance)
    )
    ahead = [
        row
        for overlay in overlays.values()
        for row in overlay.present()
        if row.state in wanted and row.generation > after
    ]
    ahead.sort(key=lambda row: row.generation)
    return list(islice(merge(stored, ahead, key=lambda row: row.generation), limit))


def ended(
    snapshot: Snapshot, view: View, before_ms: Mapping[str, int], *, after: int, scan: int
) -> tuple[list[tuple[str, str]], int | None]:
    """Instances, of the next `scan` behind generation `after`, that were last changed before the time of their state,
    and that nothing is to wake.

    Also the generation of the last one looked at; None: there are no more. What the tail has changed is not among them.
    """
    keys = "SELECT key FROM instance WHERE key > ? ORDER BY key LIMIT ?"
    reached = snapshot.connection.execute(
        f"SELECT max(key), count(*) FROM ({keys})",  # noqa: S608 - own text, values are bound
        (after, scan),
    ).fetchone()
    assert reached is not None, "an aggregate has a row"
    last, number = reached
    if not number:
        return [], None
    found: list[InstanceRow] = []
    for state, time_ms in before_ms.items():
        where = "key > ? AND key <= ? AND state = (SELECT id FROM state WHERE name = ?) AND updated_at_ms < ?"
        where += " AND wake_at_ms IS NULL"
        rows = _select(snapshot, where, (after, last, state, time_ms))
        found += [row for row in rows if not view.holds(row.tenant, row.instance, snapshot.folded)]
    found.sort(key=lambda row: row.generation)
    return [(row.tenant, row.instance) for row in found], last if number == scan else None


def count(snapshot: Snapshot, view: View, tenant: str) -> dict[str, int]:
    """Number of a tenant's instances by state; states without any are left out."""
    overlay = view.overlay(tenant, snapshot.folded)
    counts = Counter(row.state for row in overlay.present())
    if not overlay.hides_all:
        for number, state, _ in _tally(snapshot, tenant, overlay):
            counts[state] += number
    return {state: number for state, number in counts.items() if number}


def commits(snapshot: Snapshot, view: View, tenant: str) -> set[str]:
    """The commits of all of a tenant's instances."""
    overlay = view.overlay(tenant, snapshot.folded)
    found = {row.commit for row in overlay.present()}
    if not overlay.hides_all:
        stored: Counter[str] = Counter()
        for number, _, commit in _tally(snapshot, tenant, overlay):
            stored[commit] += number
        found.update(commit for commit, number in stored.items() if number)
    return found


def _tally(snapshot: Snapshot, tenant: str, overlay: Overlay) -> Iterator[tuple[int, str, str]]:
    """(number, state, commit) of what the database has of a tenant, without what the overlay tells better."""
    yield from query(
        snapshot.connection,
        'SELECT tally.number, state.name, version."commit" FROM version '  # noqa: S608 - own names, values are bound
        "JOIN tally ON tally.version = version.id JOIN state ON state.id = tally.state "
        f"WHERE version.{OF_TENANT}",
        (tenant,),
    )
    hidden = overlay.hidden()
    if hidden:
        yield from query(
            snapshot.connection,
            'SELECT -count(*), state.name, version."commit" FROM instance '  # noqa: S608 - own names, values are bound
            "JOIN version ON version.id = instance.version JOIN state ON state.id = instance.state "
            f"WHERE instance.{OF_TENANT} AND instance.instance IN (SELECT value FROM json_each(?)) GROUP BY 2, 3",
            (tenant, json.dumps(hidden)),
        )


def _select(snapshot: Snapshot, where: str, bindings: tuple[object, ...] = ()) -> Iterator[InstanceRow]:
    """Rows of the database, read no further than they are asked for; those that only wait to be erased are left out."""
    sql = f"SELECT {COLUMNS} FROM instance WHERE {where}"  # noqa: S608 - the text is this module's own, values are bound
    rows = query(snapshot.connection, sql, bindings)
    return (InstanceRow(*found) for found in rows if not found[0].startswith(DOOMED_TENANT))
