"""Entry to bytes and back.

    byte  0        form: 1, or 2 for a trace, which has no chain
    bytes 1..17    chain: BLAKE2b-128 over the chain of the entry before (16 zero bytes at first) and this entry's facts
    bytes 17..     MessagePack array: [tag, at_ms, fields in the order of entries.py]; of a trace bytes 1..

The chain covers what was asked and what was answered, not when: `at_ms`, `started_at_ms` and the deadlines derived from
the clock are left out, and so are traces (`entries.Trace`) and what depends on them (`carried`). So two equal
chains mean the same run, whatever the day, and however often it was unloaded in between; and a chain that does not
follow from the entry before means that the stored bytes were changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from operator import attrgetter

import msgspec

from executor.core import entries
from executor.core.entries import AnyEntry
from executor.core.errors import Corrupt

WITH_CHAIN, TRACE = 1, 2
"""The forms; another number is of a newer release."""
CHAIN_BYTES = 16
CHAIN_START = bytes(CHAIN_BYTES)
_HEADER_BYTES = 1 + CHAIN_BYTES

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyEntry)
_UNCHAINED = frozenset({"at_ms", "started_at_ms", "wake_at_ms", "deadline_ms", "retry_at_ms", "start_at_ms", "carried"})
_WITH_CHAIN, _TRACE = bytes((WITH_CHAIN,)), bytes((TRACE,))


def _facts_of(kind: type[entries.Entry]) -> Callable[[AnyEntry], tuple[object, ...]]:
    """What makes the tuple of an entry's facts: the name of its kind first."""
    names = [name for name in kind.__struct_fields__ if name not in _UNCHAINED]
    return attrgetter("__class__.__name__", *names) if names else lambda _entry: (kind.__name__,)


_FACTS = {
    kind: _facts_of(kind)
    for kind in vars(entries).values()
    if isinstance(kind, type) and issubclass(kind, entries.Entry) and not issubclass(kind, entries.Trace)
}
"""Of the kinds that the chain covers."""


def chain_after(chain: bytes, entry: AnyEntry) -> bytes:
    """The chain once `entry` follows an entry whose chain is `chain`."""
    facts_of = _FACTS.get(type(entry))
    if facts_of is None:
        return chain
    return blake2b(chain + _encoder.encode(facts_of(entry)), digest_size=CHAIN_BYTES).digest()


def encode(entry: AnyEntry, chain: bytes) -> bytes:
    """The stored form; `chain` is this entry's own chain, as `chain_after` gave it."""
    if isinstance(entry, entries.Trace):
        return _TRACE + _encoder.encode(entry)
    return _WITH_CHAIN + chain + _encoder.encode(entry)


def decode(data: bytes) -> tuple[AnyEntry, bytes]:
    """The entry and its chain (b"": it is a trace). Raises Corrupt for anything that `encode` cannot have written."""
    header = 1 if data[:1] == _TRACE else _HEADER_BYTES
    if len(data) <= header:
        raise Corrupt(f"a journal entry of {len(data)} bytes is too short", code="corrupt_journal")
    if data[0] not in (WITH_CHAIN, TRACE):
        raise Corrupt(
            f"a journal entry has form {data[0]}, this release reads {WITH_CHAIN} and {TRACE}",
            code="corrupt_journal",
            hint="Run the release that wrote it, or a newer one.",
        )
    try:
        entry = _decoder.decode(memoryview(data)[header:])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Corrupt(f"a journal entry cannot be read: {error}", code="corrupt_journal") from None
    if isinstance(entry, entries.Trace) != (header == 1):
        raise Corrupt(f"a {type(entry).__name__} is stored in the wrong form", code="corrupt_journal")
    return entry, data[1:header]


def trace_tag(data: bytes) -> int | None:
    """The tag of a stored trace, without reading it; None: it is none."""
    return data[2] if data[:1] == _TRACE else None


def decode_journal(stored: Iterable[bytes], *, first: int = 1, chain: bytes = CHAIN_START) -> list[AnyEntry]:
    """Entries from sequence `first` on, their chain checked; `chain`: of the entry before.

    Raises Corrupt naming the first entry that does not follow.
    """
    journal: list[AnyEntry] = []
    for sequence, data in enumerate(stored, start=first):
        entry, own = decode(data)
        chain = chain_after(chain, entry)
        if own and own != chain:
            raise Corrupt(
                f"journal entry {sequence} does not follow from entry {sequence - 1}: its chain differs",
                code="corrupt_journal",
                hint="The stored bytes were changed. Restore the instance from a backup, or terminate it.",
                sequence=sequence,
            )
        journal.append(entry)
    return journal
