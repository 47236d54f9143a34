"""Captured output of instances, in a file of its own.

Lines are worth less than journals: they are written without an fsync (synchronous=NORMAL; a power cut may lose the last
ones, a killed process loses none that were taken in), and an instance keeps `output_bytes_max` of them at most.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import apsw

from facets import schema
from facets.database import connect, copy_database, query, reading, store_failed, transaction
from facets.log import integrity_problems
from facets.records import OutputLine

# What a line costs at least besides its text, so that empty lines are bounded too.
LINE_BYTES = 64


class OutputStore:
    """Lines by instance key. Thread-safe."""

    def __init__(self, path: Path, *, bytes_max: int, vfs: str | None = None) -> None:
        self.path = path
        self._bytes_max = bytes_max
        self._lock = threading.RLock()
        with reading(path):
            self._connection = connect(path, vfs=vfs, synchronous="NORMAL", create=True)
        try:
            schema.migrate(self._connection, path, schema.OUTPUT)
            self._connection.pragma("secure_delete", True)
        except BaseException:
            self._connection.close()
            raise

    def append(self, lines: Iterable[OutputLine], *, key_of: Callable[[str, str], int | None]) -> None:
        """Take lines in, in this order; those already there are left as they are, and so are those of no instance.

        Raises StorageFull (none was taken), StoreFailed.
        """
        # The key is looked up under the lock: a deletion that comes later erases what is written here, since the fold
        # that carries it out waits for the lock.
        with self._lock, transaction(self._connection, self.path):
            keys: dict[tuple[str, str], int | None] = {}
            usage: dict[int, tuple[int, bool]] = {}
            for line in lines:
                name = (line.tenant, line.instance)
                if name not in keys:
                    keys[name] = key_of(*name)
                key = keys[name]
                if key is not None:
                    if key not in usage:
                        found = self._connection.execute("SELECT bytes, is_cut FROM usage WHERE key = ?", (key,)).get
                        usage[key] = (found[0], bool(found[1])) if found else (0, False)
                    usage[key] = self._append_one(key, line, *usage[key])
            self._connection.executemany(
                "INSERT OR REPLACE INTO usage VALUES(?, ?, ?)",
                [(key, size, is_cut) for key, (size, is_cut) in usage.items()],
            )

    def _append_one(self, key: int, line: OutputLine, size: int, is_cut: bool) -> tuple[int, bool]:
        if is_cut:
            return size, True
        besides = len((line.step + line.level).encode("utf-8", "surrogatepass"))
        more = len(line.text.encode("utf-8", "surrogatepass")) + max(LINE_BYTES, besides)
        if size + more <= self._bytes_max:
            return (size + more, False) if self._insert(key, line) else (size, False)
        known = self._connection.execute(
            "SELECT 1 FROM line WHERE key = ? AND position = ? AND number = ? AND step = ? AND attempt = ?",
            (key, line.position, line.number, line.step, line.attempt),
        ).get
        if known is not None:
            return size, False
        notice = f"output is cut here: an instance keeps {self._bytes_max} bytes of it"
        self._insert(
            key,
            OutputLine(
                line.tenant, line.instance, line.position, line.number, line.at_ms, "log", "WARNING", line.step,
                line.attempt, notice,
            ),
        )  # fmt: skip
        return size, True

    def _insert(self, key: int, line: OutputLine) -> bool:
        self._connection.execute(
            "INSERT OR IGNORE INTO line(key, position, number, step, attempt, at_ms, stream, level, text) "
            "VALUES(?,?,?,?,?,?,?,?,?)",
            (
                key,
                line.position,
                line.number,
                line.step,
                line.attempt,
                line.at_ms,
                line.stream,
                line.level,
                line.text.encode("utf-8", "replace").decode(),  # half a surrogate pair is printable, but not UTF-8
            ),
        )
        return self._connection.changes() == 1

    def read(self, tenant: str, instance: str, key: int, *, after: int, limit: int) -> list[tuple[int, OutputLine]]:
        """Lines in the order in which they came, behind the cursor `after`, each with its own cursor."""
        with self._lock, reading(self.path):
            sql = (
                "SELECT id, position, number, at_ms, stream, level, step, attempt, text FROM line "
                "WHERE key = ? AND id > ? ORDER BY id LIMIT ?"
            )
            rows = query(self._connection, sql, (key, after, limit))
            return [(identifier, OutputLine(tenant, instance, *rest)) for identifier, *rest in rows]

    def erase(self, keys: Sequence[int]) -> None:
        """All lines of these instances are gone. Raises StorageFull, StoreFailed."""
        with self._lock, transaction(self._connection, self.path):
            self._connection.executemany("DELETE FROM line WHERE key = ?", [(key,) for key in keys])
            self._connection.executemany("DELETE FROM usage WHERE key = ?", [(key,) for key in keys])

    def checkpoint(self, *, truncate: bool) -> None:
        """Bring the write-ahead file home. Raises StoreFailed."""
        mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if truncate else apsw.SQLITE_CHECKPOINT_PASSIVE
        with self._lock:
            try:
                self._connection.wal_checkpoint(mode=mode)
            except (apsw.BusyError, apsw.LockedError, apsw.FullError):
                return  # the next one does it
            except apsw.Error as error:
                raise store_failed(self.path, error) from error

    def copy_to(self, target: Path) -> None:
        with self._lock:
            copy_database(self._connection, self.path, target)

    def problems(self) -> list[str]:
        with self._lock:
            return integrity_problems(self._connection, self.path)

    def close(self) -> None:
        with self._lock:
            self._connection.close()
