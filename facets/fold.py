"""The fold: committed batches into the state database, in the order of the log; then the log is trimmed behind it.

Invariants:
- A fold takes a closed segment of the tail in one transaction, in the order of their positions, and moves
  `progress.folded` in it. (A prototype claimed a position whose records it had not taken yet: it counted as the waiters
  came.)
- The state database is written with synchronous=NORMAL: a fold costs no fsync, and a power cut may undo folds. So the
  log is trimmed only up to a position that was folded *before* a checkpoint that moved everything: it has fsynced.
- The segment leaves the tail after the commit, so a record is always in at least one of the two.
- Images are rebuilt from bytes alone (`delta.apply_all`); the host never opens a tenant's database.
"""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import apsw
import msgspec

from facets import bases, erasure
from facets.blobs import BlobStore
from facets.database import listed, reading, store_failed, transaction
from facets.dictionary import Dictionary
from facets.erasure import Tally
from facets.errors import Fenced, StorageFull
from facets.forgetting import Forgetting, Wish
from facets.limits import Limits
from facets.log import Log
from facets.output import OutputStore
from facets.paged_fold import PagedFold
from facets.reserve import Reserve
from facets.rows import RowWriter
from facets.tail import Segment, Tail

PAGE_BYTES = 4096
# What an append adds to the write-ahead file of the log besides its records: the pages around them.
APPEND_BYTES = 4 * PAGE_BYTES
# How far the write-ahead file may grow while deleted bytes are erased, before it is brought home.
ERASE_WAL_BYTES = 512 * 1024
# Bytes of base images that are deflated again in one transaction of a quiet moment.
PACK_BYTES = 4 * 1024 * 1024


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
        blobs: BlobStore,
        reserve: Reserve,
        limits: Limits,
    ) -> None:
        self._connection = connection
        self._path = path
        self._epoch = epoch
        self._log = log
        self._tail = tail
        self._output = output
        self._blobs = blobs
        self._reserve = reserve
        self._limits = limits
        self._paged = PagedFold(
            connection, bytes_min=limits.paged_bytes_min, history_bytes_max=limits.facet_history_bytes_max
        )
        self._dictionary = Dictionary(connection)
        self._forgetting = Forgetting(connection, path)
        self._has_forgotten = False  # what was forgotten since the last checkpoint that cut the write-ahead file
        self._lock = threading.RLock()
        self._has_doomed = True
        self._erase = True  # after a start it is not known whether something deleted still has to be erased
        self._behind_bytes = 0
        self._wal_pages = 0
        self._has_unpacked = True
        connection.set_wal_hook(self._count_wal_pages)
        with reading(path):
            self.folded: int = connection.execute("SELECT folded FROM progress").get
        self.trimmed = 0

    def _count_wal_pages(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    @property
    def has_gathered(self) -> bool:
        """Whether there is something to bring home in a quiet time."""
        return self.folded > self.trimmed or self._has_forgotten

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
            segments = self._tail.close_segment()
            for segment in segments:
                try:
                    self._fold_one(segment)
                except StorageFull:
                    # What is deleted makes room, but has to be written first.
                    if not any(each.has_deletions for each in segments) or not self._reserve.release():
                        raise
                    self._fold_one(segment)
            return self.folded

    def _fold_one(self, segment: Segment) -> None:
        try:
            with transaction(self._connection, self._path):
                has_deleted = self._write(segment)
        except BaseException:
            self._dictionary.forget()
            raise
        self._erase = self._erase or has_deleted
        self._has_doomed = self._has_doomed or has_deleted
        self.folded = segment.last
        self._behind_bytes += segment.log_bytes + APPEND_BYTES * (segment.last - segment.first + 1)
        self._tail.drop(segment)

    def trim(self, *, compact: bool = False) -> bool:
        """Get the state database safely to disk, then shorten the log. False: not now, a reader was in the way.

        `compact`: also give the room of both back to the disk, as is always done after a deletion.
        """
        with self._lock:
            folded, erase = self.folded, self._erase
            mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if erase or compact else apsw.SQLITE_CHECKPOINT_PASSIVE
            if not self._checkpoint(mode):
                return False
            self._has_forgotten = self._has_forgotten and not (erase or compact)
            self._output.checkpoint(truncate=erase or compact)
            self._blobs.checkpoint(truncate=erase or compact)
            is_clean = self._log.trim(folded + 1, erase=erase or compact)
            self.trimmed, self._behind_bytes, self._wal_pages = folded, 0, 0
            self._erase = self._has_doomed or (erase and not is_clean)
            self._reserve.fill()
            return is_clean

    def erase(self, *, bytes_max: int | None = None) -> bool:
        """Erase what was deleted and folded, about `bytes_max` of it. False: nothing is left. Raises as `fold`."""
        erased = 0
        while self._has_doomed and (bytes_max is None or erased < bytes_max):
            with self._lock:
                try:
                    size = erasure.erase_some(self._connection, self._path, self._output, self._blobs)
                except StorageFull:
                    if not self._reserve.release():
                        raise
                    size = erasure.erase_some(self._connection, self._path, self._output, self._blobs)
                if not size:
                    with transaction(self._connection, self._path):
                        self._dictionary.drop_unused()
                self._has_doomed = bool(size)
                erased += size
                if self._wal_pages * PAGE_BYTES > ERASE_WAL_BYTES:
                    self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
        while (bytes_max is None or erased < bytes_max) and (size := self._blobs.erase_some()):
            erased += size
        return self._has_doomed

    def wish(self, wish: Wish) -> None:
        """To be carried out by `forget`, when what is durable now is folded. Any thread; at once."""
        self._forgetting.wish(wish)

    def forget(self, *, bytes_max: int | None = None) -> None:
        """Carry out wishes, about `bytes_max` of them. Raises as `fold`."""
        done = 0
        while bytes_max is None or done < bytes_max:
            with self._lock:
                try:
                    size = self._forgetting.portion(self.folded)
                except StorageFull:
                    if not self._reserve.release():
                        raise
                    size = self._forgetting.portion(self.folded)
                if not size:
                    return
                self._has_forgotten = True
                done += size
                if self._wal_pages * PAGE_BYTES > ERASE_WAL_BYTES:
                    self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _checkpoint(self, mode: int) -> bool:
        """Whether all of the write-ahead file is in the database now, and both on disk."""
        try:
            frames, moved = self._connection.wal_checkpoint(mode=mode)
        except (apsw.BusyError, apsw.LockedError):
            return False
        except apsw.FullError as error:
            raise StorageFull(f"{self._path.name} cannot grow: {error}.") from error
        except apsw.Error as error:
            raise store_failed(self._path, error) from error
        return frames == moved

    def tidy(self) -> bool:
        """Work for a quiet moment: deflate base images better. False: nothing is left to do. Raises as `fold`."""
        with self._lock:
            if self._has_unpacked:
                with transaction(self._connection, self._path):
                    self._has_unpacked = bases.pack_some(self._connection, bytes_max=PACK_BYTES)
            return self._has_unpacked

    def hold(self) -> threading.RLock:
        """Held while files are copied: nothing is folded or trimmed meanwhile; appends go on."""
        return self._lock

    def _write(self, segment: Segment) -> bool:
        tally: Tally = Counter()
        keys, has_tenant = self._delete(segment, tally)
        erased = [*segment.erased, *keys]
        writer = RowWriter(self._connection, self._dictionary, tally)
        for tenant_name, tenant in segment.tenants.items():
            live = [held for held in tenant.instances.values() if held.last is not None]
            tenant_id = self._dictionary.tenant(tenant_name) if live else 0
            for held in live:
                writer.write(tenant_id, held)
        writer.flush()
        self._add_deltas(segment)
        erasure.write_tally(self._connection, tally)
        if erased:
            self._dictionary.drop_unused()
            # Before the commit: a crash in between folds the deletion again, and erases the rest.
            self._output.erase(erased)
            self._blobs.erase(erased)
        self._connection.execute(
            "UPDATE progress SET folded = ?, next_key = ? WHERE folded = ? AND epoch = ?",
            (segment.last, segment.next_key, self.folded, self._epoch),
        )
        if self._connection.changes() != 1:
            raise Fenced(
                f"{self._path.name} has another owner than epoch {self._epoch}.",
                hint="This process must stop using the data; the other one continues.",
                details={"epoch": self._epoch},
            )
        return bool(erased) or has_tenant

    def _add_deltas(self, segment: Segment) -> None:
        for tenant in segment.tenants.values():
            for held in tenant.instances.values():
                added = [(record.sequence, record.delta) for record in held.records if record.delta]
                if added:
                    bases.store_deltas(self._connection, held.key, added)
                    if not self._paged.take(held.key, added):
                        bases.take(self._connection, held.key, added, self._limits)
                        self._has_unpacked = True

    def _delete(self, segment: Segment, tally: Tally) -> tuple[list[int], bool]:
        """What the segment says is gone: keys of single instances, and whether a tenant is."""
        keys: list[int] = []
        has_tenant = False
        for name, tenant in segment.tenants.items():
            if tenant.is_cleared:
                has_tenant = erasure.doom_tenant(self._connection, name) or has_tenant
            else:
                gone = [instance for instance, held in tenant.instances.items() if held.is_cleared]
                if gone:
                    found: str = self._connection.execute(
                        "SELECT json_group_array(key) FROM instance WHERE tenant = (SELECT id FROM tenant "
                        "WHERE name = ?) AND instance IN (SELECT value FROM json_each(?))",
                        (name, listed(gone)),
                    ).get
                    keys += msgspec.json.decode(found, type=list[int])
        if has_tenant:
            self._dictionary.forget()
        if keys:
            erasure.remove(self._connection, keys, tally)
        return keys, has_tenant
