"""Carrying: what an instance takes from one execution into the next one, so that nothing of before need be read again.

It rides in the Continued entry, with a checksum of its own: it depends on timing (how often something was emitted), so
it is not in the chain. Read back together with the first entry and the events that nobody had read, it makes the same
instance as the fold of the whole journal.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from executor.core import codec
from executor.core.entries import AnyEntry, Continued, EventReceived, Started, UpdateEnded
from executor.core.errors import Corrupt
from executor.core.folding import fold
from executor.core.instance import NONE, NONE_SET, Consumed, Instance, event_digest
from executor.core.journal import Journal

DIGEST_BYTES = 16


class Carried(msgspec.Struct, frozen=True, array_like=True):
    """`chain`: of the entry before. `payload`: of the start, if it was replaced; None: it was not. `unread`: sequences
    of events; `event_ids`: id -> digest. The rest is as in Instance, after the entry."""

    chain: bytes
    execution: int
    payload: bytes | None
    event_count: int
    event_ids: dict[str, bytes]
    unread: list[int]
    updates: list[UpdateEnded]
    update_digests: dict[str, bytes]
    status: bytes
    attributes: bytes
    emitted: dict[str, int]
    to_close: list[str]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Carried)


def complete(instance: Instance, entry: AnyEntry) -> AnyEntry:
    """The entry as it is to be applied to `instance`: Continued with what it takes along, any other as it is."""
    if not isinstance(entry, Continued):
        return entry
    after = instance.copy()
    after.apply(entry)
    content = _encoder.encode(
        Carried(
            instance.chain,
            after.execution,
            after.start.payload if after.is_rescheduled else None,
            after.event_count,
            after.event_ids,
            sorted(after.carried),
            [update for update in after.updates.values() if isinstance(update, UpdateEnded)],
            dict(after.update_digests),
            after.status,
            after.attributes,
            dict(after.emitted),
            sorted(after.to_close),
        )
    )
    return msgspec.structs.replace(entry, carried=_digest(content) + content)


def needed(entry: Continued) -> list[int]:
    """Sequences of the entries before `entry` that the instance is made of besides, in order. Raises Corrupt."""
    return [1, *_read(entry.carried).unread]


def load(journal: Journal) -> Instance:
    """The instance of a journal, whether that is whole or begins with what an execution took along. Raises Corrupt."""
    recent = journal.recent()
    if journal.first == 1:
        return fold(codec.decode_journal(recent))
    entry, chain = codec.decode(recent[0])
    if not isinstance(entry, Continued) or not entry.carried:
        raise Corrupt(f"entry {journal.first} begins no execution by itself", code="corrupt_journal")
    carried = _read(entry.carried)
    codec.decode_journal(recent[:1], first=journal.first, chain=carried.chain)
    earlier = {sequence: codec.decode(data)[0] for sequence, data in journal.earlier().items()}
    base = _as_of(entry, journal.first, chain, carried, earlier)
    return fold(codec.decode_journal(recent[1:], first=journal.first + 1, chain=chain), base=base)


def _as_of(
    entry: Continued, sequence: int, chain: bytes, carried: Carried, earlier: Mapping[int, AnyEntry]
) -> Instance:
    """The instance right after `entry`."""
    started = earlier.get(1)
    if not isinstance(started, Started):
        raise Corrupt("the journal does not begin with Started", code="corrupt_journal")
    if carried.payload is not None:
        started = msgspec.structs.replace(started, payload=carried.payload)
    instance = Instance(
        sequence=sequence,
        chain=chain,
        started=started,
        updated_at_ms=entry.at_ms,
        resolved_at=sequence,
        execution=carried.execution,
        begin=entry,
        begin_at=sequence,
        cuts=((1, sequence - 1),),
        carried=set(carried.unread) or NONE_SET,
        is_rescheduled=carried.payload is not None,
        event_count=carried.event_count,
        event_ids=carried.event_ids,
        updates={update.id: update for update in carried.updates} or NONE,
        update_digests=carried.update_digests or NONE,
        status=carried.status,
        attributes=carried.attributes,
        emitted=carried.emitted or NONE,
        to_close=set(carried.to_close) or NONE_SET,
    )
    for at in carried.unread:
        event = earlier.get(at)
        if not isinstance(event, EventReceived) or carried.event_ids.get(event.id) != event_digest(
            event.type, event.payload
        ):
            raise Corrupt(f"entry {at} is not the event that the execution took along", code="corrupt_journal")
        instance.buffer(Consumed(at, event))
    return instance


def _read(data: bytes) -> Carried:
    digest, content = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    if _digest(content) != digest:
        raise Corrupt("what an execution took along does not have its checksum", code="corrupt_journal")
    try:
        return _decoder.decode(content)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Corrupt(f"what an execution took along cannot be read: {error}", code="corrupt_journal") from None


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=DIGEST_BYTES).digest()
