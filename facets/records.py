"""Records: what the commit log carries, and their bytes.

A batch is the content of one append, that is, of one fsync:

    u8  format = 1
    u32 crc32 of everything behind it, big-endian
    MessagePack: an array of items, each of them one of
      [1, tenant, instance, sequence, entry, delta or nil, row]  row: an array of the fields of RowUpdate, in order
      [2, tenant, instance]                                      everything of this instance up to here is gone
      [3, tenant]                                                everything of this tenant up to here is gone

A batch is read whole or refused as Corrupt: never in part.

The classes are structs rather than dataclasses: several objects are made for every record, in a tenth of the time.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Protocol

import msgspec

from facets.errors import Corrupt, Refused

BATCH_FORMAT = 1

# A record's place in the state database is `instance key << SEQUENCE_BITS | sequence`, one 64-bit row id.
SEQUENCE_BITS = 24
SEQUENCE_MAX = (1 << SEQUENCE_BITS) - 1
NAME_CHARS_MAX = 0xFFFF
TIME_MS_MAX = (1 << 63) - 1

_BATCH = struct.Struct(">BI")


class RowUpdate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the index knows of an instance; each record carries all of it, and the last one wins.

    `wake_at_ms` None: no timer. `summary` is the executor's own small blob; nothing here looks into it. `attributes` is
    what the instance can be found by (attributes.py); b"": nothing.
    """

    state: str
    wake_at_ms: int | None
    workflow: str
    commit: str
    created_at_ms: int
    updated_at_ms: int
    summary: bytes = b""
    attributes: bytes = b""


class Record(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """One fact of one instance: a journal entry, the facet delta of its step (if SQL changed something), and the row.

    `sequence` counts 1, 2, 3 … per instance without a gap; 0 changes the row only, and carries neither entry nor delta.
    """

    tenant: str
    instance: str
    sequence: int
    entry: bytes
    delta: bytes | None
    row: RowUpdate


class RowLike(Protocol):
    """What counts as a RowUpdate: anything with its attributes that MessagePack writes as the same array."""

    @property
    def state(self) -> str: ...
    @property
    def wake_at_ms(self) -> int | None: ...
    @property
    def workflow(self) -> str: ...
    @property
    def commit(self) -> str: ...
    @property
    def created_at_ms(self) -> int: ...
    @property
    def updated_at_ms(self) -> int: ...
    @property
    def summary(self) -> bytes: ...
    @property
    def attributes(self) -> bytes: ...


class RecordLike(Protocol):
    """What counts as a Record, so that a caller's own struct of the same shape is taken in without a copy."""

    @property
    def tenant(self) -> str: ...
    @property
    def instance(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    @property
    def entry(self) -> bytes: ...
    @property
    def delta(self) -> bytes | None: ...
    @property
    def row(self) -> RowLike: ...


class DeleteInstance(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """Everything of this instance up to here is gone."""

    tenant: str
    instance: str


class DeleteTenant(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """Everything of this tenant's instances up to here is gone."""

    tenant: str


Deletion = DeleteInstance | DeleteTenant
LogItem = Record | DeleteInstance | DeleteTenant


class JournalRecord(msgspec.Struct, frozen=True, gc=False):
    """A journal entry as it was appended; `has_delta`: the facet changed with it."""

    sequence: int
    entry: bytes
    has_delta: bool


class InstanceRow(msgspec.Struct, frozen=True, gc=False):
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
    attributes: bytes = b""


class OutputLine(msgspec.Struct, frozen=True, gc=False):
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


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[LogItem])


def encode_batch(items: Sequence[RecordLike | Deletion]) -> bytes:
    """The bytes of one append. Raises Refused (`record_invalid`) for values that the format cannot hold."""
    try:
        content = _encoder.encode(items)
    except (OverflowError, UnicodeEncodeError) as error:
        raise Refused(
            f"A record cannot be stored: {error}.",
            code="record_invalid",
            hint=f"Names are UTF-8 of at most {NAME_CHARS_MAX} characters, times 64-bit milliseconds.",
        ) from error
    return _BATCH.pack(BATCH_FORMAT, zlib.crc32(content)) + content


def decode_batch(batch: bytes) -> list[LogItem]:
    """What `encode_batch` was given. Raises Corrupt (`batch_corrupt`) for anything else; never half an answer."""
    try:
        version, checksum = _BATCH.unpack_from(batch)
        if version != BATCH_FORMAT:
            raise Corrupt(f"A batch of the log has the unknown format {version}.", code="batch_corrupt")
        content = memoryview(batch)[_BATCH.size :]
        if zlib.crc32(content) != checksum:
            raise Corrupt("A batch of the log does not have its checksum.", code="batch_corrupt")
        return _decoder.decode(content)
    except (struct.error, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"A batch of the log cannot be read: {error}.", code="batch_corrupt") from error
