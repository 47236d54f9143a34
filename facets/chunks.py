"""Journal entries as the state database keeps them: the newest in their instance's row, the older ones in chunks.

A run of entries, in order and without a gap:
    for each: u32 big-endian: length of the entry << 1 | 1 if the record carried a delta
              the entry
A row's `tail` is such a run as it is. A chunk is one behind a byte:
    u8  0: as it is, 1: raw deflate

A chunk's row id says where it belongs: instance key << 24 | sequence of its first record. The fold adds to the tail;
once that has TAIL_BYTES it becomes a chunk, and a chunk is never touched again. So writing a journal of n entries costs
O(n), a short journal is one row, and reading from the middle decodes what is read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from facets.errors import Corrupt
from facets.records import SEQUENCE_BITS, SEQUENCE_MAX, JournalRecord

# A tail of so many bytes is moved into a chunk. It bounds what is rewritten with each record, and should leave several
# rows to a page; most journals never reach it.
TAIL_BYTES = 1536
# A chunk is closed once it holds this much before compression; it bounds what a reader inflates for one entry.
CHUNK_BYTES = 32 * 1024

_RAW, _DEFLATED = b"\0", b"\1"
_LENGTH = struct.Struct(">I")


def row_id(key: int, sequence: int) -> int:
    return key << SEQUENCE_BITS | sequence


def row_ids(key: int) -> tuple[int, int]:
    """First and last row id that can belong to an instance."""
    return key << SEQUENCE_BITS, key << SEQUENCE_BITS | SEQUENCE_MAX


def sequence_of(identifier: int) -> int:
    return identifier & SEQUENCE_MAX


def pack(content: bytes, *, level: int = 3) -> bytes:
    """Deflated if that is shorter."""
    # A small window and little memory: for a few hundred bytes the set-up costs more than the work (100 µs against 14).
    # Level 3 packs typical entries within one byte of level 6, in half the time.
    small = len(content) <= 8 * 1024
    deflate = zlib.compressobj(level, zlib.DEFLATED, -13 if small else -15, 4 if small else 8)
    packed = deflate.compress(content) + deflate.flush()
    return _DEFLATED + packed if len(packed) < len(content) else _RAW + content


def unpack(packed: bytes) -> bytes:
    """Raises Corrupt."""
    if packed[:1] == _RAW:
        return packed[1:]
    if packed[:1] != _DEFLATED:
        raise Corrupt("Stored bytes have an unknown form.", code="chunk_corrupt")
    try:
        return zlib.decompress(packed[1:], -15)
    except zlib.error as error:
        raise Corrupt(f"Stored bytes cannot be inflated: {error}.", code="chunk_corrupt") from error


def head_of(entry: bytes, *, has_delta: bool) -> bytes:
    """What stands before an entry in a run."""
    return _LENGTH.pack(len(entry) << 1 | has_delta)


def cut_into_chunks(first: int, run: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Chunks as (sequence of the first entry, content) of a run that is given as head, entry, head, entry …"""
    chunks: list[tuple[int, bytes]] = []
    start, size = 0, 0
    for at in range(0, len(run), 2):
        size += len(run[at + 1])
        if size >= CHUNK_BYTES or at + 2 == len(run):
            chunks.append((first + start // 2, pack(b"".join(run[start : at + 2]))))
            start, size = at + 2, 0
    return chunks


def decode_chunk(first: int, content: bytes) -> list[JournalRecord]:
    """The records of a chunk. Raises Corrupt."""
    return decode_run(first, unpack(content))


def has_delta(content: bytes) -> bool:
    """Whether a record of the chunk carried a delta; True for one that cannot be read."""
    try:
        run = unpack(content)
    except Corrupt:
        return True
    at = 0
    while at + _LENGTH.size <= len(run):
        (word,) = _LENGTH.unpack_from(run, at)
        if word & 1:
            return True
        at += _LENGTH.size + (word >> 1)
    return False


def decode_run(first: int, run: bytes) -> list[JournalRecord]:
    """The records of a run whose first one is `first`. Raises Corrupt."""
    records: list[JournalRecord] = []
    at = 0
    while at < len(run):
        if at + _LENGTH.size > len(run):
            raise Corrupt("A chunk of a journal ends inside a record.", code="chunk_corrupt")
        (word,) = _LENGTH.unpack_from(run, at)
        at += _LENGTH.size
        end = at + (word >> 1)
        if end > len(run):
            raise Corrupt("A chunk of a journal ends inside an entry.", code="chunk_corrupt")
        records.append(JournalRecord(first + len(records), run[at:end], bool(word & 1)))
        at = end
    return records
