"""Entry to bytes and back.

    byte  0        format version (1)
    bytes 1..17    chain: BLAKE2b-128 over the chain of the entry before (16 zero bytes at first) and this entry's facts
    bytes 17..     MessagePack array: [tag, at_ms, fields in the order of entries.py]

The chain covers what was asked and what was answered, not when: `at_ms`, `started_at_ms` and the deadlines derived from
the clock are left out, and so are traces (`entries.Trace`), which have the chain of the entry before. So two equal
chains mean the same run, whatever the day, and however often it was unloaded in between; and a chain that does not
follow from the entry before means that the stored bytes were changed.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from operator import attrgetter

import msgspec

from executor.core import entries
from executor.core.entries import AnyEntry
from executor.core.errors import Corrupt

FORMAT_VERSION = 1
CHAIN_BYTES = 16
CHAIN_START = bytes(CHAIN_BYTES)
_HEADER_BYTES = 1 + CHAIN_BYTES

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyEntry)
_CLOCK_FIELDS = frozenset({"at_ms", "started_at_ms", "wake_at_ms", "deadline_ms", "retry_at_ms", "start_at_ms"})
_VERSION = bytes((FORMAT_VERSION,))


def _facts_of(kind: type[entries.Entry]) -> Callable[[AnyEntry], tuple[object, ...]]:
    """What makes the tuple of an entry's facts: the name of its kind first."""
    names = [name for name in kind.__struct_fields__ if name not in _CLOCK_FIELDS]
    return attrgetter("__class__.__name__", *names) if names else lambda _entry: (kind.__name__,)


_FACTS = {
    kind: _facts_of(kind)
    for kind in vars(entries).values()
    if isinstance(kind, type) and issubclass(kind, entries.Entry)
}


def chain_after(chain: bytes, entry: AnyEntry) -> bytes:
    """The chain once `entry` follows an entry whose chain is `chain`."""
    if isinstance(entry, entries.Trace):
        return chain
    return blake2b(chain + _encoder.encode(_FACTS[type(entry)](entry)), digest_size=CHAIN_BYTES).digest()


def encode(entry: AnyEntry, chain: bytes) -> bytes:
    """The stored form; `chain` is this entry's own chain, as `chain_after` gave it."""
    return _VERSION + chain + _encoder.encode(entry)


def decode(data: bytes) -> tuple[AnyEntry, bytes]:
    """The entry and its chain. Raises Corrupt for anything that `encode` cannot have written."""
    if len(data) <= _HEADER_BYTES:
        raise Corrupt(f"a journal entry of {len(data)} bytes is too short", code="corrupt_journal")
    if data[0] != FORMAT_VERSION:
        raise Corrupt(
            f"a journal entry has format version {data[0]}, this release reads {FORMAT_VERSION}",
            code="corrupt_journal",
            hint="Run the release that wrote it, or a newer one.",
        )
    try:
        entry = _decoder.decode(memoryview(data)[_HEADER_BYTES:])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Corrupt(f"a journal entry cannot be read: {error}", code="corrupt_journal") from None
    return entry, data[1:_HEADER_BYTES]


def decode_journal(stored: list[bytes]) -> list[AnyEntry]:
    """A whole journal, its chain checked. Raises Corrupt naming the first entry that does not follow."""
    chain = CHAIN_START
    journal: list[AnyEntry] = []
    for sequence, data in enumerate(stored, start=1):
        entry, own = decode(data)
        chain = chain_after(chain, entry)
        if own != chain:
            raise Corrupt(
                f"journal entry {sequence} does not follow from entry {sequence - 1}: its chain differs",
                code="corrupt_journal",
                hint="The stored bytes were changed. Restore the instance from a backup, or terminate it.",
                sequence=sequence,
            )
        journal.append(entry)
    return journal
