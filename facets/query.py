"""Reading a facet from outside: one statement that writes nothing, its columns and the first of its rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import apsw

from facets.errors import Refused
from facets.facet import Facet
from facets.row import Parameters, Value, checked

ROW_COUNT_MAX = 100_000
BYTES_MAX = 8 * 1024 * 1024
"""Of one answer; it is sent as one message."""
_VALUE_BYTES = 16
"""What a number, a short text or nothing counts."""


class Found(NamedTuple):
    """`is_cut`: there were more rows than asked for."""

    columns: list[str]
    rows: list[list[Value]]
    is_cut: bool


def query(facet: Facet, sql: str, parameters: Parameters = (), *, limit: int = ROW_COUNT_MAX) -> Found:
    """The first `limit` rows of one statement on a read-only facet.

    Raises as `Facet.execute`, and Refused: `facet_sql_error` (several statements, or none), `facet_result_too_large`.
    """
    bound = checked(parameters)
    return facet._run(sql, lambda connection: _found(connection, sql, bound, limit))


def _found(connection: apsw.Connection, sql: str, bound: Any, limit: int) -> Found:
    statements: list[list[str]] = []

    def begins(cursor: apsw.Cursor, text: str, bindings: object) -> bool:
        del text, bindings
        if statements:
            raise _one("Several statements were given.")
        statements.append([column[0] for column in cursor.get_description()])
        return True

    cursor = connection.cursor()
    cursor.exec_trace = begins
    rows: list[list[Value]] = []
    left = BYTES_MAX
    try:
        for values in cursor.execute(sql, bound):
            if len(rows) == limit:
                return Found(statements[0], rows, is_cut=True)
            left -= sum(_size(value) for value in values)
            if left < 0:
                raise Refused(
                    f"The result has more than {BYTES_MAX} bytes.",
                    code="facet_result_too_large",
                    hint="Add a LIMIT, or let SQL do the summing.",
                )
            rows.append([*values])
    finally:
        cursor.close(force=True)
    if not statements or not statements[0]:
        raise _one("The statement gives no columns.")
    return Found(statements[0], rows, is_cut=False)


def _size(value: Value) -> int:
    if isinstance(value, str):
        return _VALUE_BYTES + (len(value) if value.isascii() else len(value.encode()))
    return _VALUE_BYTES + (len(value) if isinstance(value, bytes) else 0)


def _one(what: str) -> Refused:
    return Refused(what, code="facet_sql_error", hint="A query is one statement: SELECT, VALUES, WITH, or EXPLAIN.")
