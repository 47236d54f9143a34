"""Stored rows and entries to views. Bytes from a sandbox that cannot be read are shown as such, never as an error."""

from __future__ import annotations

import re
from typing import Any, cast

import msgspec

from executor.core import attributes, codec, summary, values
from executor.core.decide import UNDO
from executor.core.entries import (
    UNSHOWN,
    AnyEntry,
    AttemptFailed,
    Emitted,
    Entry,
    StepHeartbeat,
    StepSucceeded,
)
from executor.core.errors import Refused
from executor.core.failure import ErrorFact
from executor.ports import StoredRow
from executor.views import (
    SENSITIVE,
    ErrorView,
    Executing,
    InstanceView,
    JournalItem,
    ParentView,
    Queued,
    State,
    Status,
    WaitingFor,
)

_VALUES = frozenset({"value", "payload", "details", "match"})
"""Fields that hold an encoded value; b"" where there is none."""
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SCOPE = re.compile(r"(.*#[0-9]+)/.+", re.DOTALL)
"""A path within a group: the group's path, and the rest. A name may have slashes of its own."""
_UPDATE = re.compile(r"(update/[^/]+/[^/]+)/.+", re.DOTALL)
"""A path within the handler of an update: kind, name and id."""


def status_view(row: StoredRow, output: Any, queued: Queued | None = None) -> Status:
    """`output` is the value of the Completed entry, None in other states. `queued`: where it waits for its turn."""
    stored = row.row
    shown = summary.decode(stored.summary)
    waits = [_waiting(wait) for wait in shown.waits]
    if queued is not None:
        waits.insert(0, WaitingFor(kind="queued", name="", type=queued.limit, position=queued.position))
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
        status=_status(shown),
        attributes=attributes.visible(stored.attributes),
        executing=[Executing(path=step.path, attempt=step.attempt, since_ms=step.since_ms) for step in shown.executing],
        warnings=shown.warnings,
        parent=_parent(shown),
        queued=queued,
    )


def instance_view(row: StoredRow) -> InstanceView:
    """One row of a list."""
    stored = row.row
    shown = summary.decode(stored.summary)
    return InstanceView(
        tenant=row.tenant,
        id=row.instance,
        workflow=stored.workflow,
        commit=stored.commit,
        state=cast("State", stored.state),
        waiting_for=_foremost([_waiting(wait) for wait in shown.waits]),
        wake_at_ms=stored.wake_at_ms,
        sequence=row.sequence,
        created_at_ms=stored.created_at_ms,
        updated_at_ms=stored.updated_at_ms,
        status=_status(shown),
        attributes=attributes.visible(stored.attributes),
        parent=_parent(shown),
    )


def journal_item(sequence: int, stored: bytes) -> JournalItem:
    """Raises Corrupt if the entry cannot be read."""
    entry, chain = codec.decode(stored)
    fields = {name: _field(name, getattr(entry, name)) for name in entry.__struct_fields__ if name not in UNSHOWN}
    if isinstance(entry, StepSucceeded) and entry.form == "sensitive":
        fields["value"] = SENSITIVE
    if isinstance(entry, AttemptFailed | StepHeartbeat) and entry.is_sensitive and entry.details:
        fields["details"] = SENSITIVE
    return JournalItem(
        sequence=sequence,
        at_ms=entry.at_ms,
        kind=kind_of(entry),
        chain=chain.hex(),
        attempt=getattr(entry, "attempt", 0) or None,
        parent=_owner(entry),
        fields=fields,
    )


def kind_of(entry: AnyEntry) -> str:
    """ "StepSucceeded" to "step_succeeded"."""
    return _CAMEL.sub("_", type(entry).__name__).lower()


def readable(data: bytes) -> Any:
    """The value, or a note of what cannot be read: a sandbox made it, and it goes on to JSON and to terminals."""
    try:
        return values.check(data, bytes_max=len(data))
    except Refused:
        return {"unreadable_bytes": len(data)}


def _field(name: str, value: Any) -> Any:
    """A field of an entry, of whatever kind, as plain values: bytes that are no encoded value in hexadecimal."""
    if value is None:
        return None
    if name in _VALUES:
        return readable(value) if value else None
    if name == "items":
        return [readable(item) for item in value]
    if name == "attributes":
        return attributes.visible(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple | list):
        return [_field("", item) for item in value]
    if isinstance(value, msgspec.Struct):
        return {field: _field(field, getattr(value, field)) for field in value.__struct_fields__}
    return value


def _owner(entry: Entry) -> str | None:
    """Path of what an entry belongs to. See JournalItem."""
    path: str = getattr(entry, "path", "")
    if isinstance(entry, Emitted):
        return path or None
    if path.startswith(UNDO):
        return path.removeprefix(UNDO)
    scoped = _SCOPE.fullmatch(path) or _UPDATE.fullmatch(path)
    return None if scoped is None else scoped[1]


def _status(shown: summary.Summary) -> Any:
    return readable(shown.status) if shown.status else None


def _parent(shown: summary.Summary) -> ParentView | None:
    return None if shown.parent is None else ParentView(id=shown.parent[0], path=shown.parent[1])


def _waiting(wait: summary.Wait) -> WaitingFor:
    return WaitingFor(
        kind=wait.kind,
        name=wait.path.rpartition("#")[0] or wait.path,
        path=wait.path,
        until_ms=wait.until_ms,
        type=wait.type,
        attempt=wait.attempt,
        limit=wait.limit,
        error=wait.error,
        child=wait.child,
        by=wait.by,
        since_ms=wait.since_ms,
    )


def _foremost(waits: list[WaitingFor]) -> WaitingFor | None:
    return waits[0] if waits else None


def _error(error: ErrorFact | None) -> ErrorView | None:
    if error is None:
        return None
    return ErrorView(code=error.code, type=error.type, message=error.message, traceback=error.traceback)
