"""The fold: committed batches into the state database, in the order of the log; then the log is trimmed behind it.

Invariants:
- A fold takes whole batches from the tail, in the order of their positions, and moves `progress.folded` in the same
  transaction. (A prototype claimed a position whose records it had not taken yet: it counted as the waiters came.)
- The state database is written with synchronous=NORMAL: a fold costs no fsync, and a power cut may undo folds. So the
  log is trimmed only up to a position that was folded *before* a checkpoint that moved everything: it has fsynced.
- The tail is dropped after the commit, so a record is always in at least one of the two.
- Images are rebuilt from bytes alone (`delta.apply_all`); the host never opens a tenant's database.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from facets import delta as deltas
from facets.chunks import MERGE_BYTES, decode_entries, encode_entries, pack, row_id, row_ids, sequence_of, unpack
from facets.database import query, reading, store_failed, transaction
from facets.errors import FacetError, Fenced, StorageFull, StoreFailed
from facets.limits import Limits
from facets.log import Log
from facets.output import OutputStore
from facets.paged_fold import PagedFold
from facets.records import DeleteInstance, DeleteTenant, JournalRecord, Record
from facets.shard import shard_of
from facets.tail import STORED_IMAGE_BYTES_MAX, Batch, Tail, image_size_after

logger = logging.getLogger(__name__)

PAGE_BYTES = 4096
# How much of the tail goes into one transaction: enough to be cheap, and a long tail shrinks while it goes.
FOLD_BYTES = 8 * 1024 * 1024
# What an append adds to the write-ahead file of the log besides its records: the pages around them.
APPEND_BYTES = 4 * PAGE_BYTES

# A base image is rebuilt once the deltas behind it weigh as much as it does (so the work stays linear), and this much.
REBASE_BYTES_MIN = 16 * 1024
# Or once there are so many of them that applying them would be felt at a wake-up.
REBASE_COUNT = 512


@dataclass(slots=True)
class _Change:
    """What a fold has to write for one instance."""

    key: int
    records: list[Record] = field(default_factory=list)

    @property
    def is_new(self) -> bool:
        return self.records[0].sequence == 1


class Fold:
    """The only writer of the state database. Thread-safe: one fold at a time."""

    def __init__(
        self,
        connection: apsw.Connection,
        path: Path,
        *,
        epoch: int,
        log: Log,
        tail: Tail,
        output: OutputStore,
        limits: Limits,
    ) -> None:
        self._connection = connection
        self._path = path
        self._epoch = epoch
        self._log = log
        self._tail = tail
        self._output = output
        self._limits = limits
        self._paged = PagedFold(connection, bytes_min=limits.paged_bytes_min)
        self._lock = threading.RLock()
        self._erase = True  # after a start it is not known whether something deleted still has to be erased
        self._behind_bytes = 0
        self._wal_pages = 0
        connection.set_wal_hook(self._count_wal_pages)
        with reading(path):
            self.folded: int = connection.execute("SELECT folded FROM progress").get
        self.trimmed = 0

    def _count_wal_pages(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    @property
    def is_trim_due(self) -> bool:
        """Whether the log, or what waits for a checkpoint of the state database, has grown enough."""
        return (
            self._erase
            or self._behind_bytes > self._limits.log_bytes_max
            or self._wal_pages * PAGE_BYTES > 2 * self._limits.log_bytes_max
        )

    def fold(self) -> int:
        """Everything in the tail into the state database; the position up to which it is complete now.

        Raises StorageFull (what was not folded stays in the tail), StoreFailed, Fenced.
        """
        with self._lock:
            for batches in _portions(self._tail.pending()):
                with transaction(self._connection, self._path):
                    has_deleted = self._write(batches)
                self._erase = self._erase or has_deleted
                self.folded = batches[-1].position
                self._behind_bytes += sum(batch.size + APPEND_BYTES for batch in batches)
                self._tail.drop(self.folded)
            return self.folded

    def trim(self) -> bool:
        """Get the state database safely to disk, then shorten the log. False: not now, a reader was in the way."""
        with self._lock:
            folded, erase = self.folded, self._erase
            mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if erase else apsw.SQLITE_CHECKPOINT_PASSIVE
            try:
                frames, moved = self._connection.wal_checkpoint(mode=mode)
            except (apsw.BusyError, apsw.LockedError):
                return False
            except apsw.FullError as error:
                raise StorageFull(f"{self._path.name} cannot grow: {error}.") from error
            except apsw.Error as error:
                raise store_failed(self._path, error) from error
            if frames != moved:
                return False
            self._output.checkpoint(truncate=erase)
            is_clean = self._log.trim(folded + 1, erase=erase)
            self.trimmed, self._behind_bytes, self._wal_pages = folded, 0, 0
            self._erase = erase and not is_clean
            return is_clean

    def hold(self) -> threading.RLock:
        """Held while files are copied: nothing is folded or trimmed meanwhile; appends go on."""
        return self._lock

    def _write(self, batches: Sequence[Batch]) -> bool:
        changes: dict[tuple[str, str], _Change] = {}
        erased: list[int] = []
        for batch in batches:
            for item, key in zip(batch.items, batch.keys, strict=True):
                match item:
                    case Record():
                        name = (item.tenant, item.instance)
                        change = changes.get(name)
                        if change is None:
                            change = changes[name] = _Change(key)
                        change.records.append(item)
                    case DeleteInstance():
                        gone = changes.pop((item.tenant, item.instance), None)
                        erased += [gone.key] if gone is not None else []
                        erased += self._delete("tenant = ? AND instance = ?", (item.tenant, item.instance))
                    case DeleteTenant():
                        for name in [name for name in changes if name[0] == item.tenant]:
                            erased.append(changes.pop(name).key)
                        erased += self._delete("tenant = ?", (item.tenant,))
        self._insert([change for change in changes.values() if change.is_new])
        self._update([change for change in changes.values() if not change.is_new])
        for change in changes.values():
            self._add_deltas(change)
        if erased:
            # Before the commit: a crash in between folds the deletion again, and erases the rest.
            self._output.erase(erased)
        self._connection.execute(
            "UPDATE progress SET folded = ?, next_key = ? WHERE folded = ? AND epoch = ?",
            (batches[-1].position, batches[-1].next_key, self.folded, self._epoch),
        )
        if self._connection.changes() != 1:
            raise Fenced(
                f"{self._path.name} has another owner than epoch {self._epoch}.",
                hint="This process must stop using the data; the other one continues.",
                details={"epoch": self._epoch},
            )
        return bool(erased)

    def _delete(self, where: str, bindings: tuple[str, ...]) -> list[int]:
        execute = self._connection.execute
        sql = f"SELECT key FROM instance WHERE {where}"  # noqa: S608 - the text is this module's own, values are bound
        keys: list[int] = [key for (key,) in query(self._connection, sql, bindings)]
        for key in keys:
            execute("DELETE FROM chunk WHERE id BETWEEN ? AND ?", row_ids(key))
            execute("DELETE FROM delta WHERE id BETWEEN ? AND ?", row_ids(key))
            execute("DELETE FROM base WHERE key = ?", (key,))
            self._paged.delete(key)
            execute("DELETE FROM instance WHERE key = ?", (key,))
        return keys

    def _insert(self, changes: Iterable[_Change]) -> None:
        rows: list[tuple[object, ...]] = []
        chunks: list[tuple[int, bytes]] = []
        for change in changes:
            last = change.records[-1]
            rows.append(
                (
                    change.key,
                    last.tenant,
                    last.instance,
                    shard_of(last.tenant, last.instance),
                    max(record.sequence for record in change.records),
                    last.row.state,
                    last.row.wake_at_ms,
                    last.row.workflow,
                    last.row.commit,
                    last.row.created_at_ms,
                    last.row.updated_at_ms,
                    last.row.summary,
                    _facet_bytes(change.records) or 0,
                )
            )
            chunks += [(row_id(change.key, first), content) for first, content in encode_entries(_entries(change))]
        self._connection.executemany("INSERT INTO instance VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?)", rows)
        self._connection.executemany("INSERT INTO chunk VALUES(?, ?)", chunks)

    def _update(self, changes: Iterable[_Change]) -> None:
        rows: list[tuple[object, ...]] = []
        chunks: list[tuple[int, bytes]] = []
        for change in changes:
            last = change.records[-1]
            rows.append(
                (
                    max(record.sequence for record in change.records),
                    last.row.state,
                    last.row.wake_at_ms,
                    last.row.workflow,
                    last.row.commit,
                    last.row.created_at_ms,
                    last.row.updated_at_ms,
                    last.row.summary,
                    _facet_bytes(change.records),
                    change.key,
                )
            )
            entries = _entries(change)
            if entries:
                entries = self._last_chunk(change.key) + entries
            chunks += [(row_id(change.key, first), content) for first, content in encode_entries(entries)]
        self._connection.executemany(
            'UPDATE instance SET sequence = max(sequence, ?), state = ?, wake_at_ms = ?, workflow = ?, "commit" = ?, '
            "created_at_ms = ?, updated_at_ms = ?, summary = ?, facet_bytes = coalesce(?, facet_bytes) WHERE key = ?",
            rows,
        )
        self._connection.executemany("INSERT OR REPLACE INTO chunk VALUES(?, ?)", chunks)

    def _last_chunk(self, key: int) -> list[JournalRecord]:
        """The entries of the last chunk while it is small enough to be written again with what follows."""
        found = self._connection.execute(
            "SELECT id, content FROM chunk WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1", row_ids(key)
        ).fetchone()
        if found is None or len(found[1]) >= MERGE_BYTES:
            return []
        return decode_entries(sequence_of(found[0]), found[1])

    def _add_deltas(self, change: _Change) -> None:
        added = [(row_id(change.key, record.sequence), record.delta) for record in change.records if record.delta]
        if not added:
            return
        self._connection.executemany("INSERT INTO delta VALUES(?, ?)", added)
        if self._paged.take(change.key, [(sequence_of(identifier), delta) for identifier, delta in added]):
            return
        count, size = len(added), sum(len(content) for _, content in added)
        found = self._connection.execute(
            "SELECT sequence, length(content), delta_count, delta_bytes FROM base WHERE key = ?", (change.key,)
        ).fetchone()
        sequence, base_size, old_count, old_size = found or (0, 0, 0, 0)
        count, size = count + old_count, size + old_size
        if found is None:
            self._connection.execute("INSERT INTO base VALUES(?, 0, ?, ?, ?)", (change.key, pack(b""), count, size))
        else:
            self._connection.execute(
                "UPDATE base SET delta_count = ?, delta_bytes = ? WHERE key = ?", (count, size, change.key)
            )
        if count >= REBASE_COUNT or size >= max(base_size, REBASE_BYTES_MIN):
            self._rebase(change.key, sequence, sequence_of(added[-1][0]))

    def _rebase(self, key: int, behind: int, upto: int) -> None:
        """A new base image as of record `upto`. Deltas that do not fit leave the old one: reading them says why."""
        base = unpack(self._connection.execute("SELECT content FROM base WHERE key = ?", (key,)).get)
        found = stored_deltas(self._connection, key, behind, upto)
        try:
            image = deltas.apply_all(base, found, bytes_max=STORED_IMAGE_BYTES_MAX)
        except FacetError as error:
            logger.warning("an instance's facet cannot be rebuilt: %s", error, extra={"instance_key": key})
            # Not tried again at every fold, but after as much again has come in.
            self._connection.execute("UPDATE base SET delta_count = 0, delta_bytes = 0 WHERE key = ?", (key,))
            return
        self._connection.execute(
            "UPDATE base SET sequence = ?, content = ?, delta_count = 0, delta_bytes = 0 WHERE key = ?",
            (upto, pack(image, level=1), key),
        )


def _portions(batches: Sequence[Batch]) -> Iterator[Sequence[Batch]]:
    """Parts of a backlog for one transaction each, in order."""
    first, size = 0, 0
    for number, batch in enumerate(batches):
        size += batch.size
        if size >= FOLD_BYTES or number == len(batches) - 1:
            yield batches[first : number + 1]
            first, size = number + 1, 0


def stored_deltas(connection: apsw.Connection, key: int, behind: int, upto: int) -> list[bytes]:
    """Deltas of an instance with `behind` < sequence <= `upto`, in order."""
    sql = "SELECT content FROM delta WHERE id > ? AND id <= ? ORDER BY id"
    return [content for (content,) in query(connection, sql, (row_id(key, behind), row_id(key, upto)))]


def _entries(change: _Change) -> list[JournalRecord]:
    return [
        JournalRecord(record.sequence, record.entry, bool(record.delta)) for record in change.records if record.sequence
    ]


def _facet_bytes(records: Sequence[Record]) -> int | None:
    """Size of the image after these records; None: they do not change it."""
    for record in reversed(records):
        size = image_size_after(record.delta)
        if size is not None:
            return size
    return None


class FoldThread:
    """Folds once in a while, beside everything else, until it is stopped or the store has failed."""

    def __init__(self, fold: Fold, tail: Tail, limits: Limits, *, on_failure: Callable[[FacetError], None]) -> None:
        self._fold = fold
        self._tail = tail
        self._limits = limits
        self._on_failure = on_failure
        self._wanted = threading.Condition()
        self._stopping = False
        self._full: StorageFull | None = None
        self._thread = threading.Thread(target=self._run, name="facets-fold", daemon=True)
        self._thread.start()

    def hurry(self) -> None:
        """Fold now rather than at the next interval."""
        with self._wanted:
            self._wanted.notify_all()

    def wait_for_room(self) -> None:
        """Hold an appender back while the tail is at its limit: memory is bounded even if the disk is slow.

        Raises StorageFull if it stays there because the state database cannot grow.
        """
        with self._wanted:
            while self._tail.size > self._limits.tail_bytes_max and not self._stopping:
                if self._full is not None:
                    raise StorageFull(self._full.message, hint=self._full.hint, details=self._full.details)
                self._wanted.notify_all()
                self._wanted.wait(0.1)

    def stop(self) -> None:
        with self._wanted:
            self._stopping = True
            self._wanted.notify_all()
        self._thread.join()

    def _run(self) -> None:
        interval_s = self._limits.fold_interval_ms / 1000
        quiet_rounds = 0
        while True:
            with self._wanted:
                if not self._stopping:
                    self._wanted.wait(interval_s)
                if self._stopping:
                    return
            try:
                before = self._fold.folded
                has_folded = self._fold.fold() > before
                # When nothing more comes in, the rest is brought home too, so that a quiet store is small and safe.
                quiet_rounds = 0 if has_folded else quiet_rounds + 1
                is_left_over = quiet_rounds >= 5 and self._fold.folded > self._fold.trimmed
                if self._fold.is_trim_due or is_left_over:
                    self._fold.trim()
                self._full = None
            except StorageFull as error:
                self._full = error
                logger.warning("folding waits for disk space: %s", error)
            except (StoreFailed, Fenced) as error:
                self._on_failure(error)
                with self._wanted:
                    self._stopping = True
                    self._wanted.notify_all()
                return
            except FacetError as error:
                logger.warning("folding will be tried again: %s", error)
            except Exception as error:
                logger.exception("the fold failed")
                self._on_failure(StoreFailed(f"The fold failed: {error!r}."))
                with self._wanted:
                    self._stopping = True
                    self._wanted.notify_all()
                return
            with self._wanted:
                self._wanted.notify_all()
