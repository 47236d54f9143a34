"""Records: what the commit log carries, and their bytes.

A batch is the content of one append, that is, of one fsync:

    u8  format = 1
    u32 crc32 of everything behind it
    items, one after another, each of them one of
      u8 1  record:          u8 flags (1: a delta is there, 2: the row has a wake time)
                             u16 tenant, u16 instance, u16 state, u16 workflow, u16 commit   (lengths of UTF-8)
                             u32 sequence, u32 entry, u32 delta, u32 summary                 (the last three: lengths)
                             i64 wake, i64 created, i64 updated                              (milliseconds, Unix epoch)
                             then the bytes of the five strings, the entry, the delta and the summary
      u8 2  delete instance: u16 tenant, u16 instance, then both
      u8 3  delete tenant:   u16 tenant, then it

All numbers are big-endian. A batch is read whole or refused as Corrupt: never in part.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from facets.errors import Corrupt, Refused

BATCH_FORMAT = 1

# A record's place in the state database is `instance key << SEQUENCE_BITS | sequence`, one 64-bit row id.
SEQUENCE_BITS = 24
SEQUENCE_MAX = (1 << SEQUENCE_BITS) - 1
NAME_BYTES_MAX = 0xFFFF

_BATCH = struct.Struct(">BI")
_RECORD = struct.Struct(">BBHHHHHIIIIqqq")
_DELETE_INSTANCE = struct.Struct(">BHH")
_DELETE_TENANT = struct.Struct(">BH")
_HAS_DELTA = 1
_HAS_WAKE = 2


@dataclass(frozen=True, slots=True)
class RowUpdate:
    """What the index knows of an instance; each record carries all of it, and the last one wins.

    `wake_at_ms` None: no timer. `summary` is the executor's own small blob; nothing here looks into it.
    """

    state: str
    wake_at_ms: int | None
    workflow: str
    commit: str
    created_at_ms: int
    updated_at_ms: int
    summary: bytes = b""


@dataclass(frozen=True, slots=True)
class Record:
    """One fact of one instance: a journal entry, the facet delta of its step (if SQL changed something), and the row.

    `sequence` counts 1, 2, 3 … per instance without a gap; 0 changes the row only, and carries neither entry nor delta.
    """

    tenant: str
    instance: str
    sequence: int
    entry: bytes
    delta: bytes | None
    row: RowUpdate


@dataclass(frozen=True, slots=True)
class DeleteInstance:
    """Everything of this instance up to here is gone."""

    tenant: str
    instance: str


@dataclass(frozen=True, slots=True)
class DeleteTenant:
    """Everything of this tenant's instances up to here is gone."""

    tenant: str


LogItem = Record | DeleteInstance | DeleteTenant


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """A journal entry as it was appended; `has_delta`: the facet changed with it."""

    sequence: int
    entry: bytes
    has_delta: bool


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """An instance as the index knows it.

    `generation` grows over all instances of the store in the order of their creation and is never used twice: an id
    that was deleted and started again has another one. `sequence` is that of the last journal entry. `facet_bytes` is
    the size of the facet's image, 0 for none.
    """

    tenant: str
    instance: str
    generation: int
    sequence: int
    state: str
    wake_at_ms: int | None
    workflow: str
    commit: str
    created_at_ms: int
    updated_at_ms: int
    summary: bytes
    facet_bytes: int


@dataclass(frozen=True, slots=True)
class OutputLine:
    """One captured line of an instance's output.

    `position`: journal sequence after which it was printed; `number`: counts within (position, step, attempt). These
    four make a line that is sent again recognisable.
    """

    tenant: str
    instance: str
    position: int
    number: int
    at_ms: int
    stream: str
    level: str
    step: str
    attempt: int
    text: str


def encode_batch(items: Sequence[LogItem]) -> bytes:
    """The bytes of one append. Raises Refused (`record_invalid`) for values that the format cannot hold."""
    parts: list[bytes] = []
    for item in items:
        try:
            match item:
                case Record():
                    _encode_record(item, parts)
                case DeleteInstance():
                    tenant, instance = item.tenant.encode(), item.instance.encode()
                    parts += (_DELETE_INSTANCE.pack(2, len(tenant), len(instance)), tenant, instance)
                case DeleteTenant():
                    tenant = item.tenant.encode()
                    parts += (_DELETE_TENANT.pack(3, len(tenant)), tenant)
        except (struct.error, UnicodeEncodeError) as error:
            raise Refused(
                f"A record cannot be stored: {error}.",
                code="record_invalid",
                hint=f"Names are UTF-8 of at most {NAME_BYTES_MAX} bytes, times 64-bit milliseconds.",
            ) from error
    content = b"".join(parts)
    return _BATCH.pack(BATCH_FORMAT, zlib.crc32(content)) + content


def _encode_record(record: Record, parts: list[bytes]) -> None:
    row = record.row
    tenant, instance = record.tenant.encode(), record.instance.encode()
    state, workflow, commit = row.state.encode(), row.workflow.encode(), row.commit.encode()
    delta = record.delta or b""  # the empty delta is the delta of no change
    flags = (_HAS_DELTA if delta else 0) | (_HAS_WAKE if row.wake_at_ms is not None else 0)
    head = _RECORD.pack(
        1,
        flags,
        len(tenant),
        len(instance),
        len(state),
        len(workflow),
        len(commit),
        record.sequence,
        len(record.entry),
        len(delta),
        len(row.summary),
        0 if row.wake_at_ms is None else row.wake_at_ms,
        row.created_at_ms,
        row.updated_at_ms,
    )
    parts += (head, tenant, instance, state, workflow, commit, record.entry, delta, row.summary)


def decode_batch(batch: bytes) -> list[LogItem]:
    """What `encode_batch` was given. Raises Corrupt (`batch_corrupt`) for anything else; never half an answer."""
    try:
        version, checksum = _BATCH.unpack_from(batch)
        if version != BATCH_FORMAT:
            raise Corrupt(f"A batch of the log has the unknown format {version}.", code="batch_corrupt")
        if zlib.crc32(memoryview(batch)[_BATCH.size :]) != checksum:
            raise Corrupt("A batch of the log does not have its checksum.", code="batch_corrupt")
        items: list[LogItem] = []
        at = _BATCH.size
        while at < len(batch):
            item, at = _decode_item(batch, at)
            items.append(item)
    except (struct.error, UnicodeDecodeError) as error:
        raise Corrupt(f"A batch of the log cannot be read: {error}.", code="batch_corrupt") from error
    if at != len(batch):
        raise Corrupt("A batch of the log ends in the middle of an item.", code="batch_corrupt")
    return items


def _decode_item(batch: bytes, at: int) -> tuple[LogItem, int]:
    kind = batch[at]
    if kind == 2:
        _, *lengths = _DELETE_INSTANCE.unpack_from(batch, at)
        (tenant, instance), at = _cut(batch, at + _DELETE_INSTANCE.size, lengths)
        return DeleteInstance(tenant.decode(), instance.decode()), at
    if kind == 3:
        _, *lengths = _DELETE_TENANT.unpack_from(batch, at)
        (tenant,), at = _cut(batch, at + _DELETE_TENANT.size, lengths)
        return DeleteTenant(tenant.decode()), at
    if kind != 1:
        raise Corrupt(f"A batch of the log holds an item of the unknown kind {kind}.", code="batch_corrupt")
    (_, flags, *names, sequence, entry_size, delta_size, summary_size, wake, created, updated) = _RECORD.unpack_from(
        batch, at
    )
    parts, at = _cut(batch, at + _RECORD.size, [*names, entry_size, delta_size, summary_size])
    tenant, instance, state, workflow, commit, entry, delta, summary = parts
    row = RowUpdate(
        state=state.decode(),
        wake_at_ms=wake if flags & _HAS_WAKE else None,
        workflow=workflow.decode(),
        commit=commit.decode(),
        created_at_ms=created,
        updated_at_ms=updated,
        summary=summary,
    )
    carried = delta if flags & _HAS_DELTA else None
    return Record(tenant.decode(), instance.decode(), sequence, entry, carried, row), at


def _cut(batch: bytes, at: int, lengths: Sequence[int]) -> tuple[list[bytes], int]:
    parts = []
    for length in lengths:
        parts.append(batch[at : at + length])
        at += length
    return parts, at
