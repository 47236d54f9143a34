"""SqliteScheduleStore: the ScheduleStore port over one SQLite file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from executor.core.errors import Conflict, Refused
from executor.ports import Advanced, Pending, ScheduleRow, Settled
from executor.schedules.database import Database
from executor.schedules.rows import (
    COLUMNS,
    FIRINGS_KEPT,
    PENDING,
    find,
    get,
    insert,
    is_recorded,
    pending_of,
    put_firing,
    put_pending,
    query,
    row_of,
    said,
)
from executor.views import FiringView

HIDDEN_MAX = 1_000
"""Schedules of a tenant that no version on its channel declares any more: their pauses and histories are kept."""

_OLDEST = "p.scheduled_ms = (SELECT min(scheduled_ms) FROM pending WHERE schedule_id = s.id)"


class SqliteScheduleStore:
    """See `executor.ports.ScheduleStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, path: Path, *, vfs: str | None = None) -> SqliteScheduleStore:
        """The file is made if it is missing. Raises Refused (`schema_too_new`), Corrupt, Unavailable."""
        return cls(Database(path, vfs=vfs))

    # --- what there is

    def add(self, row: ScheduleRow, *, count_max: int) -> ScheduleRow:
        with self._database.write() as connection:
            found = find(connection, row.tenant, row.name)
            if found is not None:
                if said(found[1]) == said(row):
                    return found[1]
                raise Conflict(
                    f'a schedule "{row.name}" exists with another content',
                    code="schedule_exists",
                    hint="Use another name, or delete it first.",
                )
            [[count]] = query(
                connection,
                "SELECT count(*) FROM schedules WHERE tenant = ? AND origin = ? AND is_shown",
                (row.tenant, row.origin),
            )
            if count >= count_max:
                raise Refused(
                    f'tenant "{row.tenant}" has {count} schedules, the limit is {count_max}',
                    code="limit_exceeded",
                    hint="Delete some first.",
                )
            insert(connection, row)
        return row

    def declare(self, tenant: str, rows: Sequence[ScheduleRow]) -> None:
        with self._database.write() as connection:
            shown = [row.name for row in rows]
            hidden = "tenant = ? AND origin = 'code' AND name NOT IN (SELECT value FROM json_each(?))"
            bindings = (tenant, json.dumps(shown))
            connection.execute(
                f"DELETE FROM pending WHERE schedule_id IN (SELECT id FROM schedules WHERE {hidden})",  # noqa: S608
                bindings,
            )
            connection.execute(
                "UPDATE schedules SET is_shown = 0, due_ms = NULL, revision = revision + 1"  # noqa: S608
                f" WHERE is_shown AND {hidden}",
                bindings,
            )
            for row in rows:
                self._declare(connection, row)
            connection.execute(
                "DELETE FROM schedules WHERE id IN (SELECT id FROM schedules WHERE tenant = ? AND NOT is_shown"
                " ORDER BY id DESC LIMIT -1 OFFSET ?)",
                (tenant, HIDDEN_MAX),
            )

    def _declare(self, connection: apsw.Connection, row: ScheduleRow) -> None:
        found = find(connection, row.tenant, row.name, is_shown=None)
        if found is None:
            insert(connection, row)
            return
        number, there = found
        [[is_shown]] = query(connection, "SELECT is_shown FROM schedules WHERE id = ?", (number,))
        if is_shown and said(there) == said(row):
            return
        # A paused one has nothing due; what is due after a later cursor is found when it is looked at.
        due_ms = None if there.paused_by is not None else row.due_ms
        connection.execute(
            "UPDATE schedules SET is_shown = 1, workflow = ?, channel = ?, payload = ?, spec = ?,"
            " cursor_ms = max(cursor_ms, ?), due_ms = ?, revision = revision + 1 WHERE id = ?",
            (row.workflow, row.channel, row.payload, row.spec, row.cursor_ms, due_ms, number),
        )

    def delete(self, tenant: str, name: str) -> None:
        with self._database.write() as connection:
            number, row = get(connection, tenant, name)
            if row.origin == "code":
                raise Conflict(
                    f'schedule "{name}" is declared in the code of the version on channel "{row.channel}"',
                    code="invalid_state",
                    hint="Pause it, or push a version that does not declare it.",
                )
            connection.execute("DELETE FROM schedules WHERE id = ?", (number,))
        self._database.erase()

    def delete_tenant(self, tenant: str) -> None:
        with self._database.read() as connection:
            if not any(query(connection, "SELECT 1 FROM schedules WHERE tenant = ? LIMIT 1", (tenant,))):
                return
        with self._database.write() as connection:
            connection.execute("DELETE FROM schedules WHERE tenant = ?", (tenant,))
        self._database.erase()

    def pause(self, tenant: str, name: str, *, by: str) -> None:
        with self._database.write() as connection:
            number, _ = get(connection, tenant, name)
            connection.execute(
                "UPDATE schedules SET paused_by = ?, due_ms = NULL, revision = revision + 1"
                " WHERE id = ? AND paused_by IS NULL",
                (by, number),
            )

    def resume(self, tenant: str, name: str, *, revision: int, cursor_ms: int, due_ms: int | None) -> bool:
        with self._database.write() as connection:
            number, row = get(connection, tenant, name)
            if row.revision != revision:
                return False
            connection.execute(
                "UPDATE schedules SET paused_by = NULL, cursor_ms = ?, due_ms = ?, revision = revision + 1"
                " WHERE id = ? AND paused_by IS NOT NULL",
                (cursor_ms, due_ms, number),
            )
            return True

    def get(self, tenant: str, name: str) -> ScheduleRow:
        with self._database.read() as connection:
            return get(connection, tenant, name)[1]

    def of_tenant(self, tenant: str) -> list[ScheduleRow]:
        with self._database.read() as connection:
            found = query(
                connection,
                f"SELECT {COLUMNS} FROM schedules s WHERE tenant = ? AND is_shown ORDER BY name",  # noqa: S608
                (tenant,),
            )
            return [row_of(values) for values in found]

    def tenants(self) -> list[str]:
        with self._database.read() as connection:
            return [tenant for (tenant,) in query(connection, "SELECT DISTINCT tenant FROM schedules")]

    # --- firing

    def due(self, now_ms: int, *, limit: int) -> list[ScheduleRow]:
        with self._database.read() as connection:
            found = query(
                connection,
                f"SELECT {COLUMNS} FROM schedules s WHERE due_ms <= ? ORDER BY due_ms, id LIMIT ?",  # noqa: S608
                (now_ms, limit),
            )
            return [row_of(values) for values in found]

    def next_ms(self) -> int | None:
        with self._database.read() as connection:
            found = [
                *query(connection, "SELECT min(due_ms) FROM schedules WHERE due_ms IS NOT NULL"),
                *query(
                    connection,
                    "SELECT min(p.retry_at_ms) FROM pending p JOIN schedules s ON s.id = p.schedule_id"  # noqa: S608
                    f" WHERE p.retry_at_ms IS NOT NULL AND s.paused_by IS NULL AND {_OLDEST}",
                ),
            ]
        return min((at for [at] in found if at is not None), default=None)

    def advance(self, decisions: Sequence[Advanced]) -> None:
        with self._database.write() as connection:
            for one in decisions:
                found = find(connection, one.row.tenant, one.row.name)
                if found is None or found[1].revision != one.row.revision:
                    continue
                for pending in one.pending:
                    put_pending(connection, found[0], pending)
                for firing in one.firings:
                    put_firing(connection, found[0], firing)
                connection.execute(
                    "UPDATE schedules SET cursor_ms = ?, due_ms = ?, revision = revision + 1 WHERE id = ?",
                    (one.cursor_ms, one.due_ms, found[0]),
                )

    def startable(self, now_ms: int, *, limit: int) -> list[tuple[ScheduleRow, Pending]]:
        # Tenants take turns: one whose schedules have piled up does not hold up the single one of another.
        turn = "row_number() OVER (PARTITION BY s.tenant ORDER BY p.scheduled_ms, s.id)"
        return self._oldest("p.retry_at_ms <= ? AND s.paused_by IS NULL", (now_ms,), f"{turn}, s.id LIMIT {limit:d}")

    def waiting(self) -> list[Pending]:
        return [pending for _, pending in self._oldest("p.retry_at_ms IS NULL", (), "s.id")]

    def _oldest(self, which: str, bindings: tuple[Any, ...], order: str) -> list[tuple[ScheduleRow, Pending]]:
        with self._database.read() as connection:
            found = query(
                connection,
                f"SELECT {COLUMNS}, {PENDING} FROM pending p JOIN schedules s ON s.id = p.schedule_id"  # noqa: S608
                f" WHERE {which} AND {_OLDEST} ORDER BY {order}",
                bindings,
            )
            return [(row := row_of(values[:13]), pending_of(row.tenant, row.name, values[13:])) for values in found]

    def pending(self, tenant: str, name: str) -> list[Pending]:
        with self._database.read() as connection:
            number, _ = get(connection, tenant, name)
            found = query(
                connection,
                f"SELECT {PENDING} FROM pending p WHERE schedule_id = ? ORDER BY scheduled_ms",  # noqa: S608
                (number,),
            )
            return [pending_of(tenant, name, values) for values in found]

    def settle(self, settled: Sequence[Settled], delayed: Sequence[Pending]) -> None:
        with self._database.write() as connection:
            for one in settled:
                pending = one.pending
                found = find(connection, pending.tenant, pending.name, is_shown=None)
                if found is None:  # deleted meanwhile
                    continue
                connection.execute(
                    "DELETE FROM pending WHERE schedule_id = ? AND scheduled_ms = ?", (found[0], pending.scheduled_ms)
                )
                connection.execute("UPDATE schedules SET running = ? WHERE id = ?", (json.dumps(one.running), found[0]))
                put_firing(connection, found[0], one.firing)
            for pending in delayed:
                connection.execute(
                    "UPDATE pending SET attempts = ?, retry_at_ms = ?, reason = ? WHERE scheduled_ms = ?"
                    " AND schedule_id = (SELECT id FROM schedules WHERE tenant = ? AND name = ?)",
                    (
                        *(pending.attempts, pending.retry_at_ms, pending.reason),
                        *(pending.scheduled_ms, pending.tenant, pending.name),
                    ),
                )

    def record(self, tenant: str, name: str, firing: FiringView) -> None:
        with self._database.write() as connection:
            found = find(connection, tenant, name, is_shown=None)
            if found is None or is_recorded(connection, found[0], firing):
                return
            running = [*found[1].running, firing.instance][-FIRINGS_KEPT:]
            connection.execute("UPDATE schedules SET running = ? WHERE id = ?", (json.dumps(running), found[0]))
            put_firing(connection, found[0], firing)

    def firings(self, tenant: str, name: str, *, limit: int) -> list[FiringView]:
        with self._database.read() as connection:
            number, _ = get(connection, tenant, name)
            found = query(
                connection,
                "SELECT scheduled_ms, at_ms, outcome, instance, until_ms, reason FROM firings WHERE schedule_id = ?"
                " ORDER BY number DESC LIMIT ?",
                (number, limit),
            )
            return [
                FiringView(scheduled_ms=at, at_ms=done, outcome=outcome, instance=instance, until_ms=until, reason=why)
                for at, done, outcome, instance, until, why in found
            ]

    # --- the file

    def backup(self, target: Path) -> None:
        self._database.copy(target)

    def check(self) -> list[str]:
        return self._database.problems()

    def close(self) -> None:
        self._database.close()
