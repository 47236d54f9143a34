"""What a tenant's SQL may do: SQLite's limits and switches, an authorizer, and a clock that stops a runaway.

These fences are hygiene, not the boundary: they turn accidents into clear errors. The boundary is the sandbox process
with
its own limits on memory and time. Known to pass, and left to that boundary:
- one virtual-machine step that runs long, such as instr() or LIKE on two strings of `value_bytes_max`: the clock is
  only read between steps;
- memory that one statement gathers (json_group_array, a large sort), up to `sqlite_heap_bytes_max` for the whole
  process;
- an image made to attack SQLite's own reader: it is never opened outside the tenant's sandbox.
"""

from __future__ import annotations

import time
from typing import Final

import apsw

from facets.errors import Refused
from facets.limits import Limits

# Pragmas that only read. With an argument they would set something, unless it names a thing to look at.
_PRAGMAS_READ: Final = frozenset(
    (
        "auto_vacuum",
        "collation_list",
        "compile_options",
        "data_version",
        "database_list",
        "encoding",
        "foreign_keys",
        "freelist_count",
        "function_list",
        "module_list",
        "page_count",
        "page_size",
        "pragma_list",
        "schema_version",
        "table_list",
    )
)
_PRAGMAS_WITH_ARGUMENT: Final = frozenset(
    (
        # Of a table or an index:
        "foreign_key_check",
        "foreign_key_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "integrity_check",
        "quick_check",
        "table_info",
        "table_list",
        "table_xinfo",
        # Kept in the image's header, or forgotten at the end of the transaction: nothing that sleep would lose.
        "application_id",
        "defer_foreign_keys",
        "user_version",
    )
)
_TEMPORARY: Final = frozenset(
    (
        apsw.SQLITE_CREATE_TEMP_TABLE,
        apsw.SQLITE_CREATE_TEMP_INDEX,
        apsw.SQLITE_CREATE_TEMP_VIEW,
        apsw.SQLITE_CREATE_TEMP_TRIGGER,
    )
)
_INTO_TEMPORARY: Final = frozenset((apsw.SQLITE_INSERT, apsw.SQLITE_CREATE_VTABLE))
_GUARDED: Final = (
    _TEMPORARY
    | _INTO_TEMPORARY
    | {
        apsw.SQLITE_TRANSACTION,
        apsw.SQLITE_SAVEPOINT,
        apsw.SQLITE_ATTACH,
        apsw.SQLITE_DETACH,
        apsw.SQLITE_PRAGMA,
        apsw.SQLITE_FUNCTION,
    }
)
_PROGRESS_STEPS: Final = 5_000  # virtual-machine steps between two looks at the clock: a fraction of a millisecond


class Fence:
    """Around one connection; holds what its callbacks need. `is_open` lets the platform's own statements through."""

    def __init__(self, connection: apsw.Connection, limits: Limits, *, page_bytes: int) -> None:
        self.is_open = True
        self._deadline_s: float | None = None
        pages = limits.facet_bytes_max // page_bytes
        for _ in connection.cursor().execute(f"pragma max_page_count={pages};pragma foreign_keys=on;", can_cache=False):
            pass
        for option, value in (
            (apsw.SQLITE_DBCONFIG_DEFENSIVE, 1),
            (apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0),
            (apsw.SQLITE_DBCONFIG_DQS_DDL, 0),
            (apsw.SQLITE_DBCONFIG_DQS_DML, 0),
            (apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0),
            (apsw.SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, 0),
        ):
            connection.config(option, value)
        for limit, value in (
            (apsw.SQLITE_LIMIT_LENGTH, limits.value_bytes_max),
            (apsw.SQLITE_LIMIT_SQL_LENGTH, limits.sql_bytes_max),
            (apsw.SQLITE_LIMIT_COLUMN, limits.column_count_max),
            (apsw.SQLITE_LIMIT_VARIABLE_NUMBER, limits.parameter_count_max),
            (apsw.SQLITE_LIMIT_EXPR_DEPTH, 100),
            (apsw.SQLITE_LIMIT_COMPOUND_SELECT, 50),
            (apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1_000),
            (apsw.SQLITE_LIMIT_TRIGGER_DEPTH, 50),
            (apsw.SQLITE_LIMIT_VDBE_OP, 100_000),
            (apsw.SQLITE_LIMIT_ATTACHED, 0),
            (apsw.SQLITE_LIMIT_WORKER_THREADS, 0),
        ):
            connection.limit(limit, value)
        connection.authorizer = self._authorize
        connection.set_progress_handler(self._is_late, _PROGRESS_STEPS)
        self.is_open = False

    def start_clock(self, statement_ms_max: int) -> None:
        """From now on statements are interrupted after `statement_ms_max`, until `stop_clock`."""
        self._deadline_s = time.monotonic() + statement_ms_max / 1000

    def stop_clock(self) -> None:
        self._deadline_s = None

    def _is_late(self) -> bool:
        return self._deadline_s is not None and time.monotonic() > self._deadline_s

    def _authorize(
        self, action: int, first: str | None, second: str | None, schema: str | None, trigger: str | None
    ) -> int:
        """SQLite asks while it prepares a statement. An exception raised here is what the caller of execute() sees."""
        del trigger
        if action not in _GUARDED or self.is_open:
            return apsw.SQLITE_OK
        if action == apsw.SQLITE_FUNCTION:
            if second == "load_extension":
                raise _forbidden("load_extension()", "A facet has no access to files.")
        elif action == apsw.SQLITE_PRAGMA:
            name = (first or "").lower()
            if not (name in _PRAGMAS_WITH_ARGUMENT or (name in _PRAGMAS_READ and second is None)):
                what = f"PRAGMA {name}" if second is None else f"PRAGMA {name} = {second[:40]}"
                raise _forbidden(what, "The platform sets how a facet is stored; foreign keys are always enforced.")
        elif action in (apsw.SQLITE_TRANSACTION, apsw.SQLITE_SAVEPOINT):
            raise Refused(
                f"{first if action == apsw.SQLITE_TRANSACTION else 'SAVEPOINT'} is not allowed: "
                "a step is one transaction.",
                code="facet_transaction",
                hint="It commits when the step returns and rolls back when it raises; facet.savepoint() undoes a part.",
            )
        elif action in (apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH):
            raise _forbidden("ATTACH, DETACH or VACUUM", "A facet is one database, without access to files.")
        elif action in _TEMPORARY or (schema == "temp" and action in _INTO_TEMPORARY):
            # `CREATE TABLE temp.x` is announced as an ordinary CREATE TABLE, but also as an insert into temp's schema.
            raise _forbidden("a temporary table, index, view or trigger", "It would be gone after a sleep; use WITH.")
        return apsw.SQLITE_OK


def _forbidden(what: str, hint: str) -> Refused:
    return Refused(f"{what} is not allowed in a facet.", code="facet_sql_forbidden", hint=hint)
