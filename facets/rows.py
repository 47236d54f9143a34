"""Instances into rows of the state database, many to a statement.

The interpreter's lock is shared with an event loop, and each step of a statement lets go of it and has to get it back.
So rows are written many to a statement, and what can be told in one row (a list of keys) is asked for in one; but not
all rows of a long segment are made before the first is written, as nobody else runs while they are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

import apsw
import msgspec

from facets import attributes
from facets.chunks import TAIL_BYTES, cut_into_chunks, head_of, pack, row_id
from facets.database import listed
from facets.dictionary import Dictionary
from facets.erasure import Tally, tally_of
from facets.shard import shard_of
from facets.tail import Held

# Rows in one statement: few hand-overs of the interpreter's lock, and few different statements.
ROW_COUNTS = (32, 8, 1)

_COLUMNS = (
    "key, tenant, instance, version, state, shard, sequence, wake_at_ms, created_at_ms, updated_at_ms, facet_bytes, "
    "summary, tail_first, tail"
)
_INSERT = f"INSERT INTO instance({_COLUMNS}) VALUES "  # noqa: S608 - own names; all of the text is, below too
# Every column but those that never change, and the tail, to which the new entries are added. (`||` makes a text of two
# blobs, byte by byte.)
_UPDATE = (
    " ON CONFLICT(key) DO UPDATE SET version = excluded.version, state = excluded.state, sequence = excluded.sequence, "
    "wake_at_ms = excluded.wake_at_ms, created_at_ms = excluded.created_at_ms, updated_at_ms = excluded.updated_at_ms, "
    "facet_bytes = excluded.facet_bytes, summary = excluded.summary, "
    "tail = CASE WHEN length(excluded.tail) THEN CAST(instance.tail || excluded.tail AS BLOB) ELSE instance.tail END"
)

_Row = tuple[int | str | bytes | None, ...]


class RowWriter:
    """Writes what a segment of the tail holds of instances, in one write transaction; `flush` at its end."""

    def __init__(self, connection: apsw.Connection, dictionary: Dictionary, tally: Tally) -> None:
        """`tally` is kept up with what is written."""
        self._connection = connection
        self._dictionary = dictionary
        self._tally = tally
        self._new: list[_Row] = []
        self._old: list[_Row] = []
        self._chunks: list[tuple[int, bytes]] = []
        self._attributes: list[tuple[int, int, bytes]] = []
        self._has_attributes = attributes.are_any(connection)

    def write(self, tenant: int, held: Held) -> None:
        """One instance of the tenant with this id."""
        row = self._row(tenant, held)
        rows = self._new if held.records[0].sequence == 1 else self._old
        rows.append(row)
        content = held.last.record.row.attributes if held.last is not None else b""
        if content or (self._has_attributes and rows is self._old):
            self._attributes.append((held.key, tenant, content))
        self._tally[row[3], row[4]] += 1  # type: ignore[index]  # version and state, both integers
        if len(rows) >= ROW_COUNTS[0]:
            self.flush()

    def flush(self) -> None:
        _write_rows(self._connection, _INSERT, self._new)
        if self._old:
            keys = [row[0] for row in self._old]
            self._tally.subtract(tally_of(self._connection, keys))
            _write_rows(self._connection, _INSERT, self._old, _UPDATE)
            self._close_tails(keys)
        if self._attributes:
            attributes.write(self._connection, self._attributes)
            self._has_attributes = True
        if self._chunks:
            self._connection.executemany("INSERT INTO chunk VALUES(?, ?)", self._chunks)
        self._new.clear()
        self._old.clear()
        self._chunks.clear()
        self._attributes.clear()

    def _row(self, tenant: int, held: Held) -> _Row:
        """The values of an instance's row; what is too large for its tail goes into chunks."""
        assert held.last is not None, "only what is there is written"
        key, last = held.key, held.last
        record, sequence, facet_bytes = last.record, last.sequence, last.facet_bytes
        row = record.row
        is_new = held.records[0].sequence == 1
        run: list[bytes] = []
        size = 0
        for each in held.records:
            if each.sequence:
                run += (head_of(each.entry, has_delta=bool(each.delta)), each.entry)
                size += len(each.entry)
        tail_first = 1
        if size >= TAIL_BYTES:
            first = sequence + 1 - len(run) // 2
            if not is_new:
                self._close_tail(key)
            self._chunks += [(row_id(key, number), content) for number, content in cut_into_chunks(first, run)]
            run, tail_first = [], sequence + 1
            if not is_new:
                self._connection.execute("UPDATE instance SET tail_first = ? WHERE key = ?", (tail_first, key))
        return (
            key,
            tenant,
            record.instance,
            self._dictionary.version(tenant, row.workflow, row.commit),
            self._dictionary.state(row.state),
            shard_of(record.tenant, record.instance) if is_new else 0,
            sequence,
            row.wake_at_ms,
            row.created_at_ms,
            row.updated_at_ms,
            facet_bytes,
            row.summary,
            tail_first,
            b"".join(run),
        )

    def _close_tail(self, key: int) -> None:
        """The entries in an instance's row become a chunk."""
        first, tail = next(self._connection.execute("SELECT tail_first, tail FROM instance WHERE key = ?", (key,)))
        if tail:
            self._connection.execute("INSERT INTO chunk VALUES(?, ?)", (row_id(key, first), pack(tail)))
        self._connection.execute("UPDATE instance SET tail_first = sequence + 1, tail = x'' WHERE key = ?", (key,))

    def _close_tails(self, keys: Sequence[object]) -> None:
        """Those tails of these instances that have become large enough."""
        full = self._connection.execute(
            "SELECT json_group_array(key) FROM instance WHERE key IN (SELECT value FROM json_each(?)) "
            "AND length(tail) >= ?",
            (listed(keys), TAIL_BYTES),
        ).get
        for key in msgspec.json.decode(full, type=list[int]):
            self._close_tail(key)


@lru_cache(maxsize=64)
def _values(width: int, count: int) -> str:
    one = f"({','.join('?' * width)})"
    return ",".join([one] * count)


def _write_rows(connection: apsw.Connection, head: str, rows: Sequence[_Row], tail: str = "") -> None:
    """Rows in as few statements as can be; `head` and `tail` are what stands around their values."""
    at = 0
    for count in ROW_COUNTS:
        while len(rows) - at >= count:
            part = rows[at : at + count]
            sql = f"{head}{_values(len(part[0]), count)}{tail}"
            connection.execute(sql, tuple(chain.from_iterable(part)))
            at += count
