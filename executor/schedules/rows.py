"""Rows of the schedules' tables as structs, and back: every statement that more than one operation needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import apsw

from executor.core.errors import NotFound
from executor.ports import Pending, ScheduleRow
from executor.views import FiringView

FIRINGS_KEPT = 100

COLUMNS = (
    "s.tenant, s.name, s.workflow, s.channel, s.origin, s.payload, s.spec, s.created_at_ms, s.cursor_ms, s.due_ms,"
    " s.revision, s.paused_by, s.running"
)
PENDING = "p.scheduled_ms, p.workflow, p.channel, p.payload, p.attempts, p.retry_at_ms, p.reason"


def query(connection: apsw.Connection, sql: str, bindings: tuple[Any, ...] = ()) -> Iterator[Any]:
    """Rows; their types are the schema's, which the driver cannot know: a border."""
    return connection.execute(sql, bindings)


def row_of(values: Sequence[Any]) -> ScheduleRow:
    tenant, name, workflow, channel, origin, payload, spec, created, cursor, due, revision, paused, running = values
    return ScheduleRow(
        tenant=tenant,
        name=name,
        workflow=workflow,
        channel=channel,
        origin=origin,
        payload=payload,
        spec=spec,
        created_at_ms=created,
        cursor_ms=cursor,
        due_ms=due,
        revision=revision,
        paused_by=paused,
        running=tuple(json.loads(running)),
    )


def pending_of(tenant: str, name: str, values: Sequence[Any]) -> Pending:
    at, workflow, channel, payload, attempts, retry_at, reason = values
    return Pending(
        tenant=tenant,
        name=name,
        scheduled_ms=at,
        workflow=workflow,
        channel=channel,
        payload=payload,
        attempts=attempts,
        retry_at_ms=retry_at,
        reason=reason,
    )


def said(row: ScheduleRow) -> tuple[object, ...]:
    return row.workflow, row.channel, row.origin, row.payload, row.spec


def find(
    connection: apsw.Connection, tenant: str, name: str, *, is_shown: bool | None = True
) -> tuple[int, ScheduleRow] | None:
    rows = query(
        connection,
        f"SELECT s.id, {COLUMNS} FROM schedules s WHERE tenant = ? AND name = ? AND is_shown >= ?",  # noqa: S608
        (tenant, name, is_shown is True),
    )
    return next(((values[0], row_of(values[1:])) for values in rows), None)


def get(connection: apsw.Connection, tenant: str, name: str) -> tuple[int, ScheduleRow]:
    found = find(connection, tenant, name)
    if found is None:
        shown = name[:120].encode("utf-8", "backslashreplace").decode()
        raise NotFound(
            f'tenant "{tenant}" has no schedule "{shown}"',
            code="schedule_not_found",
            hint="List the tenant's schedules to see which there are.",
        )
    return found


def insert(connection: apsw.Connection, row: ScheduleRow) -> None:
    connection.execute(
        "INSERT INTO schedules (tenant, name, workflow, channel, origin, payload, spec, created_at_ms, cursor_ms,"
        " due_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(row.tenant, row.name, row.workflow, row.channel, row.origin, row.payload, row.spec),
            *(row.created_at_ms, row.cursor_ms, row.due_ms),
        ),
    )


def put_pending(connection: apsw.Connection, number: int, one: Pending) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO pending VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(number, one.scheduled_ms, one.workflow, one.channel, one.payload),
            *(one.attempts, one.retry_at_ms, one.reason),
        ),
    )


def is_recorded(connection: apsw.Connection, number: int, firing: FiringView) -> bool:
    """Whether there is such a firing of the same instance."""
    sql = "SELECT EXISTS (SELECT 1 FROM firings WHERE schedule_id = ? AND outcome = ? AND instance = ?)"
    [[found]] = query(connection, sql, (number, firing.outcome, firing.instance))
    return bool(found)


def put_firing(connection: apsw.Connection, number: int, firing: FiringView) -> None:
    connection.execute(
        "INSERT INTO firings (schedule_id, scheduled_ms, at_ms, outcome, instance, until_ms, reason)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            *(number, firing.scheduled_ms, firing.at_ms, firing.outcome, firing.instance, firing.until_ms),
            firing.reason[:500],
        ),
    )
    connection.execute(
        "DELETE FROM firings WHERE schedule_id = ? AND number <= (SELECT number FROM firings WHERE schedule_id = ?"
        " ORDER BY number DESC LIMIT 1 OFFSET ?)",
        (number, number, FIRINGS_KEPT),
    )
