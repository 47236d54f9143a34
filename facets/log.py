"""CommitLog: the truth of a store. Append a batch if the head is where the owner left it; one fsync each.

`Log` is the port: what any engine must give. `CommitLog` is the adapter for one machine: a SQLite file in WAL mode with
synchronous=FULL, where a commit is one write and one fsync of the WAL file.

Invariants:
- Positions are 1, 2, 3 … in the order of the appends, without a gap; the head is the last one, and outlives trimming.
- An append changes the head row from (position, epoch) as the owner knows them, in the transaction that inserts the
  batch. That condition is the fence: whoever has been claimed over never writes again, whatever has been trimmed since.
- The first write or fsync that fails makes the object unusable. It is never tried again: after a failed fsync the
  kernel may report success for bytes that it has dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import apsw

from facets import schema
from facets.database import bring_home, connect, query, reading, store_failed, transaction
from facets.errors import Corrupt, FacetError, Fenced, PositionConflict, StoreFailed

READ_BATCHES = 8


@dataclass(frozen=True, slots=True)
class Head:
    """Position of the last batch (0: none yet) and the epoch of the last owner (0: none yet)."""

    position: int
    epoch: int


class Log(Protocol):
    """The port. Implementations: CommitLog, and the fake of the contract tests."""

    def claim(self) -> Head:
        """Become the owner: a new epoch, durable on return. Whoever owned the log before is fenced from now on."""
        ...

    def head(self) -> Head: ...

    def append(self, head: int, epoch: int, batch: bytes) -> int:
        """Write `batch` behind `head`; durable on return of its position. Otherwise nothing was written.

        Raises Fenced, PositionConflict, StorageFull, StoreFailed.
        """
        ...

    def read_from(self, position: int) -> Iterator[tuple[int, bytes]]:
        """All batches from `position` to the head as of now, in order. Raises Corrupt (`log_gap`) if one is missing."""
        ...

    def trim(self, below: int, *, erase: bool = False) -> bool:
        """Forget batches before position `below`. The head stays. `erase`: leave no byte of them in the files.

        False: they are forgotten, but their bytes or their room could not be given back yet; ask again later.
        """
        ...

    def problems(self) -> list[str]:
        """What a check of everything stored finds, one line a finding; empty if nothing."""
        ...

    def close(self) -> None: ...


class CommitLog:
    """A log in one SQLite file. Thread-safe; two objects on one file see each other, and fence each other."""

    def __init__(self, path: Path, *, vfs: str | None = None) -> None:
        """Open or create the file. Raises SchemaTooNew, Corrupt, Unavailable."""
        self.path = path
        self._lock = threading.RLock()
        self._trim_lock = threading.RLock()
        self._failure: str | None = None
        with reading(path):
            # The first connection appends, the second one reads, deletes and checkpoints beside it.
            self._appender = connect(path, vfs=vfs, synchronous="FULL", create=True, cache_kib=8192)
        try:
            schema.migrate(self._appender, path, schema.LOG)
            with reading(path):
                self._trimmer = connect(path, vfs=vfs, synchronous="FULL")
                self._trimmer.pragma("journal_size_limit", 64 * 1024 * 1024)
        except BaseException:
            self._appender.close()
            raise

    def head(self) -> Head:
        with self._lock, reading(self.path):
            return Head(*self._appender.execute("SELECT position, epoch FROM head").get)

    def claim(self) -> Head:
        with self._lock:
            self._refuse_if_failed()
            with self._failing(), transaction(self._appender, self.path):
                self._appender.execute("UPDATE head SET epoch = epoch + 1")
            return self.head()

    def append(self, head: int, epoch: int, batch: bytes) -> int:
        with self._lock:
            self._refuse_if_failed()
            position = head + 1
            with self._failing(), transaction(self._appender, self.path):
                self._appender.execute(
                    "UPDATE head SET position = ? WHERE id = 1 AND position = ? AND epoch = ?", (position, head, epoch)
                )
                if self._appender.changes() != 1:
                    self._raise_conflict(head, epoch)
                self._appender.execute("INSERT INTO batch VALUES(?, ?, ?)", (position, epoch, batch))
            return position

    def _raise_conflict(self, head: int, epoch: int) -> None:
        found = Head(*self._appender.execute("SELECT position, epoch FROM head").get)
        if found.epoch != epoch:
            raise Fenced(
                f"The log {self.path.name} has another owner: epoch {found.epoch} came after {epoch}.",
                hint="This process must stop using the data; the other one continues.",
                details={"epoch": epoch, "found": found.epoch},
            )
        raise PositionConflict(
            f"The log {self.path.name} is at position {found.position}, not at {head}.",
            details={"expected": head, "found": found.position},
        )

    def read_from(self, position: int) -> Iterator[tuple[int, bytes]]:
        last = self.head().position
        while position <= last:
            with self._trim_lock, reading(self.path):
                sql = "SELECT position, content FROM batch WHERE position BETWEEN ? AND ? ORDER BY position LIMIT ?"
                rows = list(query(self._trimmer, sql, (position, last, READ_BATCHES)))
            if not rows:
                raise self._gap(position, last)
            for found, content in rows:
                if found != position:
                    raise self._gap(position, last)
                yield position, content
                position += 1

    def _gap(self, position: int, last: int) -> Corrupt:
        return Corrupt(
            f"The log {self.path.name} has no position {position}, but its head is {last}.",
            code="log_gap",
            hint="Keep the files and restore the last backup.",
            details={"position": position, "head": last},
        )

    def trim(self, below: int, *, erase: bool = False) -> bool:
        """As the port says. Also brings the write-ahead file back into the database, so that neither grows for ever."""
        with self._trim_lock:
            self._refuse_if_failed()
            with self._failing(), transaction(self._trimmer, self.path):
                self._trimmer.execute("DELETE FROM batch WHERE position < ?", (below,))
            try:
                # Most of the work is done beside the appends; the rest, while none can add to it, so that the next
                # append finds the write-ahead file finished and starts it from the beginning.
                self._trimmer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                with self._lock:
                    if erase:
                        # What is left is little: rewriting it is cheaper than zeroing every page ever freed.
                        self._trimmer.execute("VACUUM")
                    mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if erase else apsw.SQLITE_CHECKPOINT_PASSIVE
                    frames, moved = self._trimmer.wal_checkpoint(mode=mode)
                    return frames == moved
            except (apsw.BusyError, apsw.LockedError, apsw.FullError):
                return False  # a stranger reads the file, or there is no room
            except apsw.Error as error:
                failed = store_failed(self.path, error)
                self._failure = str(failed)
                raise failed from error

    def problems(self) -> list[str]:
        """What SQLite's integrity check finds; empty if nothing."""
        with self._trim_lock:
            return integrity_problems(self._trimmer, self.path)

    def close(self) -> None:
        """Release the files. The object refuses everything afterwards."""
        with self._trim_lock, self._lock:
            if self._failure is None:
                with suppress(FacetError):  # the next opening does it
                    bring_home(self._trimmer, self.path)
            self._failure = self._failure or f"The log {self.path.name} is closed."
            self._trimmer.close()
            self._appender.close()

    def _refuse_if_failed(self) -> None:
        if self._failure is not None:
            raise StoreFailed(self._failure)

    def _failing(self) -> _RememberFailure:
        return _RememberFailure(self)


class _RememberFailure:
    """Around each write: a StoreFailed that leaves here leaves the log unusable for ever."""

    def __init__(self, log: CommitLog) -> None:
        self._log = log

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, StoreFailed):
            self._log._failure = str(error)


def copy_log(log: Log, position: int, target: Path) -> None:
    """A log file with the head of `log` as of now, and what it holds from `position` on. Not fsynced; appends go on.

    The caller sees to it that nothing is trimmed meanwhile. Raises Corrupt (`log_gap`), StorageFull, Unavailable.
    """
    head = log.head()
    with reading(target):
        connection = connect(target, synchronous="OFF", create=True)
    try:
        schema.migrate(connection, target, schema.LOG)
        with transaction(connection, target):
            connection.execute("UPDATE head SET position = ?, epoch = ?", (head.position, head.epoch))
            for number, batch in log.read_from(position):
                if number > head.position:
                    break
                connection.execute("INSERT INTO batch VALUES(?, ?, ?)", (number, head.epoch, batch))
        connection.pragma("journal_mode", "delete")  # brings everything into the one file
    finally:
        connection.close()


def integrity_problems(connection: apsw.Connection, path: Path) -> list[str]:
    """SQLite's integrity check of a database of the platform, one line a finding."""
    try:
        lines = [str(line) for (line,) in connection.execute("PRAGMA integrity_check(100)")]
    except apsw.Error as error:
        return [f"{path.name}: {error}"]
    return [f"{path.name}: {line}" for line in lines if line != "ok"]
