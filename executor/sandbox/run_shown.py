"""What a run shows to the outside: its status, search attributes, items of output streams.

Each is counted in the execution: a replay counts again, and says what is beyond the highest number recorded only.
"""

from __future__ import annotations

from typing import Any

from executor.core import attributes, entries, values
from executor.core.commands import Emit, SetAttributes, SetStatus
from executor.sandbox.step_signals import EMIT_COMMAND_BYTES, EMIT_COMMAND_ITEMS, emitted

STATUS_BYTES_MAX = 4 * 1024


class Shown:
    """Of one run. Values are checked when they are given, so that a replay raises what the first run raised."""

    __slots__ = (
        "_attributes", "_attributes_count", "_changes", "_emitted", "_emitted_count", "_status", "_status_count",
        "_status_told",
    )  # fmt: skip

    def __init__(self, attributes: bytes) -> None:
        """`attributes`: those that the instance was started with."""
        self._status = b""
        self._status_count = self._status_told = 0
        self._attributes = attributes
        self._attributes_count = 0
        self._changes: list[tuple[int, dict[str, Any]]] = []
        self._emitted_count = 0
        self._emitted: list[tuple[int, str, bytes]] = []

    @property
    def status(self) -> Any:
        """A copy; None if there was none."""
        return values.decode(self._status) if self._status else None

    def set_status(self, value: Any) -> None:
        """Raises Refused."""
        self._status = values.encode(value, what="status", bytes_max=STATUS_BYTES_MAX)
        self._status_count += 1

    def set_attributes(self, changes: dict[str, Any]) -> None:
        """Raises Refused that names the attribute."""
        attributes.encode_changes(changes)
        self._attributes = attributes.merge(self._attributes, changes)  # too many of them
        self._attributes_count += 1
        self._changes.append((self._attributes_count, dict(changes)))

    def emit(self, stream: str, item: Any) -> None:
        """Raises TypeError, ValueError, Refused."""
        encoded = emitted(stream, item)
        self._emitted_count += 1
        self._emitted.append((self._emitted_count, stream, encoded))

    def recorded(self, entry: entries.StatusSet | entries.AttributesSet | entries.Emitted) -> None:
        """The journal has it: it is not said again."""
        number = entry.number
        if isinstance(entry, entries.StatusSet):
            self._status_told = max(self._status_told, number)
        elif isinstance(entry, entries.AttributesSet):
            self._changes = [change for change in self._changes if change[0] > number]
        elif not entry.path:
            self._emitted = [item for item in self._emitted if item[0] > number]

    def commands(self) -> list[SetStatus | SetAttributes | Emit]:
        """What is new; it counts as said."""
        said: list[SetStatus | SetAttributes | Emit] = []
        if self._status_count > self._status_told:
            self._status_told = self._status_count
            said.append(SetStatus(self._status_count, self._status))
        if self._changes:
            merged: dict[str, Any] = {}
            for _, changes in self._changes:
                merged.update(changes)
            said.append(SetAttributes(self._changes[-1][0], values.encode(merged, what="attributes")))
            self._changes = []
        if self._emitted:
            said += _batches(self._emitted)
            self._emitted = []
        return said


def _batches(items: list[tuple[int, str, bytes]]) -> list[Emit]:
    """One command for items of the same stream that follow each other."""
    batches: list[Emit] = []
    stream: str | None = None
    batch: list[bytes] = []
    size = last = 0
    for number, its_stream, item in items:
        if stream is not None and (
            its_stream != stream or len(batch) >= EMIT_COMMAND_ITEMS or size + len(item) > EMIT_COMMAND_BYTES
        ):
            batches.append(Emit(stream, batch, "", 0, last))
            batch, size = [], 0
        stream, last = its_stream, number
        batch.append(item)
        size += len(item)
    if stream is not None:
        batches.append(Emit(stream, batch, "", 0, last))
    return batches
