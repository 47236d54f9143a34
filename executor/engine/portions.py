"""Portions of journals, as those outside get them. For worker threads, but for `output_of`."""

from __future__ import annotations

from executor.core import codec
from executor.core.entries import Completed
from executor.engine.resident import Key
from executor.ports import StateStore, StoredEntry, StoredRow

JOURNAL_BYTES = 8 * 1024 * 1024
"""About as much of a journal is handed out at once, whatever was asked for."""
JOURNAL_PORTION = 32


def journal_page(store: StateStore, key: Key, after: int, limit: int) -> list[StoredEntry]:
    """Entries of about JOURNAL_BYTES together, one at least."""
    found: list[StoredEntry] = []
    left = JOURNAL_BYTES
    while len(found) < limit and left > 0:
        portion = min(JOURNAL_PORTION, limit - len(found))
        more = store.journal(*key, after=after, limit=portion)
        if not more:
            break
        found += more
        after = more[-1][0]
        left -= sum(len(data) for _, data in more)
    return found


def output_of(store: StateStore, row: StoredRow) -> bytes | None:
    """What it returned. Few entries, if any, come after that: children that were closed then."""
    count = 1
    while True:
        first = max(0, row.sequence - count)
        for _, stored in reversed(store.journal(row.tenant, row.instance, after=first, limit=count)):
            entry, _ = codec.decode(stored)
            if isinstance(entry, Completed):
                return entry.value
        if not first:
            return None
        count *= 8
