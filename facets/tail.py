"""The tail: records that are durable in the log but not folded into the state database yet, in memory.

How a reader gets a true picture while the fold runs beside it, without waiting for it:
1. take a `View` of the tail,
2. then begin a read transaction on the state database, and read there the position `folded` up to which it is complete,
3. believe the view where it is behind `folded`, the database otherwise.
The order matters: whatever left the tail before step 1 is in the database by then; whatever is folded later is in both
and counted once, by its position. (A prototype that asked the two without positions mixed a row from before a fold with
a tail from after it.)

So that a view never changes under its reader in a way that loses something: a fold drops records by building new
objects, never by emptying old ones. What is appended meanwhile may show up in an older view; that is newer, not wrong.
"""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from facets import delta as deltas
from facets.records import DeleteInstance, DeleteTenant, InstanceRow, LogItem, Record

# Rough size of a record's Python objects, on top of its bytes.
OVERHEAD_BYTES = 400
# A stored delta was checked against the limits of its day; later, smaller limits must not make it unreadable.
STORED_IMAGE_BYTES_MAX = 1 << 30

Wake = tuple[int, int, str, str]  # wake_at_ms, key, tenant, instance: in the order in which they are due


@dataclass(frozen=True, slots=True)
class Batch:
    """One position of the log, decoded. `keys[i]` is the instance key of `items[i]`, 0 for a deletion."""

    position: int
    items: Sequence[LogItem]
    keys: Sequence[int]
    next_key: int  # the first key that is free behind this batch
    size: int


@dataclass(slots=True)
class TailInstance:
    """What the tail knows of one instance: records behind `cleared_at`, oldest first, and the row they add up to."""

    key: int = 0
    records: list[tuple[int, Record]] = field(default_factory=list)
    last: tuple[int, InstanceRow] | None = None  # position and row; None: deleted and not begun again
    cleared_at: int = 0  # position of the last deletion; what is older does not exist

    def row_behind(self, folded: int) -> InstanceRow | None:
        last = self.last
        return last[1] if last is not None and last[0] > folded else None

    def hides(self, folded: int) -> bool:
        """Whether the state database, complete up to `folded`, is not the place to ask."""
        last = self.last
        return (last is not None and last[0] > folded) or self.cleared_at > folded

    def records_behind(self, folded: int) -> list[Record]:
        return [record for position, record in list(self.records) if position > folded]


@dataclass(slots=True)
class TailTenant:
    instances: dict[str, TailInstance] = field(default_factory=dict)
    cleared_at: int = 0


@dataclass(frozen=True, slots=True)
class Overlay:
    """What the tail says of a tenant, decided once for each instance: a later look could decide otherwise.

    `rows`: instances that the database, complete up to some position, does not tell right; None: deleted.
    """

    rows: dict[str, InstanceRow | None]
    hides_all: bool

    def hides(self, instance: str) -> bool:
        return self.hides_all or instance in self.rows

    def present(self) -> Iterator[InstanceRow]:
        return (row for row in self.rows.values() if row is not None)


class View:
    """The tail as of one moment or a little later. See the head of this file."""

    def __init__(self, tenants: dict[str, TailTenant], lock: threading.Lock) -> None:
        self._tenants = tenants
        self._lock = lock

    def instance(self, tenant: str, instance: str) -> TailInstance | None:
        found = self._tenants.get(tenant)
        return None if found is None else found.instances.get(instance)

    def is_cleared(self, tenant: str, instance: str, folded: int) -> bool:
        """Whether the database's row of this instance, if it has one, was deleted since."""
        found = self._tenants.get(tenant)
        if found is None:
            return False
        entry = found.instances.get(instance)
        return found.cleared_at > folded or (entry is not None and entry.cleared_at > folded)

    def resolve(self, stored: InstanceRow, folded: int) -> InstanceRow | None:
        """The present row of an instance that the database knows as `stored`; None: deleted."""
        entry = self.instance(stored.tenant, stored.instance)
        if entry is not None and (row := entry.row_behind(folded)) is not None:
            return row
        return None if self.is_cleared(stored.tenant, stored.instance, folded) else stored

    def overlay(self, tenant: str, folded: int) -> Overlay:
        """To be asked for once a reading, after the snapshot has begun."""
        found = self._tenants.get(tenant)
        if found is None:
            return Overlay({}, hides_all=False)
        with self._lock:
            rows = {name: entry.row_behind(folded) for name, entry in found.instances.items() if entry.hides(folded)}
            return Overlay(rows, hides_all=found.cleared_at > folded)

    def tenants(self) -> list[str]:
        with self._lock:
            return list(self._tenants)


class Tail:
    """Filled by the appender, emptied by the fold, viewed by readers; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tenants: dict[str, TailTenant] = {}
        self._wakes: list[Wake] = []
        self._batches: deque[Batch] = deque()
        self.size = 0  # bytes, about

    def view(self) -> View:
        with self._lock:
            return View(self._tenants, self._lock)

    def due(self, now_ms: int) -> tuple[View, list[Wake]]:
        """A view, and the wakes in it up to `now_ms`, earliest first."""
        with self._lock:
            return View(self._tenants, self._lock), self._wakes[: bisect_right(self._wakes, (now_ms + 1,))]

    def next_wake(self) -> tuple[View, Wake | None]:
        with self._lock:
            return View(self._tenants, self._lock), self._wakes[0] if self._wakes else None

    def pending(self) -> list[Batch]:
        """Batches not dropped yet, in the order of the log."""
        with self._lock:
            return list(self._batches)

    def append(self, batch: Batch, *, size_before: dict[tuple[str, str], tuple[int, int]]) -> None:
        """Take in what was just made durable.

        `size_before`: for instances that the batch does not begin, sequence of the last record and facet bytes before.
        """
        with self._lock:
            self._batches.append(batch)
            self.size += batch.size
            for item, key in zip(batch.items, batch.keys, strict=True):
                match item:
                    case Record():
                        self._take(batch.position, item, key, size_before)
                    case DeleteInstance():
                        tenant = self._tenants.setdefault(item.tenant, TailTenant())
                        self._clear(tenant, item.instance, batch.position)
                    case DeleteTenant():
                        tenant = self._tenants.setdefault(item.tenant, TailTenant())
                        tenant.cleared_at = batch.position
                        for name in tenant.instances:
                            self._clear(tenant, name, batch.position)

    def _take(
        self, position: int, record: Record, key: int, size_before: dict[tuple[str, str], tuple[int, int]]
    ) -> None:
        tenant = self._tenants.setdefault(record.tenant, TailTenant())
        entry = tenant.instances.get(record.instance)
        if entry is None:
            entry = tenant.instances[record.instance] = TailInstance(key=key, cleared_at=tenant.cleared_at)
        if entry.last is not None:
            sequence, facet_bytes = entry.last[1].sequence, entry.last[1].facet_bytes
        else:
            sequence, facet_bytes = size_before.get((record.tenant, record.instance), (0, 0))
        changed = image_size_after(record.delta)
        facet_bytes = facet_bytes if changed is None else changed
        self._forget_wake(entry)
        entry.key = key
        entry.records.append((position, record))
        row = row_of(record, key=key, sequence=record.sequence or sequence, facet_bytes=facet_bytes)
        entry.last = (position, row)
        if row.wake_at_ms is not None:
            insort(self._wakes, (row.wake_at_ms, key, row.tenant, row.instance))

    def _clear(self, tenant: TailTenant, instance: str, position: int) -> None:
        old = tenant.instances.get(instance)
        if old is not None:
            self._forget_wake(old)
        # A new object: a reader with an older view may still be reading the records of the old one.
        tenant.instances[instance] = TailInstance(cleared_at=position)

    def _forget_wake(self, entry: TailInstance) -> None:
        if entry.last is None:
            return
        row = entry.last[1]
        if row.wake_at_ms is None:
            return
        wake = (row.wake_at_ms, row.generation, row.tenant, row.instance)
        at = bisect_right(self._wakes, wake) - 1
        if at >= 0 and self._wakes[at] == wake:
            del self._wakes[at]

    def drop(self, folded: int) -> None:
        """Forget what the state database has now."""
        with self._lock:
            while self._batches and self._batches[0].position <= folded:
                self.size -= self._batches.popleft().size
            tenants: dict[str, TailTenant] = {}
            wakes: list[Wake] = []
            for name, tenant in self._tenants.items():
                kept = TailTenant(cleared_at=tenant.cleared_at)
                for instance, entry in tenant.instances.items():
                    if not entry.hides(folded):
                        continue
                    records = [held for held in entry.records if held[0] > folded]
                    kept.instances[instance] = TailInstance(entry.key, records, entry.last, entry.cleared_at)
                    if entry.last is not None and (wake := entry.last[1].wake_at_ms) is not None:
                        wakes.append((wake, entry.key, name, instance))
                if kept.instances or kept.cleared_at > folded:
                    tenants[name] = kept
            wakes.sort()
            self._tenants, self._wakes = tenants, wakes


def row_of(record: Record, *, key: int, sequence: int, facet_bytes: int) -> InstanceRow:
    row = record.row
    return InstanceRow(
        tenant=record.tenant,
        instance=record.instance,
        generation=key,
        sequence=sequence,
        state=row.state,
        wake_at_ms=row.wake_at_ms,
        workflow=row.workflow,
        commit=row.commit,
        created_at_ms=row.created_at_ms,
        updated_at_ms=row.updated_at_ms,
        summary=row.summary,
        facet_bytes=facet_bytes,
    )


def image_size_after(delta: bytes | None) -> int | None:
    """Size of the facet's image behind a delta that was taken in, as its header tells it; None: no change."""
    header = deltas.read_header(delta, bytes_max=STORED_IMAGE_BYTES_MAX) if delta else None
    return None if header is None else header.after.size


def batch_size(items: Sequence[LogItem]) -> int:
    """About how much memory a batch holds while it is in the tail."""
    return sum(
        OVERHEAD_BYTES
        + (len(item.entry) + len(item.delta or b"") + len(item.row.summary) if isinstance(item, Record) else 0)
        for item in items
    )
