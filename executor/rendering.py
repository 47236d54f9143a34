"""Stored rows and entries to views. Bytes from a sandbox that cannot be read are shown as such, never as an error."""

from __future__ import annotations

import re
from typing import Any, cast

import msgspec

from executor.core import codec, summary, values
from executor.core.entries import AnyEntry, Completed, StepRef
from executor.core.errors import Refused
from executor.core.failure import ErrorFact
from executor.ports import StoredRow
from executor.views import ErrorView, InstanceView, JournalItem, State, Status, WaitingFor

_VALUE_FIELDS = frozenset({"value", "payload"})
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def status_view(row: StoredRow, output: Any) -> Status:
    """`output` is the value of the Completed entry, None in other states."""
    stored = row.row
    shown = summary.decode(stored.summary)
    waits = [_waiting(wait) for wait in shown.waits]
    return Status(
        tenant=row.tenant,
        id=row.instance,
        workflow=stored.workflow,
        commit=stored.commit,
        state=cast("State", stored.state),
        waiting_for=_foremost(waits),
        waits=waits,
        attempts=shown.attempts,
        error=_error(shown.error),
        output=output,
        sequence=row.sequence,
        created_at_ms=stored.created_at_ms,
        updated_at_ms=stored.updated_at_ms,
    )


def instance_view(row: StoredRow) -> InstanceView:
    """One row of a list."""
    stored = row.row
    return InstanceView(
        tenant=row.tenant,
        id=row.instance,
        workflow=stored.workflow,
        commit=stored.commit,
        state=cast("State", stored.state),
        waiting_for=_foremost([_waiting(wait) for wait in summary.decode(stored.summary).waits]),
        wake_at_ms=stored.wake_at_ms,
        sequence=row.sequence,
        created_at_ms=stored.created_at_ms,
        updated_at_ms=stored.updated_at_ms,
    )


def journal_item(sequence: int, stored: bytes) -> JournalItem:
    """Raises Corrupt if the entry cannot be read."""
    entry, chain = codec.decode(stored)
    fields = {name: _shown(name, getattr(entry, name)) for name in entry.__struct_fields__ if name != "at_ms"}
    return JournalItem(sequence=sequence, at_ms=entry.at_ms, kind=kind_of(entry), chain=chain.hex(), fields=fields)


def journal_output(stored: list[bytes]) -> Any:
    """The output of a complete instance, from the last entry of its journal."""
    for data in stored:
        entry, _ = codec.decode(data)
        if isinstance(entry, Completed):
            return readable(entry.value)
    return None


def kind_of(entry: AnyEntry) -> str:
    """ "StepSucceeded" to "step_succeeded"."""
    return _CAMEL.sub("_", type(entry).__name__).lower()


def readable(data: bytes) -> Any:
    """The value, or a note of what cannot be read."""
    try:
        return values.decode(data)
    except Refused:
        return {"unreadable_bytes": len(data)}


def _shown(name: str, value: Any) -> Any:
    if name in _VALUE_FIELDS:
        return readable(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, StepRef | ErrorFact):
        return {key: _shown("", item) for key, item in msgspec.structs.asdict(value).items()}
    return value


def _waiting(wait: summary.Wait) -> WaitingFor:
    return WaitingFor(
        kind=wait.kind,
        name=wait.path.rpartition("#")[0] or wait.path,
        until_ms=wait.until_ms,
        type=wait.type,
        attempt=wait.attempt,
        limit=wait.limit,
        error=wait.error,
    )


def _foremost(waits: list[WaitingFor]) -> WaitingFor | None:
    return waits[0] if waits else None


def _error(error: ErrorFact | None) -> ErrorView | None:
    if error is None:
        return None
    return ErrorView(code=error.code, type=error.type, message=error.message, traceback=error.traceback)
