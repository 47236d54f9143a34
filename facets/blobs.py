"""Blobs: byte streams of instances, in a file of their own (`blobs.db`), which is made when the first one is written.

A blob is written part by part, each durable on return, and never changed. It is of use once a journal entry names it:
parts first, then the entry, so that what an entry names is always there, and what a crash leaves without an entry is
swept. Who writes says which other blobs of the instance are still named; the rest is taken out of sight at once, in one
small write, and erased in portions (`erase_some`), after which the file is shorter again.

Neither log nor fold know of it: nothing here is written twice but for the write-ahead file.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw

from facets.blob_file import WAL_PAGES_MAX, BlobFile
from facets.database import listed, query, reading
from facets.errors import Corrupt, Refused
from facets.log import integrity_problems

PART_BITS = 24
KEYS_KNOWN_MAX = 100_000
"""So many instances with blobs are known in memory; if there are more, every question goes to the file."""
ERASED_AT_ONCE = 8
"""Parts that one transaction erases."""
_DOOMED = 0
"""No instance has this key."""

Known = Callable[[set[int]], set[int]]


class BlobStore(BlobFile):
    """By instance key. Thread-safe; after StoreFailed it refuses everything."""

    def __init__(self, path: Path, *, bytes_max: int, vfs: str | None = None) -> None:
        """`bytes_max`: of all blobs of one instance together."""
        super().__init__(path, vfs=vfs)
        self._bytes_max = bytes_max
        self._keys: set[int] | None = set()
        self._holds = 0
        self._has_doomed = False
        with reading(path):
            is_there = path.exists()
        if is_there:
            self._open()

    def may_have(self, key: int) -> bool:
        """Whether the instance may have blobs; asks nothing of the disk."""
        keys = self._keys
        return keys is None or key in keys

    def put(self, key: int, id: int, first: int, parts: Sequence[bytes], keep: Collection[int]) -> None:
        """Append parts, `first` being the number of the first; durable on return.

        `first` 0 begins the blob; other blobs of the instance are gone then, but for those in `keep`. Raises Refused
        (`blobs_too_large`, `blob_out_of_order`: it is not there, or another part comes next; nothing was written),
        StorageFull, StoreFailed.
        """
        with self._lock:
            connection = self._ready()
            with self._writing(connection):
                if first == 0:
                    self._doom(connection, key, keep)
                    connection.execute("INSERT INTO blob(key, id, size, parts) VALUES(?, ?, 0, 0)", (key, id))
                self._append(connection, key, id, first, parts)
            if self._keys is not None:
                self._keys.add(key)
                if len(self._keys) > KEYS_KNOWN_MAX:
                    self._keys = None
            if self._wal_pages > WAL_PAGES_MAX:
                self._checkpoint(connection, apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _append(self, connection: apsw.Connection, key: int, id: int, first: int, parts: Sequence[bytes]) -> None:
        found = connection.execute("SELECT number, parts FROM blob WHERE key = ? AND id = ?", (key, id)).fetchone()
        if found is None or found[1] != first:
            raise Refused(
                f"Part {first} of a blob came where part {0 if found is None else found[1]} comes next.",
                code="blob_out_of_order",
            )
        size = sum(map(len, parts))
        held: int = connection.execute("SELECT sum(size) FROM blob WHERE key = ?", (key,)).get
        if held + size > self._bytes_max:
            raise Refused(
                f"The byte streams of the instance would have {held + size} bytes, the limit is {self._bytes_max}.",
                code="blobs_too_large",
                details={"bytes_max": self._bytes_max},
            )
        number: int = found[0]
        connection.execute(
            "UPDATE blob SET size = size + ?, parts = parts + ? WHERE number = ?", (size, len(parts), number)
        )
        connection.executemany(
            "INSERT INTO part VALUES(?, ?, ?)",
            [(number << PART_BITS | first + at, zlib.crc32(part), part) for at, part in enumerate(parts)],
        )

    def part(self, key: int, id: int, number: int) -> bytes | None:
        """A part; None: there is no such blob, or it has fewer. Raises Corrupt, Unavailable."""
        with self._lock:
            if self._connection is None:
                return None
            self._refuse_if_failed()
            with reading(self.path):
                found = self._connection.execute(
                    "SELECT checksum, content FROM part "
                    "WHERE id = (SELECT number << 24 FROM blob WHERE key = ? AND id = ?) + ?",
                    (key, id, number),
                ).fetchone()
        if found is None:
            return None
        content: bytes = found[1]
        if zlib.crc32(content) != found[0]:
            raise Corrupt(f"Part {number} of a blob does not have its checksum.", code="blob_corrupt")
        return content

    def sizes(self, key: int) -> dict[int, int]:
        """Bytes of each blob of an instance, by id."""
        with self._lock:
            if self._connection is None:
                return {}
            with reading(self.path):
                return dict(query(self._connection, "SELECT id, size FROM blob WHERE key = ?", (key,)))

    # --- deleting

    def sweep(self, key: int, keep: Collection[int]) -> None:
        """Blobs of the instance are gone, but for those in `keep`.

        Raises StorageFull, StoreFailed.
        """
        with self._lock:
            if self._connection is None or not self.may_have(key):
                return
            self._refuse_if_failed()
            with self._writing(self._connection):
                self._doom(self._connection, key, keep)
            self._note_left(self._connection, (key,))

    def _doom(self, connection: apsw.Connection, key: int, keep: Collection[int]) -> None:
        if self._holds:  # a copy is made, of a moment at which they may have been named
            return
        connection.execute(
            "UPDATE blob SET key = 0 WHERE key = ? AND id NOT IN (SELECT value FROM json_each(?))",
            (key, listed(list(keep))),
        )
        self._has_doomed = self._has_doomed or connection.changes() > 0

    def erase(self, keys: Sequence[int]) -> None:
        """All blobs of these instances are gone. Raises StorageFull, StoreFailed."""
        with self._lock:
            found = [key for key in keys if self.may_have(key)]
            if self._connection is None or not found:
                return
            self._refuse_if_failed()
            with self._writing(self._connection):
                self._connection.execute(
                    "UPDATE blob SET key = 0 WHERE key IN (SELECT value FROM json_each(?))", (listed(found),)
                )
                self._has_doomed = self._has_doomed or self._connection.changes() > 0
            self._note_left(self._connection, found)

    def _note_left(self, connection: apsw.Connection, keys: Sequence[int]) -> None:
        if self._keys is not None:
            left = query(
                connection,
                "SELECT DISTINCT key FROM blob WHERE key IN (SELECT value FROM json_each(?))",
                (listed(keys),),
            )
            self._keys.difference_update(set(keys).difference(key for (key,) in left))

    def erase_some(self) -> int:
        """One transaction's share of what is gone; about how many bytes that was. 0: nothing is left of it."""
        with self._lock:
            if self._connection is None or not self._has_doomed:
                return 0
            self._refuse_if_failed()
            connection = self._connection
            with self._writing(connection):
                number = connection.execute("SELECT number FROM blob WHERE key = ? LIMIT 1", (_DOOMED,)).get
                erased = 0 if number is None else self._erase_of(connection, number)
            self._has_doomed = number is not None
            if number is None or self._wal_pages > WAL_PAGES_MAX:
                self._checkpoint(connection, apsw.SQLITE_CHECKPOINT_TRUNCATE)
            return erased

    def _erase_of(self, connection: apsw.Connection, number: int) -> int:
        low, high = number << PART_BITS, (number + 1 << PART_BITS) - 1
        sql = "SELECT id, length(content) FROM part WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT ?"
        found = list(query(connection, sql, (low, high, ERASED_AT_ONCE)))
        connection.executemany("DELETE FROM part WHERE id = ?", [(identifier,) for identifier, _ in found])
        if len(found) < ERASED_AT_ONCE:
            connection.execute("DELETE FROM blob WHERE number = ?", (number,))
        for _ in connection.execute("PRAGMA incremental_vacuum"):
            pass
        return 1 + sum(int(size) for _, size in found)

    # --- care

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing is swept meanwhile."""
        with self._lock:
            self._holds += 1
        try:
            yield
        finally:
            with self._lock:
                self._holds -= 1

    def problems(self, known: Known) -> list[str]:
        """What is wrong; `known`: those of these keys that are of an instance."""
        with self._lock:
            if self._connection is None:
                return []
            connection = self._connection
            problems = integrity_problems(connection, self.path)
            with reading(self.path):
                rows = list(query(connection, "SELECT number, key, size, parts FROM blob"))
                keys = known({key for _, key, _, _ in rows})
                for number, key, size, parts in rows:
                    if key == _DOOMED:
                        continue
                    if key not in keys:
                        problems.append(f"{self.path.name}: blob {number} belongs to no instance")
                    if self._measured(connection, number) != (parts, size):
                        problems.append(
                            f"{self.path.name}: blob {number} has not all of its parts as they were written"
                        )
            return problems

    def _measured(self, connection: apsw.Connection, number: int) -> tuple[int, int]:
        """Parts and bytes that are as they were written."""
        span = (number << PART_BITS, (number + 1 << PART_BITS) - 1)
        parts = size = 0
        for checksum, content in query(connection, "SELECT checksum, content FROM part WHERE id BETWEEN ? AND ?", span):
            if zlib.crc32(content) == checksum:
                parts, size = parts + 1, size + len(content)
        return parts, size

    def erase_orphans(self, known: Known) -> None:
        """What was written for an instance while it was deleted, by a process that died then. Raises as `erase`."""
        if self._connection is not None:
            with self._lock, reading(self.path):
                sql = "SELECT DISTINCT key FROM blob WHERE key > 0"
                keys = {key for (key,) in query(self._connection, sql)}
            self.erase(sorted(keys - known(keys)))

    def _load(self, connection: apsw.Connection) -> None:
        sql = "SELECT DISTINCT key FROM blob LIMIT ?"
        found = {key for (key,) in query(connection, sql, (KEYS_KNOWN_MAX,))}
        self._keys = found - {_DOOMED} if len(found) < KEYS_KNOWN_MAX else None
        self._has_doomed = _DOOMED in found or self._keys is None
