"""Commit: entries of one resident, applied in memory and on their way to disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from executor.core import bounds, carrying, codec
from executor.core.entries import AnyEntry, Continued, Restarted
from executor.core.errors import PerdureError, Refused
from executor.core.folding import restarted
from executor.core.instance import Instance
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
    if entries:
        _flush_traces(resident)
    for entry in entries:
        _apply(resident, entry, delta)
        delta = None
    if resident.instance.resolved_at != resolved_at:
        resident.is_resting = False


def _flush_traces(resident: Resident) -> None:
    if resident.traces:
        traces, resident.traces = resident.traces, []
        for trace in traces:
            _apply(resident, trace, None)


def _apply(resident: Resident, entry: AnyEntry, delta: bytes | None) -> None:
    entry = carrying.complete(resident.instance, entry)
    resident.instance.apply(entry)
    _add(resident, entry, delta)
    if isinstance(entry, Continued):
        sequence = resident.instance.sequence
        resident.journal = resident.journal.without_past(sequence, carrying.needed(entry))
        resident.history_bytes = resident.journal.size
        resident.journal_bytes = 0


def go_back(resident: Resident, past: Instance, entry: Restarted, delta: bytes | None) -> None:
    """Take a restart into the resident. `past`: the instance as of entry `entry.after`; it is changed. `delta`: the
    facet's way back."""
    _flush_traces(resident)
    resident.instance = restarted(resident.instance, past, entry)
    resident.is_resting = False
    _add(resident, entry, delta)


def _add(resident: Resident, entry: AnyEntry, delta: bytes | None) -> None:
    data = codec.encode(entry, resident.instance.chain)
    resident.journal_bytes += len(data)
    resident.history_bytes += len(data)
    resident.journal.append(data)
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
