"""The file of schedules: how it is opened, its tables, and what SQLite's errors mean to a caller.

    schedules  one row is a schedule. `due_ms` is NULL while it is paused or out of sight, and when nothing follows
    pending    times that are to be fired; written before anything else is done about them
    firings    what became of times: the newest 100 of each schedule

Numbered migrations, checked against `PRAGMA user_version`: one that was released is never edited.

**After a failed fsync** nobody can know what is on disk, and the next one may report success all the same. So the first
write that fails for any reason but a full disk is the last: from then on the file is neither written nor read, which
stops the executor; nor is its write-ahead file brought home. Whoever opens it then writes that file once more first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import apsw

from executor.core.errors import Corrupt, Refused, Unavailable
from facets import renew_write_ahead

APPLICATION_ID: Final = 0x50445343  # "PDSC" in the file's header: Perdure's schedules
BUSY_MS = 10_000
CHECKPOINT_PAGES = 1_000
"""The write-ahead file is brought home when it has so many."""

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE schedules (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        workflow TEXT NOT NULL,
        channel TEXT NOT NULL,
        origin TEXT NOT NULL CHECK (origin IN ('api', 'code')),
        payload BLOB NOT NULL,
        spec BLOB NOT NULL,
        created_at_ms INTEGER NOT NULL,
        cursor_ms INTEGER NOT NULL,
        due_ms INTEGER,
        revision INTEGER NOT NULL DEFAULT 0,
        paused_by TEXT,
        running TEXT NOT NULL DEFAULT '[]',
        is_shown INTEGER NOT NULL DEFAULT 1,
        UNIQUE (tenant, name)
    ) STRICT;
    CREATE INDEX schedules_due ON schedules (due_ms) WHERE due_ms IS NOT NULL;

    CREATE TABLE pending (
        schedule_id INTEGER NOT NULL REFERENCES schedules ON DELETE CASCADE,
        scheduled_ms INTEGER NOT NULL,
        workflow TEXT NOT NULL,
        channel TEXT NOT NULL,
        payload BLOB NOT NULL,
        attempts INTEGER NOT NULL,
        retry_at_ms INTEGER,
        reason TEXT NOT NULL,
        PRIMARY KEY (schedule_id, scheduled_ms)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX pending_retry ON pending (retry_at_ms) WHERE retry_at_ms IS NOT NULL;

    CREATE TABLE firings (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        schedule_id INTEGER NOT NULL REFERENCES schedules ON DELETE CASCADE,
        scheduled_ms INTEGER NOT NULL,
        at_ms INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        instance TEXT,
        until_ms INTEGER,
        reason TEXT NOT NULL
    ) STRICT;
    CREATE INDEX firings_of ON firings (schedule_id, number);
    """,
)


class Database:
    """One connection, used by one thread at a time: schedules are few, and most questions take microseconds."""

    def __init__(self, path: Path, *, vfs: str | None = None) -> None:
        """Open or make the file. Raises Refused (`schema_too_new`), Corrupt, Unavailable."""
        self._path = path
        self._lock = threading.Lock()
        self._is_broken = False
        self._pages_ahead = 0
        with self._translated():
            self._connection = apsw.Connection(str(path), vfs=vfs)
            try:
                self._prepare(vfs)
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self, vfs: str | None) -> None:
        connection = self._connection
        connection.set_busy_timeout(BUSY_MS)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "FULL")
        # By itself SQLite brings it home after a commit, does not say if that fails, and does so once more on closing.
        # The hook takes the place of the one that does the first.
        connection.set_wal_hook(self._count)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.pragma("foreign_keys", True)
        connection.pragma("secure_delete", True)  # what is deleted is overwritten with zeros
        connection.pragma("trusted_schema", False)
        renew_write_ahead(connection, self._path, vfs)
        connection.execute("BEGIN IMMEDIATE")
        version = int(str(connection.pragma("user_version")))
        if version > len(MIGRATIONS):
            connection.execute("ROLLBACK")
            raise Refused(
                f"{self._path.name} has schema {version}, this release knows {len(MIGRATIONS)}",
                code="schema_too_new",
                hint="Run the newer release, or restore a backup made with this one.",
            )
        for migration in MIGRATIONS[version:]:
            connection.execute(migration)
        if version < len(MIGRATIONS):
            connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", len(MIGRATIONS))
        connection.execute("COMMIT")

    @contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """Raises Corrupt, also once a write has failed."""
        with self._lock, self._translated():
            self._check()
            yield self._connection

    @contextmanager
    def write(self) -> Iterator[apsw.Connection]:
        """One transaction, durable at the end; undone if the block raises. Raises Corrupt, Unavailable
        (`storage_full`, `busy`): nothing was written."""
        with self._lock, self._translated():
            self._check()
            connection = self._connection
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except (apsw.FullError, apsw.BusyError):
                self._roll_back()
                raise
            except apsw.Error as error:
                raise self._broken(error) from error
            except BaseException:
                self._roll_back()
                raise
            if self._pages_ahead >= CHECKPOINT_PAGES:
                self._bring_home(apsw.SQLITE_CHECKPOINT_PASSIVE)

    def erase(self) -> None:
        """Leave nothing of what was deleted in the write-ahead file either; on a full disk, at the next occasion."""
        with self._lock, self._translated():
            self._check()
            self._bring_home(apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def copy(self, target: Path) -> None:
        """A consistent copy in the new file `target`."""
        with self.read() as connection:
            connection.execute("VACUUM INTO ?", (str(target),))

    def problems(self) -> list[str]:
        with self.read() as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
            found += [f"foreign key: {row}" for row in connection.execute("PRAGMA foreign_key_check")]
        return [f"{self._path.name}: {text}" for text in found if text != "ok"]

    def close(self) -> None:
        with self._lock:
            try:
                if not self._is_broken:
                    with suppress(Corrupt):  # What is not brought home is found by the next one who opens it.
                        self._bring_home(apsw.SQLITE_CHECKPOINT_TRUNCATE)
            finally:
                self._connection.close()

    def _count(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._pages_ahead = pages
        return apsw.SQLITE_OK

    def _bring_home(self, mode: int) -> None:
        """Write what the write-ahead file holds into the database and fsync that. Raises Corrupt."""
        try:
            self._connection.wal_checkpoint(mode=mode)
            self._pages_ahead = 0
        except (apsw.FullError, apsw.BusyError):
            pass  # Nothing is lost: it stays ahead until the next occasion.
        except apsw.Error as error:
            raise self._broken(error) from error

    def _check(self) -> None:
        if self._is_broken:
            raise self._failed("an earlier write failed")

    def _broken(self, error: apsw.Error) -> Corrupt:
        self._is_broken = True
        with suppress(apsw.Error):
            self._roll_back()
        return self._failed(error)

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _failed(self, error: object) -> Corrupt:
        return Corrupt(
            f"{self._path.name} could not be written: {error}",
            code="corrupt_store",
            hint="Look at the disk, then start the executor again.",
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except apsw.FullError as error:
            raise Unavailable(
                "the disk is full: no schedule was changed", code="storage_full", hint="Free disk space."
            ) from error
        except (apsw.BusyError, apsw.CantOpenError) as error:
            raise Unavailable(f"{self._path.name} cannot be worked on: {error}", code="busy") from error
        except apsw.IOError as error:
            raise Corrupt(
                f"{self._path.name} could not be read or written: {error}",
                code="corrupt_store",
                hint="Look at the disk, then start the executor again.",
            ) from error
        except apsw.Error as error:
            raise Corrupt(
                f"{self._path.name} is damaged: {error}", code="corrupt_store", hint="Restore the last backup."
            ) from error
