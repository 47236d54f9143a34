"""The tail: records that are durable in the log but not folded into the state database yet, in memory.

It is a row of segments. Appends go to the last one; the fold closes it and writes the oldest, one segment in one
transaction, which then leaves the row as it is: nothing is taken apart.

How a reader gets a true picture while the fold runs beside it, without waiting for it:
1. take a `View` of the tail: the segments there are,
2. then begin a read transaction on the state database, and read there the position `folded` up to which it is complete,
3. believe the segments that begin behind `folded`, the newest first; then the database.
The order matters: whatever left the tail before step 1 is in the database by then; whatever is folded later is in both,
and the position decides for the database. (A prototype that asked the two without positions mixed a row from before a
fold with a tail from after it.) What is appended meanwhile may show up in an older view; that is newer, not wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush

import msgspec

from facets import delta as deltas
from facets.records import DeleteInstance, Deletion, InstanceRow, RecordLike

# Rough size of a record's Python objects, on top of its bytes in the log.
OVERHEAD_BYTES = 700
# A segment is closed when it has this much: one transaction of the fold, cheap by its size and yet bounded.
SEGMENT_BYTES = 8 * 1024 * 1024
# A stored delta was checked against the limits of its day; later, smaller limits must not make it unreadable.
STORED_IMAGE_BYTES_MAX = 1 << 30

Wake = tuple[int, int, str, str]  # wake_at_ms, key, tenant, instance: in the order in which they are due


class Last(msgspec.Struct, frozen=True, gc=False):
    """An instance as of its newest record in a segment. `sequence`: of its last entry, wherever that is."""

    record: RecordLike
    sequence: int
    facet_bytes: int


class Planned(msgspec.Struct, frozen=True, gc=False):
    """A record that fits, with what it makes of its instance."""

    key: int
    last: Last


class Held:
    """What a segment knows of one instance. `last` None: deleted, and not begun again in this segment."""

    __slots__ = ("is_cleared", "key", "last", "records")

    def __init__(self, key: int, *, is_cleared: bool) -> None:
        self.key = key
        self.records: list[RecordLike] = []
        self.last: Last | None = None
        self.is_cleared = is_cleared  # what older segments and the database have of this id does not exist any more

    def row(self) -> InstanceRow | None:
        last = self.last
        return None if last is None else row_of(self.key, last)


class HeldTenant:
    """What a segment knows of one tenant. `is_cleared`: all that is older was deleted."""

    __slots__ = ("instances", "is_cleared")

    def __init__(self) -> None:
        self.instances: dict[str, Held] = {}
        self.is_cleared = False


class Segment:
    """Batches that are folded together: positions `first` to `last` of the log (`last` < `first`: none yet)."""

    __slots__ = ("erased", "first", "last", "log_bytes", "next_key", "size", "tenants", "wakes")

    def __init__(self, first: int) -> None:
        self.first = first
        self.last = first - 1
        self.next_key = 0  # the first key that is free behind it
        self.tenants: dict[str, HeldTenant] = {}
        self.wakes: list[Wake] = []  # a heap; what was superseded stays in it
        self.erased: list[int] = []  # keys of instances that came and went within it
        self.size = 0  # bytes in memory, about
        self.log_bytes = 0

    @property
    def has_deletions(self) -> bool:
        return any(
            tenant.is_cleared or any(held.is_cleared for held in tenant.instances.values())
            for tenant in self.tenants.values()
        )

    def held(self, tenant: str, instance: str) -> Held | None:
        found = self.tenants.get(tenant)
        if found is None:
            return None
        held = found.instances.get(instance)
        if held is None and found.is_cleared:
            return _CLEARED
        return held

    def take(self, planned: Iterable[Planned]) -> None:
        tenants, wakes = self.tenants, self.wakes
        for each in planned:
            key, last = each.key, each.last
            record = last.record
            tenant = tenants.get(record.tenant)
            if tenant is None:
                tenant = tenants[record.tenant] = HeldTenant()
            held = tenant.instances.get(record.instance)
            if held is None or held.last is None:
                held = tenant.instances[record.instance] = Held(key, is_cleared=held is not None or tenant.is_cleared)
            held.records.append(record)
            held.last = last
            wake_at_ms = record.row.wake_at_ms
            if wake_at_ms is not None:
                heappush(wakes, (wake_at_ms, key, record.tenant, record.instance))

    def delete(self, item: Deletion) -> None:
        tenant = self.tenants.setdefault(item.tenant, HeldTenant())
        if isinstance(item, DeleteInstance):
            gone = tenant.instances.get(item.instance)
            # A new object: a reader may still be reading the records of the old one.
            tenant.instances[item.instance] = Held(0, is_cleared=True)
            self.erased += [] if gone is None or gone.last is None else [gone.key]
        else:
            self.erased += [held.key for held in tenant.instances.values() if held.last is not None]
            cleared = self.tenants[item.tenant] = HeldTenant()
            cleared.is_cleared = True


_CLEARED = Held(0, is_cleared=True)


class Overlay:
    """What the tail says of a tenant, decided once for each instance: a later look could decide otherwise."""

    __slots__ = ("_rows", "hides_all")

    def __init__(self) -> None:
        self._rows: dict[str, tuple[int, Last | None]] = {}
        self.hides_all = False

    def add(self, tenant: HeldTenant) -> None:
        if tenant.is_cleared:
            self.hides_all = True
            self._rows.clear()
        self._rows.update((name, (held.key, held.last)) for name, held in tenant.instances.items())

    def hides(self, instance: str) -> bool:
        """Whether the database does not tell this one right."""
        return self.hides_all or instance in self._rows

    def hidden(self) -> list[str]:
        return list(self._rows)

    def present(self) -> Iterator[InstanceRow]:
        return (row_of(key, last) for key, last in self._rows.values() if last is not None)


class View:
    """The tail as of one moment or a little later. See the head of this file."""

    def __init__(self, segments: tuple[Segment, ...], lock: threading.Lock) -> None:
        self._segments = segments
        self._lock = lock

    def holds(self, tenant: str, instance: str, folded: int) -> list[Held]:
        """What the tail has of an instance, newest first. Empty: ask the database; otherwise, the last one tells by
        `is_cleared` whether the database has older records of it."""
        found: list[Held] = []
        for segment in reversed(self._segments):
            if segment.first <= folded:
                break
            held = segment.held(tenant, instance)
            if held is not None:
                found.append(held)
                if held.is_cleared:
                    break
        return found

    def resolve(self, stored: InstanceRow, folded: int) -> InstanceRow | None:
        """The present row of an instance that the database knows as `stored`; None: deleted."""
        for segment in reversed(self._segments):
            if segment.first <= folded:
                break
            held = segment.held(stored.tenant, stored.instance)
            if held is not None:
                return held.row()
        return stored

    def overlay(self, tenant: str, folded: int) -> Overlay:
        """To be asked for once a reading, after the snapshot has begun."""
        overlay = Overlay()
        with self._lock:
            for segment in self._segments:
                if segment.first > folded and (found := segment.tenants.get(tenant)) is not None:
                    overlay.add(found)
        return overlay

    def keys(self) -> set[int]:
        """Of all instances that it has something of."""
        with self._lock:
            tenants = [tenant for segment in self._segments for tenant in segment.tenants.values()]
            return {held.key for tenant in tenants for held in tenant.instances.values()}

    def tenants(self) -> set[str]:
        with self._lock:
            return {tenant for segment in self._segments for tenant in segment.tenants}


class Tail:
    """Filled by the appender, emptied by the fold, viewed by readers; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._segments: tuple[Segment, ...] = (Segment(1),)

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        return sum(segment.size for segment in self._segments)

    def start_at(self, position: int) -> None:
        """An empty tail behind `position`."""
        self._segments = (Segment(position + 1),)

    def view(self) -> View:
        return View(self._segments, self._lock)

    def newest(self, tenant: str, instance: str) -> Held | None:
        """What is known of an instance without the database; for the appender, who alone changes it."""
        for segment in reversed(self._segments):
            held = segment.held(tenant, instance)
            if held is not None:
                return held
        return None

    def due(self, now_ms: int) -> tuple[View, list[Wake]]:
        """A view, and the wakes in it up to `now_ms`, earliest first; some may have been superseded."""
        found: list[Wake] = []
        with self._lock:
            segments = self._segments
            for segment in segments:
                heap, places = segment.wakes, [0]
                while places:  # down the heap as far as it is due
                    place = places.pop()
                    if place < len(heap) and heap[place][0] <= now_ms:
                        found.append(heap[place])
                        places += (2 * place + 1, 2 * place + 2)
        return View(segments, self._lock), sorted(found)

    def next_wake(self) -> tuple[View, Wake | None]:
        """A view, and the earliest wake in it that still counts."""
        earliest: Wake | None = None
        with self._lock:
            segments = self._segments
            for segment in segments:
                wakes = segment.wakes
                while wakes and not self._counts(wakes[0]):
                    heappop(wakes)
                if wakes and (earliest is None or wakes[0] < earliest):
                    earliest = wakes[0]
        return View(segments, self._lock), earliest

    def _counts(self, wake: Wake) -> bool:
        wake_at_ms, key, tenant, instance = wake
        held = self.newest(tenant, instance)
        return (
            held is not None
            and held.last is not None
            and held.key == key
            and held.last.record.row.wake_at_ms == wake_at_ms
        )

    def append(
        self,
        position: int,
        *,
        planned: Sequence[Planned] = (),
        deletions: Sequence[Deletion] = (),
        next_key: int,
        size: int,
    ) -> None:
        """Take in what was just made durable at `position`: first the records, then the deletions."""
        with self._lock:
            segment = self._segments[-1]
            if segment.size > SEGMENT_BYTES and position > segment.last:
                segment = Segment(position)
                self._segments = (*self._segments, segment)
            segment.take(planned)
            for item in deletions:
                segment.delete(item)
            segment.last = position
            segment.next_key = next_key
            segment.log_bytes += size
            segment.size += size + OVERHEAD_BYTES * (len(planned) + len(deletions))

    def close_segment(self) -> list[Segment]:
        """Everything that was appended so far, in closed segments, oldest first: to be folded."""
        with self._lock:
            last = self._segments[-1]
            if last.last >= last.first:
                self._segments = (*self._segments, Segment(last.last + 1))
            return list(self._segments[:-1])

    def drop(self, segment: Segment) -> None:
        """Forget the oldest segment: the state database has it."""
        with self._lock:
            assert self._segments[0] is segment, "segments are folded in their order"
            assert len(self._segments) > 1, "and only after they are closed"
            self._segments = self._segments[1:]


def row_of(key: int, last: Last) -> InstanceRow:
    record = last.record
    row = record.row
    return InstanceRow(
        record.tenant,
        record.instance,
        key,
        last.sequence,
        row.state,
        row.wake_at_ms,
        row.workflow,
        row.commit,
        row.created_at_ms,
        row.updated_at_ms,
        row.summary,
        last.facet_bytes,
        row.attributes,
    )


def image_size_after(delta: bytes | None) -> int | None:
    """Size of the facet's image behind a delta that was taken in, as its header tells it; None: no change."""
    header = deltas.read_header(delta, bytes_max=STORED_IMAGE_BYTES_MAX) if delta else None
    return None if header is None else header.after.size
