"""What the fold does for large facets: it moves their bases on, writing only the chunks that deltas touch.

A base moves on once PAGED_REBASE_COUNT deltas, or PAGED_REBASE_BYTES before they are deflated, have gathered behind it:
a request for pages composes no more than that and what came since the last fold. Its cost is that of the chunks that
the deltas touch, whatever the size of the image; what lies in one chunk is written once for all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import apsw

from facets import delta as deltas
from facets.bases import bound_history
from facets.chunks import row_id, sequence_of
from facets.database import query
from facets.delta import Stamp
from facets.errors import Corrupt, FacetError
from facets.limits import FACET_BYTES_MOST
from facets.paged import Changes, PagedBase, chunk_id, chunk_ids, find_base, whole_base
from facets.pages import CHUNK_BYTES, chunk_count, pack_chunk, unpack_chunk

logger = logging.getLogger(__name__)

PAGED_REBASE_COUNT = 64
PAGED_REBASE_BYTES = 4 * 1024 * 1024
PART_BYTES = 16 * 1024 * 1024
"""Changed blocks held at once while a base moves on."""


class PagedFold:
    """Used by the fold, inside its transaction. `bytes_min`: a facet that grows over this becomes a large one."""

    def __init__(self, connection: apsw.Connection, *, bytes_min: int, history_bytes_max: int) -> None:
        self._connection = connection
        self._bytes_min = bytes_min
        self._history_bytes_max = history_bytes_max

    def take(self, key: int, added: Sequence[tuple[int, bytes]]) -> bool:
        """Deltas (sequence, content) of a facet that the fold has just stored. False: it is a small one."""
        headers = [deltas.read_header(delta, bytes_max=FACET_BYTES_MOST) for _, delta in added]
        size = next((header.after.size for header in reversed(headers) if header is not None), 0)
        base = find_base(self._connection, key)
        if base is None:
            if size <= self._bytes_min:
                return False
            base = self._begin(key)
            count, weight = PAGED_REBASE_COUNT, 0
        else:
            sql = "SELECT delta_count, delta_bytes FROM paged WHERE key = ?"
            ((count, weight),) = query(self._connection, sql, (key,))
        count += len(added)
        weight += sum(header.body_bytes for header in headers if header is not None)
        if base.broken_at is None and (count >= PAGED_REBASE_COUNT or weight >= PAGED_REBASE_BYTES):
            self._move(key, base, added[-1][0])
        else:
            self._connection.execute(
                "UPDATE paged SET delta_count = ?, delta_bytes = ? WHERE key = ?", (count, weight, key)
            )
        return True

    def _begin(self, key: int) -> PagedBase:
        """The base of a small facet, cut into chunks."""
        sequence, whole = whole_base(self._connection, key)
        stamp = deltas.stamp_of(whole)
        chunks = []
        for number in range(chunk_count(len(whole))):
            packed = pack_chunk(whole[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES].ljust(CHUNK_BYTES, b"\0"))
            if packed:
                chunks.append((chunk_id(key, number), packed))
        self._connection.executemany("INSERT INTO paged_chunk VALUES(?, ?)", chunks)
        self._connection.execute(
            "INSERT INTO paged VALUES(?, ?, ?, ?, NULL, 0, 0)", (key, sequence, stamp.size, stamp.checksum)
        )
        self._connection.execute("DELETE FROM base WHERE key = ?", (key,))
        return PagedBase(sequence, stamp, None)

    def _move(self, key: int, base: PagedBase, upto: int) -> None:
        """The base as of record `upto`. A delta that does not fit is marked: reading from there on says why."""
        changes = Changes(base.stamp)
        reached = base.sequence
        broken_at, size = upto, 0
        try:
            for identifier, content in query(
                self._connection,
                "SELECT id, content FROM delta WHERE id > ? AND id <= ? ORDER BY id",
                (row_id(key, base.sequence), row_id(key, upto)),
            ):
                size += len(content)
                try:
                    changes.add(content)
                except FacetError:
                    broken_at = base.sequence + 1
                    self._apply(key, base, changes, reached)
                    broken_at = sequence_of(identifier)
                    raise
                if changes.bytes >= PART_BYTES:
                    broken_at = base.sequence + 1
                    base = self._apply(key, base, changes, sequence_of(identifier))
                    changes = Changes(base.stamp)
                reached = sequence_of(identifier)
            broken_at = base.sequence + 1
            self._apply(key, base, changes, reached)
            bound_history(self._connection, key, upto, more=size, bytes_max=self._history_bytes_max)
        except FacetError as error:
            logger.warning("an instance's facet cannot be rebuilt: %s", error, extra={"instance_key": key})
            self._connection.execute("UPDATE paged SET broken_at = ? WHERE key = ?", (broken_at, key))

    def _apply(self, key: int, base: PagedBase, changes: Changes, sequence: int) -> PagedBase:
        """Write what `changes` touch, all or nothing. Raises Corrupt: they do not lead where they promise."""
        execute = self._connection.execute
        execute("SAVEPOINT paged")
        try:
            self._write(key, base.stamp, changes)
            execute(
                "UPDATE paged SET sequence = ?, size = ?, checksum = ?, delta_count = 0, delta_bytes = 0 WHERE key = ?",
                (sequence, changes.stamp.size, changes.stamp.checksum, key),
            )
        except FacetError:
            execute("ROLLBACK TO paged")
            raise
        finally:
            execute("RELEASE paged")
        return PagedBase(sequence, changes.stamp, None)

    def _write(self, key: int, before: Stamp, changes: Changes) -> None:
        after = changes.stamp
        stamp = before
        for number in changes.chunks():
            identifier = chunk_id(key, number)
            found: bytes | None = self._connection.execute(
                "SELECT content FROM paged_chunk WHERE id = ?", (identifier,)
            ).get
            content, changed = changes.applied(number, unpack_chunk(found or b""))
            stamp = deltas.advance(stamp, stamp.size, changed)
            packed = pack_chunk(content)
            if packed:
                self._connection.execute("INSERT OR REPLACE INTO paged_chunk VALUES(?, ?)", (identifier, packed))
            elif found:
                self._connection.execute("DELETE FROM paged_chunk WHERE id = ?", (identifier,))
        if deltas.advance(stamp, after.size, ()) != after:
            raise _damaged("the changes do not lead to the image that they promise")
        if after.size < before.size or any((number + 1) * CHUNK_BYTES > after.size for number in changes.chunks()):
            self._refuse_beyond(key, after.size)

    def _refuse_beyond(self, key: int, size: int) -> None:
        """Nothing may be left behind the end of the image: it would come back when the image grows again."""
        last, within = divmod(size, CHUNK_BYTES)
        first_id, last_id = chunk_id(key, last), chunk_ids(key)[1]
        for identifier, content in query(
            self._connection,
            "SELECT id, content FROM paged_chunk WHERE id BETWEEN ? AND ? LIMIT 2",
            (first_id, last_id),
        ):
            if identifier > first_id or unpack_chunk(content)[within:].strip(b"\0"):
                raise _damaged("they leave bytes behind the end of the image")


def _damaged(reason: str) -> Corrupt:
    return Corrupt(f"A facet's deltas are damaged: {reason}.", code="facet_delta_corrupt")
