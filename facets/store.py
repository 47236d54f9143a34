"""StateStore: the instances of all tenants, durable in one directory.

    owner.lock   held by the one process that has the store open
    log.db       the commit log: the truth of what is not in state.db yet (log.py)
    state.db     journals, facets and rows, folded from the log (fold.py); together with the log it is everything
    output.db    captured output lines (output.py)
    blobs.db     byte streams, once there are any (blobs.py)
    reserve      room for when the disk is full (reserve.py)

An append writes the log and the tail in memory (tail.py); reads merge the tail with state.db (index.py); the fold moves
records from the one to the other. A sleeping instance is a row and a few small blobs: no file, no memory.
"""

from __future__ import annotations

import builtins
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, cast

from facets import backup as backups
from facets import bases, index, listing, schema, search
from facets.blobs import BlobStore
from facets.database import bring_home, connect, copy_database, reading, transaction
from facets.errors import Corrupt, FacetError, Fenced, NotFound, Refused, SequenceConflict, StorageFull, StoreFailed
from facets.fold import Fold
from facets.fold_thread import FoldThread
from facets.forgetting import Wish, gaps_of, had_delta
from facets.index import Readers
from facets.instance_blobs import InstanceBlobs
from facets.limits import Limits
from facets.lock import OwnerLock
from facets.log import CommitLog, Log, copy_log
from facets.moment import Moment
from facets.output import OutputStore
from facets.paged import PageReader, find_base, stream
from facets.pages import Fetched
from facets.planning import plan
from facets.records import (
    DeleteInstance,
    DeleteTenant,
    Deletion,
    InstanceRow,
    JournalRecord,
    OutputLine,
    Record,
    RecordLike,
    decode_batch,
    encode_batch,
)
from facets.reserve import Reserve
from facets.revert import delta_back, delta_to_nothing, refuse_too_large
from facets.search import Query, cursor_behind
from facets.tail import SEGMENT_BYTES, Planned, Tail

# While a log is read at the start, fold whenever this much has gathered, so that a long log needs no memory.
RECOVERY_BYTES = 16 * 1024 * 1024
# What closing erases at most of what was deleted; the next start goes on with it.
CLOSING_ERASE_BYTES = 64 * 1024 * 1024
EVERYTHING = Query()


class StateStore:
    """Journals, facets and the index of instances. Thread-safe; `append` and the deletions wait for each other."""

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        limits: Limits | None = None,
        fold: Literal["background", "manual"] = "background",
        vfs: str | None = None,
        log: Log | None = None,
    ) -> Self:
        """Open or create the store in directory `path`, fence whoever had it before, and read what the log holds.

        `fold="manual"`: records stay in memory until `fold()` is called. `vfs`: name of a registered SQLite VFS.
        `log`: the commit log that belongs to this directory (None: the file log.db in it); closed with the store.
        Raises DataInUse, SchemaTooNew, Corrupt, StorageFull, StoreFailed, Unavailable.
        """
        return cls(Path(path), limits=limits if limits is not None else Limits(), fold=fold, vfs=vfs, log=log)

    def __init__(
        self, path: Path, *, limits: Limits, fold: Literal["background", "manual"], vfs: str | None, log: Log | None
    ) -> None:
        self.path = path
        self.limits = limits
        self._failure: FacetError | None = None
        self._closed = False
        self._append_lock = threading.Lock()
        self._tail = Tail()
        _make_directory(path)
        self._lock = OwnerLock(path / "owner.lock")
        try:
            self._log: Log = log if log is not None else CommitLog(path / "log.db", vfs=vfs)
            self._state_path = path / "state.db"
            with reading(self._state_path):
                self._writer = connect(self._state_path, vfs=vfs, create=True, cache_kib=16 * 1024)
            schema.migrate(self._writer, self._state_path, schema.STATE)
            self._writer.pragma("secure_delete", True)
            self._output = OutputStore(path / "output.db", bytes_max=limits.output_bytes_max, vfs=vfs)
            self._blobs = BlobStore(path / "blobs.db", bytes_max=limits.blobs_bytes_max, vfs=vfs)
            self.blobs = InstanceBlobs(self._blobs, self.row, self._fail)
            self._readers = Readers(self._state_path, vfs=vfs)
            self._reserve = Reserve(path / "reserve", limits.disk_reserve_bytes)
            self._pages = PageReader()
            head = self._log.claim()
            self.epoch = head.epoch
            self._head = head.position
            with transaction(self._writer, self._state_path):
                self._writer.execute("UPDATE progress SET epoch = ?", (self.epoch,))
            self._next_key: int = self._writer.execute("SELECT next_key FROM progress").get
            self._fold = Fold(
                self._writer,
                self._state_path,
                epoch=self.epoch,
                log=self._log,
                tail=self._tail,
                output=self._output,
                blobs=self._blobs,
                reserve=self._reserve,
                limits=limits,
            )
            self._recover()
            self._blobs.erase_orphans(self._known)
            self._thread = (
                FoldThread(self._fold, self._tail, limits, on_failure=self._fail) if fold == "background" else None
            )
        except BaseException as error:
            self._release(error)
            raise

    def _recover(self) -> None:
        """Read what the log holds behind the state database."""
        if self._fold.folded > self._head:
            raise Corrupt(
                f"state.db is ahead of log.db (position {self._fold.folded} against {self._head}): "
                "they are not of the same moment.",
                code="log_behind_state",
                hint="Restore both from the same backup.",
            )
        self._tail.start_at(self._fold.folded)
        for position, content in self._log.read_from(self._fold.folded + 1):
            try:
                for kind, items in groupby(decode_batch(content), type):
                    if kind is Record:
                        self._take_records(position, cast("list[Record]", list(items)), len(content), limits=None)
                    else:
                        self._take_deletions(position, cast("list[Deletion]", list(items)), len(content))
            except SequenceConflict as error:
                raise Corrupt(f"Position {position} of the log does not fit: {error}", code="log_gap") from error
            if self._tail.size > RECOVERY_BYTES:
                self._fold.fold()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()

    # --- writing

    def append(self, records: Sequence[RecordLike]) -> int:
        """Make a batch of records durable, of one or many instances, all or none; one fsync. Returns its log position.

        On return the batch survives the death of the process and of the machine, and every read shows it.
        Raises, nothing written: SequenceConflict (a record is not the next of its instance), Refused (too large, or no
        facet delta; `details` name the instance), Fenced, StorageFull (also while the fold cannot make room).
        StoreFailed: unknown whether it was written; this store refuses every further append until opened again.
        """
        self._wait_for_room()
        batch = encode_batch(records)
        with self._append_lock:
            self._refuse_if_unusable()
            if not records:
                return self._head
            if not self._reserve.fill():
                raise StorageFull(
                    f"The disk of {self.path} is full: the little room that is left is for deletions.",
                    hint="Free disk space; nothing was written, and the same call works again then.",
                    details={"path": str(self.path)},
                )
            planned, next_key = self._plan(records, self.limits)
            self._write(batch)
            self._next_key = next_key
            self._tail.append(self._head, planned=planned, next_key=next_key, size=len(batch))
            position = self._head
        self._hurry()
        return position

    def delete(self, tenant: str, instance: str) -> bool:
        """Everything of one instance is gone; durable on return. False: there was none.

        Its bytes leave the files with the next fold and trim. The same id may start again, at sequence 1.
        """
        return bool(self.delete_many([(tenant, instance)]))

    def delete_many(self, names: Sequence[tuple[str, str]]) -> int:
        """As `delete`, for each (tenant, instance) that there is, with one fsync for all. Returns their number."""
        with self._append_lock:
            self._refuse_if_unusable()
            there = [DeleteInstance(*name) for name in dict.fromkeys(names) if self.row(*name) is not None]
            self._append_deletions(there)
        self._hurry()
        return len(there)

    def delete_tenant(self, tenant: str) -> bool:
        """As `delete`, for all of a tenant's instances. False: it had none."""
        with self._append_lock:
            self._refuse_if_unusable()
            rows, _ = self.list(tenant, limit=1)
            if rows:
                self._append_deletions([DeleteTenant(tenant)])
        return bool(rows)

    def expire(
        self, before_ms: Mapping[str, int], *, after: int = 0, scan: int = 10_000
    ) -> tuple[builtins.list[tuple[str, str]], int | None]:
        """Delete instances that have been in one of these states since before the time given for it, unless something
        is to wake them.

        Looks at `scan` instances behind generation `after`, oldest first. Returns (tenant, instance) of those that are
        gone, durably, and the generation to go on behind (None: that was the last one). An instance that changes
        meanwhile stays. Raises as `delete_many`.
        """
        with self._append_lock:
            self._refuse_if_unusable()
            view = self._tail.view()
            with self._readers.snapshot() as snapshot:
                names, reached = index.ended(snapshot, view, before_ms, after=after, scan=scan)
            self._append_deletions([DeleteInstance(*name) for name in names])
        self._hurry()
        return names, reached

    def forget(self, tenant: str, instance: str, *, before: int, but: Sequence[int] = (), keep_bytes: int) -> None:
        """The oldest journal entries before entry `before` may go, as long as `keep_bytes`, stored, remain of them.

        Entry 1 and those of `but` stay. It is a hint: carried out beside the fold, by whole chunks; what it did not
        reach goes with the next one. Of several that wait for an instance the first and the last are carried out.
        Nothing happens if there is no entry `before`, if there was a hint with a later one, or if the store is not
        usable. On return nothing is gone yet; at most a row was read.
        """
        if self._failure is not None or self._closed:
            return
        position = self._head
        held = self._tail.newest(tenant, instance)
        if held is None:
            row = self.row(tenant, instance)
            key, sequence = (0, 0) if row is None else (row.generation, row.sequence)
        else:
            key, sequence = held.key, 0 if held.last is None else held.last.sequence
        if before <= sequence:
            self._fold.wish(Wish(key, position=position, before=before, but=tuple(but), keep_bytes=keep_bytes))

    def _append_deletions(self, items: Sequence[Deletion]) -> None:
        """With the lock held."""
        if items:
            batch = encode_batch(items)
            try:
                self._write(batch)
            except StorageFull:
                if not self._reserve.release():
                    raise
                self._write(batch)
            self._take_deletions(self._head, items, len(batch))

    def _write(self, batch: bytes) -> None:
        """A batch to the log, with the lock held. On return it is durable, and the head behind it."""
        if len(batch) > self.limits.batch_bytes_max:
            raise Refused(
                f"A batch of {len(batch)} bytes is over the limit of {self.limits.batch_bytes_max} bytes.",
                code="batch_too_large",
                hint="Append fewer records at once.",
            )
        self._head = self._log.append(self._head, self.epoch, batch)

    def _wait_for_room(self) -> None:
        if self._thread is not None:
            self._thread.wait_for_room()

    def _hurry(self) -> None:
        if self._thread is not None and self._tail.size > SEGMENT_BYTES:
            self._thread.hurry()

    def _plan(self, records: Sequence[RecordLike], limits: Limits | None) -> tuple[builtins.list[Planned], int]:
        return plan(records, tail=self._tail, stored=self._heads, next_key=self._next_key, limits=limits)

    def _take_records(self, position: int, records: Sequence[Record], size: int, *, limits: Limits | None) -> None:
        planned, self._next_key = self._plan(records, limits)
        self._tail.append(position, planned=planned, next_key=self._next_key, size=size)

    def _take_deletions(self, position: int, items: Sequence[Deletion], size: int) -> None:
        self._tail.append(position, deletions=items, next_key=self._next_key, size=size)

    def _heads(self, names: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], tuple[int, int, int]]:
        """Key, sequence and facet bytes of instances, by tenant, that the tail does not know."""
        found: dict[tuple[str, str], tuple[int, int, int]] = {}
        with self._readers.snapshot() as snapshot:
            for tenant, instances in names.items():
                for instance, head in index.heads(snapshot, tenant, instances).items():
                    found[tenant, instance] = head
        return found

    # --- reading

    def row(self, tenant: str, instance: str) -> InstanceRow | None:
        """What the index knows of an instance; None: there is none."""
        view = self._tail.view()
        with self._readers.snapshot() as snapshot:
            return index.find(snapshot, view, tenant, instance)

    def journal(
        self, tenant: str, instance: str, *, after: int = 0, limit: int | None = None
    ) -> builtins.list[JournalRecord]:
        """Journal entries behind sequence `after`, in order, `limit` at most; empty if there is no such instance.

        What was forgotten is left out. Raises Corrupt if something else is missing.
        """
        with self.at_once() as moment:
            return moment.journal(tenant, instance, after=after, limit=limit)

    @contextmanager
    def at_once(self) -> Iterator[Moment]:
        """Reads of one moment: what is appended or deleted meanwhile is not seen in the block."""
        view = self._tail.view()
        with self._readers.snapshot() as snapshot:
            yield Moment(snapshot, view)

    def facet(self, tenant: str, instance: str) -> bytes | Fetched:
        """What a sandbox needs to open the facet: its image or, if it is a large one, its stamp and its first pages.

        Raises Corrupt (a delta does not fit).
        """
        row = self.row(tenant, instance)
        if row is not None and row.facet_bytes > self.limits.paged_bytes_min:
            return self.pages(tenant, instance, 0, 1)
        return self.image(tenant, instance)

    def pages(self, tenant: str, instance: str, first: int, count: int) -> Fetched:
        """Chunks of the facet's image as of now (pages.py), fewer at its end. A count of 0: its stamp alone.

        Raises NotFound (no instance), Corrupt (a delta does not fit).
        """
        view = self._tail.view()
        with self._readers.snapshot() as snapshot:
            row, ahead = index.find_with_tail(snapshot, view, tenant, instance)
            if row is None:
                raise NotFound(f"Tenant {tenant} has no instance {instance}.", code="instance_not_found")
            return self._pages.read(snapshot.connection, row, ahead, first, count)

    def image(self, tenant: str, instance: str, *, at: int | None = None) -> bytes:
        """The facet's image as of record `at` (None: now); b"" if there was no facet, or no such instance.

        Of a large one it is all in memory then: `image_parts` gives it piece by piece. Raises what that raises.
        """
        return b"".join(self.image_parts(tenant, instance, at=at))

    def image_parts(self, tenant: str, instance: str, *, at: int | None = None) -> Iterator[bytes]:
        """The facet's image as of record `at` (None: now) in pieces; none if there was no facet, or no such instance.

        A large one is verified while it is read, so that an error may come after pieces. Raises NotFound
        (`record_not_found`: the journal does not reach `at`; `record_not_kept`: what led there has been dropped),
        Corrupt (a delta does not fit).
        """
        view = self._tail.view()
        with self._readers.snapshot() as snapshot:
            row, ahead = index.find_with_tail(snapshot, view, tenant, instance)
            last = 0 if row is None else row.sequence
            upto = last if at is None else at
            if not 0 <= upto <= last:
                raise NotFound(
                    f"Instance {instance} has no record {upto}; its journal has {last}.",
                    code="record_not_found",
                    details={"tenant": tenant, "instance": instance, "found": last},
                )
            if row is None:
                return
            if find_base(snapshot.connection, row.generation) is not None:
                bases.refuse_forgotten(snapshot.connection, row.generation, upto)
                yield from stream(snapshot.connection, row, ahead, upto)
                return
            changes = [record.delta for record in ahead if record.delta and record.sequence <= upto]
            image = bases.image_as_of(snapshot.connection, row.generation, upto, changes)
        yield image

    def revert(self, tenant: str, instance: str, *, after: int) -> bytes | None:
        """The delta from the facet's present image to that as of record `after`; None: they are the same.

        Appended with a record, it makes the facet what it was. Raises NotFound (`instance_not_found`,
        `record_not_found`), Refused (`facet_not_kept`: deltas that led there have been dropped;
        `facet_delta_too_large`), Corrupt (a delta does not fit).
        """
        view = self._tail.view()
        with self._readers.snapshot() as snapshot:
            row, ahead = index.find_with_tail(snapshot, view, tenant, instance)
            if row is None:
                raise NotFound(f"Tenant {tenant} has no instance {instance}.", code="instance_not_found")
            if not 0 <= after <= row.sequence:
                raise NotFound(
                    f"Instance {instance} has no record {after}; its journal has {row.sequence}.",
                    code="record_not_found",
                    details={"tenant": tenant, "instance": instance, "found": row.sequence},
                )
            try:
                return delta_back(snapshot.connection, row, ahead, after, self.limits)
            except NotFound as error:
                before = Moment(snapshot, view).journal(tenant, instance, limit=after)
                gaps = gaps_of(snapshot.connection, row.generation)
                if any(record.has_delta for record in before if record.sequence <= after) or (
                    gaps and gaps[0][0] <= after and had_delta(snapshot.connection, row.generation)
                ):
                    oldest = error.details["oldest"]
                    raise Refused(
                        f"The facet as of entry {after} is not kept any more.",
                        code="facet_not_kept",
                        hint=f"Go back to entry {oldest} or a later one, or to before the facet began.",
                        details=error.details,
                    ) from error
        # There was no facet yet, and that needs no history.
        refuse_too_large(row.facet_bytes, after, self.limits)
        return delta_to_nothing(self.image(tenant, instance), self.limits)

    def due(self, now_ms: int, *, limit: int) -> builtins.list[InstanceRow]:
        """Instances whose wake time is `now_ms` or earlier, earliest first."""
        view, wakes = self._tail.due(now_ms)
        with self._readers.snapshot() as snapshot:
            return index.due(snapshot, view, wakes, now_ms, limit)

    def next_wake_ms(self) -> int | None:
        """The earliest wake time of all instances, in the past or to come; None: no timer is set."""
        view, wake = self._tail.next_wake()
        with self._readers.snapshot() as snapshot:
            return index.next_wake_ms(snapshot, view, wake)

    def in_states(self, states: Iterable[str], *, limit: int, after: int = 0) -> builtins.list[InstanceRow]:
        """Instances of all tenants in these states, oldest first; `after`: generation of the last one seen."""
        view = self._tail.view()
        with self._readers.snapshot() as snapshot:
            return index.in_states(snapshot, view, sorted(set(states)), after=after, limit=limit)

    def list(
        self, tenant: str, wanted: Query = EVERYTHING, *, limit: int = 100, after: str | None = None
    ) -> tuple[builtins.list[InstanceRow], str | None]:
        """A page of a tenant's instances, and the cursor of the next page (None: this was the last).

        Instances that begin while pages are read do not shift them; one whose place in the order changes meanwhile may
        be seen twice, or not. Raises Refused (`query_invalid`, `cursor_invalid`).
        """
        search.check(wanted)
        place = None if after is None else search.read_cursor(wanted, after)
        view = self._tail.view()
        with self._readers.snapshot() as snapshot:
            rows = listing.list_rows(snapshot, view, tenant, wanted, after=place, limit=limit + 1)
        has_more = len(rows) > limit
        rows = rows[:limit]
        return rows, cursor_behind(wanted, rows[-1]) if has_more and rows else None

    def matches(self, tenant: str, wanted: Query = EVERYTHING, *, limit: int = search.COUNT_MAX) -> int:
        """How many instances of a tenant a search finds; `limit` + 1 if there are more. Raises Refused."""
        search.check(wanted)
        view = self._tail.view()
        with self._readers.snapshot() as snapshot:
            return listing.count_rows(snapshot, view, tenant, wanted, limit=limit + 1)

    def count(self, tenant: str) -> dict[str, int]:
        """Number of a tenant's instances by state; states without any are left out."""
        view = self._tail.view()
        with self._readers.snapshot() as snapshot:
            return index.count(snapshot, view, tenant)

    def commits(self, tenant: str) -> set[str]:
        """The commits of all of a tenant's stored instances, finished ones too."""
        view = self._tail.view()
        with self._readers.snapshot() as snapshot:
            return index.commits(snapshot, view, tenant)

    # --- output

    def append_output(self, lines: Sequence[OutputLine]) -> None:
        """Keep captured lines, in this order. Survives the death of the process, not of the machine.

        Lines with the same (tenant, instance, position, number, step, attempt) as one that is there are ignored, and so
        are lines of instances that do not exist. Past `limits.output_bytes_max` an instance's output ends with a line
        that says so. Raises StorageFull (no line was kept), StoreFailed.
        """
        self._refuse_if_unusable()
        self._output.append(lines, key_of=self._key_of)

    def output(
        self, tenant: str, instance: str, *, after: int = 0, limit: int = 1000
    ) -> builtins.list[tuple[int, OutputLine]]:
        """Captured lines behind the cursor `after`, in the order in which they came, each with its cursor."""
        key = self._key_of(tenant, instance)
        return [] if key is None else self._output.read(tenant, instance, key, after=after, limit=limit)

    def _known(self, keys: builtins.set[int]) -> builtins.set[int]:
        """Those keys that are of an instance."""
        view = self._tail.view()
        with self._readers.snapshot() as snapshot:
            return index.known(snapshot, view, keys)

    def _key_of(self, tenant: str, instance: str) -> int | None:
        row = self.row(tenant, instance)
        return None if row is None else row.generation

    # --- care

    def fold(self) -> None:
        """Everything appended so far into state.db, safely on disk, and the log shortened behind it."""
        self._refuse_if_unusable()
        self._bring_home()

    def _bring_home(self) -> None:
        try:
            self._fold.fold()
            self._fold.erase()
            self._fold.forget()
            self._fold.trim(compact=True)
        except (StoreFailed, Fenced) as error:
            self._fail(error)
            raise

    def backup(self, target: Path | str) -> None:
        """A consistent copy of everything appended before the call, as a directory that can be opened in place of this.

        Appends go on meanwhile. `target` must not exist; it appears whole or not at all, and is on disk on return.
        Raises Refused (`target_exists`), Unavailable.
        """
        self._refuse_if_unusable()
        with self._fold.hold(), self._blobs.held():
            self._bring_home()
            copies = {
                "state.db": self._copy_state,
                "log.db": lambda target: copy_log(self._log, self._fold.folded + 1, target),
                "output.db": self._output.copy_to,
            }
            # After journals: what they name was there before them, and nothing is swept meanwhile.
            backups.copy_store(
                Path(target), copies | ({"blobs.db": self._blobs.copy_to} if self._blobs.is_there else {})
            )

    def _copy_state(self, target: Path) -> None:
        copy_database(self._writer, self._state_path, target)

    def check(self) -> builtins.list[str]:
        """Read everything and say what is wrong, one line a finding; empty: all is well. Changes nothing."""
        view = self._tail.view()
        problems = self._log.problems() + self._output.problems()
        with self._fold.hold():  # so that nothing is trimmed while it is read
            try:
                for _, batch in self._log.read_from(self._fold.folded + 1):
                    decode_batch(batch)
            except FacetError as error:
                problems.append(f"log.db: {error}")
        with self._readers.snapshot() as snapshot:
            problems += backups.state_problems(snapshot, view, self._state_path)
            problems += self._blobs.problems(self._known)
        return problems

    def export_facet(self, tenant: str, instance: str, target: Path | str) -> None:
        """Write the facet as an ordinary SQLite file; it appears whole or not at all. Raises NotFound (no instance)."""
        if self.row(tenant, instance) is None:
            raise NotFound(f"Tenant {tenant} has no instance {instance}.", code="instance_not_found")
        backups.write_file(Path(target), self.image_parts(tenant, instance))

    def close(self) -> None:
        """Fold what is left, unless the store has failed, and let go of the directory. Idempotent.

        Without it nothing is lost: the log is read at the next start. Raises StoreFailed if a file could not be
        closed; all others are, and the directory is free.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if self._thread is not None:
                self._thread.stop()
            if self._failure is None:
                with self._append_lock:
                    self._fold.fold()
                    self._fold.erase(bytes_max=CLOSING_ERASE_BYTES)
                    self._fold.trim(compact=True)
                    bring_home(self._writer, self._state_path)
        except FacetError as error:
            # What could not be folded is in the log, and is read from there at the next start.
            self._fail(error)
        except BaseException as error:
            self._release(error)
            raise
        self._release()

    def _release(self, because: BaseException | None = None) -> None:
        """Let go of everything that was opened, in reverse; the lock last, and whatever fails before it.

        `because`: the error that is being raised, to which a failure here is but a note. Raises StoreFailed without it.
        """
        problems: builtins.list[Exception] = []
        for name in ("_readers", "_blobs", "_output", "_writer", "_log"):
            part = getattr(self, name, None)
            if part is not None:
                try:
                    part.close()
                except Exception as error:  # SQLite's, the system's, our own: the other parts are open still
                    problems.append(error)
        try:
            self._lock.release()
        except OSError as error:
            problems.append(error)
        if problems and because is not None:
            because.add_note(f"Closing the store failed too: {problems[0]}")
        elif problems:
            raise StoreFailed(
                f"Closing the store in {self.path} failed: {problems[0]}.",
                hint="Nothing is lost: what was acknowledged is read at the next start.",
            ) from problems[0]

    def _fail(self, error: FacetError) -> None:
        self._failure = self._failure or error

    def _refuse_if_unusable(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(
                self._failure.message, code=self._failure.code, hint=self._failure.hint, details=self._failure.details
            ) from self._failure
        if self._closed:
            raise Refused("The store is closed.", code="store_closed")


def _make_directory(path: Path) -> None:
    """Create the directory, and make its name durable: a log that is on disk in a directory that is not is lost."""
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for created in missing:
        backups.sync_directory(created.parent)
