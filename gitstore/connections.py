"""SQLite for the rows: one writer, as many readers as there are threads reading, and the errors of both translated.

A connection is only ever busy in one thread: the writer under a lock, a reader taken from a pool for one block.
WAL with synchronous=FULL: when `write()` returns, its transaction is on disk (one fsync).
This is the only module that catches SQLite's errors.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from .errors import Corrupt, Refused, Unavailable
from .schema import migrate

_BUSY_TIMEOUT_MS = 10_000
_IDLE_READERS_MAX = 16


class Connections:
    """All connections to one database file. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Open or make the file and migrate it. Raises Refused (foreign or newer file), Corrupt, Unavailable."""
        self._path = path
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._idle: list[apsw.Connection] = []
        self._is_closed = False
        with self._translated():
            self._writer = self._connect()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                migrate(self._writer)
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                self._writer.close()
                raise

    def close(self) -> None:
        """Close every connection; safe to call twice. Blocks still reading or writing finish first or fail cleanly."""
        with self._writing, self._guard:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for connection in idle:
                connection.close()
            self._writer.close()

    @contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """A connection that shows one moment of the database for the whole block."""
        with self._translated():
            connection = self._take()
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                self._give_back(connection)

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[apsw.Connection]:
        """The block is one transaction: committed and on disk when it ends, undone when it raises.

        Not `durable`: a power loss may undo it, but only together with everything after it. No nesting.
        """
        with self._translated(), self._writing:
            self._refuse_closed()
            connection = self._writer
            if not durable:
                connection.execute("PRAGMA synchronous = NORMAL")
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    # SQLite has ended the transaction by itself after some errors (disk full, I/O).
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            finally:
                if not durable:
                    connection.execute("PRAGMA synchronous = FULL")

    def check(self) -> list[str]:
        """SQLite's own integrity check: problems in words, none if sound."""
        with self.read() as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA quick_check")]
            found = [] if found == ["ok"] else found
            dangling = connection.execute("PRAGMA foreign_key_check").fetchall()
        return found + [f"row {row[1]} of {row[0]} names a missing tenant" for row in dangling]

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(str(self._path))
        try:
            connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
            # One at a time: a statement that answers with a row stops those after it in the same string.
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF"):
                connection.execute(f"PRAGMA {pragma}").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    def _take(self) -> apsw.Connection:
        with self._guard:
            self._refuse_closed()
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def _give_back(self, connection: apsw.Connection) -> None:
        with self._guard:
            if not self._is_closed and len(self._idle) < _IDLE_READERS_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise Unavailable("The git store is closed.", code="store_closed")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except apsw.FullError as error:
            raise Unavailable(
                f"The disk of {self._path} is full; nothing was changed.", code="storage_full", hint="Make room."
            ) from error
        except apsw.BusyError as error:
            raise Unavailable(
                f"Another process kept {self._path} locked for {_BUSY_TIMEOUT_MS} ms.",
                code="database_busy",
                hint="Try again.",
            ) from error
        except apsw.NotADBError as error:
            raise Refused(
                f"{self._path} is not an SQLite database.",
                code="foreign_file",
                hint="Give the store a folder of its own.",
            ) from error
        except apsw.CorruptError as error:
            raise Corrupt(f"{self._path} is damaged: {error}.", hint="Restore it from a backup.") from error
        except (apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError, apsw.NoMemError) as error:
            raise Unavailable(f"{self._path} cannot be used: {error}.", code="storage_failed") from error
