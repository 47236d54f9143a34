"""Deleting in the state database: at once out of sight, then erased a little at a time.

An erased byte is written as a zero, in the write-ahead file first; so to delete is to write as much as goes. The fold
that carries out a deletion only takes the row away and remembers the key (table `doomed`), or takes a tenant's name
away; what hangs on that goes in small transactions with checkpoints between them. They may end anywhere and go on at
the next start, and need little room on a full disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import apsw
import msgspec

from facets import attributes
from facets.blobs import BlobStore
from facets.chunks import row_ids
from facets.database import listed, query, transaction
from facets.output import OutputStore
from facets.paged import chunk_ids

# What one transaction erases, about; a large value goes whole.
PORTION_BYTES = 256 * 1024
# Instances that one transaction takes from a doomed tenant.
PORTION_COUNT = 500
# No tenant has such a name: the store refuses NUL in names.
DOOMED_TENANT = "\0"
_HANGING = (("chunk", row_ids), ("delta", row_ids), ("paged_chunk", chunk_ids))

Tally = Counter[tuple[int, int]]  # (version, state) to a change of its number


def tally_of(connection: apsw.Connection, keys: Sequence[object]) -> Tally:
    """How many of these instances the database has of each version in each state."""
    sql = "SELECT version, state, count(*) FROM instance WHERE key IN (SELECT value FROM json_each(?)) GROUP BY 1, 2"
    rows = query(connection, sql, (listed(keys),))
    return Counter({(version, state): number for version, state, number in rows})


def write_tally(connection: apsw.Connection, changes: Tally) -> None:
    connection.executemany(
        "INSERT INTO tally VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET number = number + excluded.number",
        [(*place, change) for place, change in changes.items() if change],
    )


def remove(connection: apsw.Connection, keys: Sequence[int], tally: Tally) -> None:
    """Take these instances out of sight; what hangs on them is doomed."""
    tally.subtract(tally_of(connection, keys))
    among = "key IN (SELECT value FROM json_each(?))"
    connection.execute(
        f"INSERT INTO doomed SELECT key FROM instance WHERE {among} AND (tail_first > 1 OR facet_bytes > 0 "  # noqa: S608
        "OR key IN (SELECT key FROM base) OR key IN (SELECT key FROM paged))",
        (listed(keys),),
    )
    attributes.remove(connection, keys)
    connection.execute(f"DELETE FROM instance WHERE {among}", (listed(keys),))  # noqa: S608


def doom_tenant(connection: apsw.Connection, name: str) -> bool:
    """Take all of a tenant's instances out of sight. False: it has none."""
    connection.execute(
        "UPDATE tenant SET name = char(0) || id WHERE name = ? "
        "AND EXISTS (SELECT 1 FROM instance WHERE instance.tenant = tenant.id)",
        (name,),
    )
    return connection.changes() > 0


def erase_some(connection: apsw.Connection, path: Path, output: OutputStore, blobs: BlobStore) -> int:
    """One transaction's share of what is doomed; about how many bytes that was. 0: nothing is doomed any more."""
    with transaction(connection, path):
        erased = 0
        while erased < PORTION_BYTES:
            key = connection.execute("SELECT key FROM doomed LIMIT 1").get
            if key is None:
                break
            erased += _erase_of(connection, key, PORTION_BYTES - erased)
        return erased or _erase_of_tenant(connection, output, blobs)


def _erase_of(connection: apsw.Connection, key: int, bytes_max: int) -> int:
    """About `bytes_max` of what hangs on one instance, and at last its place among the doomed."""
    erased = 0
    for table, ids in _HANGING:
        low, high = ids(key)
        last = None
        sql = f"SELECT id, length(content) FROM {table} WHERE id BETWEEN ? AND ? ORDER BY id"  # noqa: S608 - own names
        for identifier, size in query(connection, sql, (low, high)):
            if erased >= bytes_max:
                break
            last, erased = identifier, erased + size + 1
        if last is not None:
            connection.execute(f"DELETE FROM {table} WHERE id BETWEEN ? AND ?", (low, last))  # noqa: S608 - own names
        if erased >= bytes_max:
            return erased
    erased += connection.execute("SELECT length(content) FROM base WHERE key = ?", (key,)).get or 1
    for table in ("base", "history", "paged", "forgotten", "doomed"):
        connection.execute(f"DELETE FROM {table} WHERE key = ?", (key,))  # noqa: S608 - own names
    return erased


def _erase_of_tenant(connection: apsw.Connection, output: OutputStore, blobs: BlobStore) -> int:
    found: str = connection.execute(
        "SELECT json_group_array(key) FROM (SELECT key FROM instance WHERE tenant IN "
        "(SELECT id FROM tenant WHERE name >= char(0) AND name < char(1)) LIMIT ?)",
        (PORTION_COUNT,),
    ).get
    keys = msgspec.json.decode(found, type=list[int])
    if not keys:
        return 0
    tally: Tally = Counter()
    remove(connection, keys, tally)
    write_tally(connection, tally)
    output.erase(keys)
    blobs.erase(keys)
    return PORTION_BYTES
