"""Large facets on the host: a base image in chunks, and the deltas behind it, applied where they touch what is read.

The base of a large facet is as of some record: a row of `paged` with its Stamp, and one row of `paged_chunk` for each
chunk that is not zeros (pages.py). What is read of it is those chunks, XOR what the deltas behind the base change in
them; XOR runs both ways, so an older record is reached from a newer base. The fold moves the base on before many deltas
have gathered (`PagedFold`), and writes only chunks that they touch. Bytes are all that the host knows of an image: it
is never opened, and never in memory as a whole.

Memory: a delta inflates to `delta_bytes_max` at most; what is composed of several is bounded by COMPOSED_BYTES_MAX, and
beyond that made for one window of the image at a time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

import apsw

from facets import delta as deltas
from facets.chunks import row_id, unpack
from facets.database import query
from facets.delta import BLOCK_BYTES, Stamp
from facets.errors import Corrupt
from facets.limits import FACET_BYTES_MOST
from facets.pages import CHUNK_BLOCKS, CHUNK_BYTES, Fetched, check_chunk, chunk_count, raw_chunk, unpack_chunk
from facets.records import InstanceRow, RecordLike

CHUNK_BITS = 20
_CHUNK_MASK = (1 << CHUNK_BITS) - 1
COMPOSED_BYTES_MAX = 16 * 1024 * 1024
"""Of one facet's deltas behind its base, inflated and composed; and of all that are kept for further requests."""
WINDOW_CHUNKS = 256
"""Read at once while an image is streamed: 8 MiB."""

DeltaSource = Callable[[], Iterable[bytes]]


class PagedBase(NamedTuple):
    """What the row of a large facet says: the image as of `sequence` has `stamp`. `broken_at`: sequence of a delta
    behind it that does not fit, so that nothing from there on can be read."""

    sequence: int
    stamp: Stamp
    broken_at: int | None


def chunk_id(key: int, chunk: int) -> int:
    return key << CHUNK_BITS | chunk


def chunk_ids(key: int) -> tuple[int, int]:
    """First and last id that a chunk of this facet can have."""
    return key << CHUNK_BITS, key << CHUNK_BITS | _CHUNK_MASK


def find_base(connection: apsw.Connection, key: int) -> PagedBase | None:
    """None: the facet is small, or there is none."""
    found = connection.execute("SELECT sequence, size, checksum, broken_at FROM paged WHERE key = ?", (key,)).fetchone()
    return None if found is None else PagedBase(found[0], Stamp(found[1], found[2]), found[3])


def read_chunks(connection: apsw.Connection, key: int, first: int, count: int) -> list[bytes]:
    """Packed chunks of the base. Raises Corrupt."""
    chunks = [b""] * count
    ids = (chunk_id(key, first), chunk_id(key, first + count - 1))
    for identifier, content in query(connection, "SELECT id, content FROM paged_chunk WHERE id BETWEEN ? AND ?", ids):
        check_chunk(content)
        chunks[(identifier & _CHUNK_MASK) - first] = content
    return chunks


class Changes:
    """What some deltas change together, by chunk and block within it; `stamp` is that of the image behind them."""

    def __init__(self, stamp: Stamp, *, window: range | None = None) -> None:
        """`window`: chunks to keep the changes of; None: all."""
        self.stamp = stamp
        self.bytes = 0
        self._window = window
        self._chunks: dict[int, dict[int, bytes]] = {}

    def add(self, delta: bytes) -> None:
        """Raises Corrupt (`facet_delta_corrupt`, `facet_delta_mismatch`): nothing was added."""
        header = deltas.read_header(delta, bytes_max=FACET_BYTES_MOST)
        if header is None:
            return
        if header.before != self.stamp:
            raise deltas.mismatch(header.before, self.stamp)
        for block, change in deltas.changes_of(delta, header):
            number, within = divmod(block, CHUNK_BLOCKS)
            if self._window is not None and number not in self._window:
                continue
            chunk = self._chunks.setdefault(number, {})
            known = chunk.get(within)
            chunk[within] = change if known is None else deltas.xor(known, change)
            self.bytes += BLOCK_BYTES if known is None else 0
        self.stamp = header.after

    def chunks(self) -> list[int]:
        """Numbers of the chunks that are touched, ascending."""
        return sorted(self._chunks)

    def touches(self, chunk: int) -> bool:
        return chunk in self._chunks

    def applied(self, chunk: int, content: bytes) -> tuple[bytes, list[deltas.Change]]:
        """A chunk behind the changes, and what changed in it."""
        work = bytearray(content)
        changed = []
        for within, change in self._chunks.get(chunk, {}).items():
            at = within * BLOCK_BYTES
            old = content[at : at + BLOCK_BYTES]
            new = deltas.xor(old, change)
            work[at : at + BLOCK_BYTES] = new
            changed.append(deltas.Change(chunk * CHUNK_BLOCKS + within, old, new))
        return bytes(work), changed


class _Kept(NamedTuple):
    """Changes of all deltas with `sequence` < their sequence <= `upto`; `whole`: a base that is in one piece still."""

    sequence: int
    upto: int
    changes: Changes
    whole: bytes | None


class PageReader:
    """Answers requests for pages as of the last durable record. Thread-safe."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def read(
        self, connection: apsw.Connection, row: InstanceRow, ahead: Sequence[RecordLike], first: int, count: int
    ) -> Fetched:
        """Chunks `first` to `first + count`, fewer at the end of the image; whatever the facet's size.

        `row` and `ahead` are of the same snapshot as `connection` (index.find_with_tail). Raises Corrupt.
        """
        key = row.generation
        base = find_base(connection, key)
        _refuse_broken(base, row.sequence)
        with self._lock:
            kept = self._kept.pop(key, None)
        if kept is None or kept.sequence != _base_sequence(connection, key, base) or kept.upto > row.sequence:
            kept = _begun(connection, key, base)
        behind = list(_behind(connection, key, kept.upto, row.sequence, ahead))
        if kept.changes.bytes + _body_bytes(behind) > COMPOSED_BYTES_MAX:
            # Rare: a burst of large deltas that the fold has not come to. Only what is asked for is composed.
            source = partial(_behind, connection, key, kept.sequence, row.sequence, ahead)
            changes = _composed(_begun(connection, key, base).changes.stamp, source, range(first, first + count))
        else:
            changes = kept.changes
            for delta in behind:
                changes.add(delta)
            self._keep(key, kept._replace(upto=row.sequence))
        count = max(0, min(count, chunk_count(changes.stamp.size) - first))
        if not count:
            return Fetched(changes.stamp, first, [])
        whole = kept.whole
        chunks = read_chunks(connection, key, first, count) if whole is None else _slices(whole, first, count)
        return Fetched(changes.stamp, first, [_sent(changes, first + at, chunk) for at, chunk in enumerate(chunks)])

    def _keep(self, key: int, kept: _Kept) -> None:
        with self._lock:
            self._kept[key] = kept
            size = 0
            for other in reversed(list(self._kept)):
                size += self._kept[other].changes.bytes + len(self._kept[other].whole or b"") + BLOCK_BYTES
                if size > COMPOSED_BYTES_MAX:
                    del self._kept[other]


def stream(connection: apsw.Connection, row: InstanceRow, ahead: Sequence[RecordLike], upto: int) -> Iterator[bytes]:
    """The image as of record `upto` in pieces, for a facet with a PagedBase; verified against its stamp at the end.

    Raises Corrupt, also after pieces were given.
    """
    key = row.generation
    base = find_base(connection, key)
    assert base is not None, "a small facet is read in one piece"
    _refuse_broken(base, upto)
    if base.sequence <= upto:
        source: DeltaSource = partial(_behind, connection, key, base.sequence, upto, ahead)
    else:
        source = partial(_backwards, connection, key, base.sequence, upto)
    yield from _streamed(connection, key, base.stamp, source)


def _streamed(connection: apsw.Connection, key: int, stamp: Stamp, source: DeltaSource) -> Iterator[bytes]:
    is_one_pass = _body_bytes(source()) <= COMPOSED_BYTES_MAX
    changes = _composed(stamp, source, None if is_one_pass else range(0))
    checksum, at = 0, 0
    end = changes.stamp
    while at < chunk_count(end.size):
        count = min(WINDOW_CHUNKS, chunk_count(end.size) - at)
        if not is_one_pass:
            changes = _composed(stamp, source, range(at, at + count))
        for number, packed in enumerate(read_chunks(connection, key, at, count), at):
            content = changes.applied(number, unpack_chunk(packed))[0]
            checksum += deltas.weigh(content, number * CHUNK_BLOCKS)
            yield content[: end.size - number * CHUNK_BYTES]
        at += count
    if deltas.stamp_from(checksum, end.size) != end:
        raise deltas.mismatch(end, deltas.stamp_from(checksum, end.size))


def _composed(stamp: Stamp, source: DeltaSource, window: range | None) -> Changes:
    changes = Changes(stamp, window=window)
    for delta in source():
        changes.add(delta)
    return changes


def _behind(
    connection: apsw.Connection, key: int, behind: int, upto: int, ahead: Sequence[RecordLike]
) -> Iterator[bytes]:
    """Deltas with `behind` < sequence <= `upto`, folded or not, in their order."""
    sql = "SELECT content FROM delta WHERE id > ? AND id <= ? ORDER BY id"
    folded = (content for (content,) in query(connection, sql, (row_id(key, behind), row_id(key, upto))))
    return chain(folded, (record.delta for record in ahead if record.delta and behind < record.sequence <= upto))


def _backwards(connection: apsw.Connection, key: int, behind: int, upto: int) -> Iterator[bytes]:
    """Deltas that lead from record `behind` back to `upto`, the newest first."""
    sql = "SELECT content FROM delta WHERE id > ? AND id <= ? ORDER BY id DESC"
    for (content,) in query(connection, sql, (row_id(key, upto), row_id(key, behind))):
        yield deltas.invert(content, bytes_max=FACET_BYTES_MOST)


def _body_bytes(behind: Iterable[bytes]) -> int:
    headers = (deltas.read_header(delta, bytes_max=FACET_BYTES_MOST) for delta in behind)
    return sum(header.body_bytes for header in headers if header is not None)


def _base_sequence(connection: apsw.Connection, key: int, base: PagedBase | None) -> int:
    if base is not None:
        return base.sequence
    found: int | None = connection.execute("SELECT sequence FROM base WHERE key = ?", (key,)).get
    return found or 0


def _begun(connection: apsw.Connection, key: int, base: PagedBase | None) -> _Kept:
    """The base alone; in one piece if the facet was small at the last fold."""
    if base is not None:
        return _Kept(base.sequence, base.sequence, Changes(base.stamp), None)
    sequence, whole = whole_base(connection, key)
    return _Kept(sequence, sequence, Changes(deltas.stamp_of(whole)), whole)


def whole_base(connection: apsw.Connection, key: int) -> tuple[int, bytes]:
    """Sequence and image of the base of a small facet."""
    found = connection.execute("SELECT sequence, content FROM base WHERE key = ?", (key,)).fetchone()
    return (0, b"") if found is None else (found[0], unpack(found[1]))


def _slices(whole: bytes, first: int, count: int) -> list[bytes]:
    pieces = [whole[at * CHUNK_BYTES : (at + 1) * CHUNK_BYTES] for at in range(first, first + count)]
    return [raw_chunk(piece.ljust(CHUNK_BYTES, b"\0")) if piece else b"" for piece in pieces]


def _sent(changes: Changes, chunk: int, packed: bytes) -> bytes:
    return raw_chunk(changes.applied(chunk, unpack_chunk(packed))[0]) if changes.touches(chunk) else packed


def _refuse_broken(base: PagedBase | None, upto: int) -> None:
    if base is not None and base.broken_at is not None and upto >= base.broken_at:
        raise Corrupt(
            f"The facet cannot be rebuilt: the delta of record {base.broken_at} does not fit.",
            code="facet_delta_mismatch",
            hint="The instance is stopped; its bytes are kept, and records before that one can be read.",
        )
