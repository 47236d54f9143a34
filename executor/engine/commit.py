"""Commit: entries of one resident, applied in memory and on their way to disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from executor.core import bounds, codec
from executor.core.entries import AnyEntry, Continued, Restarted
from executor.core.errors import PerdureError, Refused
from executor.core.instance import fold
from executor.engine.resident import Resident
from executor.engine.signal import Landing
from executor.ports import Row

if TYPE_CHECKING:
    from executor.engine.engine import Engine


def apply(resident: Resident, entries: Sequence[AnyEntry], delta: bytes | None = None) -> None:
    """Take entries into the resident, after the traces that wait; the next commit of it sends them.

    `delta` rides with the first entry, which is never a trace: where a facet changed is told exactly.
    """
    resolved_at = resident.instance.resolved_at
    if resident.traces and entries:
        traces, resident.traces = resident.traces, []
        for trace in traces:
            _apply(resident, trace, None)
    for entry in entries:
        _apply(resident, entry, delta)
        delta = None
    if resident.instance.resolved_at != resolved_at:
        resident.is_resting = False


def _apply(resident: Resident, entry: AnyEntry, delta: bytes | None) -> None:
    if isinstance(entry, Restarted):
        resident.instance = fold([*codec.decode_journal(resident.stored), entry])
    else:
        resident.instance.apply(entry)
    data = codec.encode(entry, resident.instance.chain)
    resident.journal_bytes = 0 if isinstance(entry, Continued) else resident.journal_bytes + len(data)
    resident.history_bytes += len(data)
    resident.stored.append(data)
    resident.unsent.append((data, delta))


def check_room(resident: Resident, size: int = 0) -> None:
    """Raises Refused if its history has no room for what somebody outside wants journaled, `size` bytes. Its end
    always has."""
    entries, total = resident.instance.sequence, resident.history_bytes + size
    if entries >= bounds.HISTORY_ENTRIES_MAX or total > bounds.HISTORY_BYTES_MAX:
        raise Refused(
            f'the history of instance "{resident.key[1]}" is full: {entries} entries, {resident.history_bytes} bytes',
            code="limit_exceeded",
            hint="Terminate it, and start another.",
        )


class Commit:
    """Entries of one resident on their way to disk, and the row as of the last of them."""

    __slots__ = ("_engine", "error", "landing", "resident", "row", "sequence")

    def __init__(self, engine: Engine, resident: Resident, sequence: int, row: Row, landing: Landing | None) -> None:
        self._engine = engine
        self.resident = resident
        self.sequence = sequence
        self.row = row
        self.landing = landing
        self.error: PerdureError | None = None
        """Why it was not written, once `landing` is set."""

    def done(self, error: PerdureError | None) -> None:
        """The committer's answer."""
        self.error = error
        self._engine.committed(self, error)
