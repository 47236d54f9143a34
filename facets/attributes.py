"""Search attributes in the state database: what an instance carries in its row, taken apart for an index.

    attribute_set   key → the attributes as they were given: a MessagePack map from name to text, number, bool or time
    attribute       one row for each: (tenant, name, kind, value, key), in that order its own index

Only instances that have attributes are in either. Values of one kind have an order; kinds do not compare with each
other, but stand one behind the other where a listing is in the order of an attribute.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import apsw
import msgspec

from facets.database import listed, query
from facets.errors import Corrupt

BOOL, NUMBER, TIME, TEXT = 1, 2, 3, 4
BYTES_MAX = 64 * 1024
NAME_CHARS_MAX = 100
INTEGER_MAX = (1 << 63) - 1

Value = str | int | float | bool | datetime
Placed = tuple[int, int | float | str]
"""A value as it stands in the index: its kind, and what is compared within it (a time in microseconds)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_decoder = msgspec.msgpack.Decoder(dict[str, Any])


def decode(content: bytes) -> dict[str, Value]:
    """The attributes by name; {} for b"". Raises Corrupt (`attributes_corrupt`)."""
    if not content:
        return {}
    try:
        found: dict[str, Value] = _decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _corrupt(str(error)) from error
    for value in found.values():
        placed(value)
    return found


def placed(value: object) -> Placed:
    """Where a value stands. Raises Corrupt (`attributes_corrupt`) for what is no attribute."""
    kind = type(value)
    if kind is bool:
        return BOOL, int(value)  # type: ignore[call-overload]  # a bool
    if isinstance(value, str):
        return TEXT, value
    if isinstance(value, int) and -INTEGER_MAX - 1 <= value <= INTEGER_MAX:
        return NUMBER, value
    if isinstance(value, float) and value - value == 0:
        return NUMBER, value
    if isinstance(value, datetime) and value.tzinfo is not None:
        return TIME, (value - _EPOCH) // _MICROSECOND
    raise _corrupt(f"{kind.__name__} is no value of an attribute")


def problem(content: bytes) -> str | None:
    """Why these bytes cannot be an instance's attributes."""
    if len(content) > BYTES_MAX:
        return f"its attributes have {len(content)} bytes, the limit is {BYTES_MAX}"
    try:
        found = decode(content)
    except Corrupt as error:
        return f"its attributes are damaged ({error.message})"
    if any(not name or len(name) > NAME_CHARS_MAX or "\0" in name for name in found):
        return f"names of attributes have 1 to {NAME_CHARS_MAX} characters"
    return None


def are_any(connection: apsw.Connection) -> bool:
    """Whether any instance has attributes."""
    return bool(connection.execute("SELECT EXISTS (SELECT 1 FROM attribute_set)").get)


def write(connection: apsw.Connection, changed: Sequence[tuple[int, int, bytes]]) -> None:
    """Attributes of instances as they are now: (key, tenant, content), each key once."""
    keys = listed([key for key, _, _ in changed])
    known: dict[int, bytes] = dict(
        query(
            connection,
            "SELECT key, content FROM attribute_set WHERE key IN (SELECT value FROM json_each(?))",
            (keys,),
        )
    )
    changed = [(key, tenant, content) for key, tenant, content in changed if known.get(key, b"") != content]
    if not changed:
        return
    _remove_rows(connection, ((key, tenant, known.get(key, b"")) for key, tenant, _ in changed))
    connection.executemany("DELETE FROM attribute_set WHERE key = ?", [(key,) for key, _, _ in changed if key in known])
    connection.executemany(
        "INSERT INTO attribute_set VALUES(?, ?)", [(key, content) for key, _, content in changed if content]
    )
    _insert_rows(connection, changed)


def remove(connection: apsw.Connection, keys: Sequence[int]) -> None:
    """Those of these instances, which are still in their table."""
    found = list(
        query(
            connection,
            "SELECT attribute_set.key, tenant, content FROM attribute_set JOIN instance USING (key) "
            "WHERE attribute_set.key IN (SELECT value FROM json_each(?))",
            (listed(keys),),
        )
    )
    _remove_rows(connection, found)
    connection.executemany("DELETE FROM attribute_set WHERE key = ?", [(key,) for key, _, _ in found])


def index_again(connection: apsw.Connection) -> None:
    """The table `attribute`, from `attribute_set`."""
    connection.execute("DELETE FROM attribute")
    _insert_rows(
        connection, query(connection, "SELECT key, tenant, content FROM attribute_set JOIN instance USING (key)")
    )


def problems(connection: apsw.Connection) -> list[str]:
    """What is wrong between the two tables, one line each."""
    found: list[str] = []
    expected = 0
    sql = "SELECT attribute_set.key, tenant, content FROM attribute_set LEFT JOIN instance USING (key)"
    for key, tenant, content in query(connection, sql):
        if tenant is None:
            found.append(f"attributes of the instance with key {key}, which does not exist")
            continue
        try:
            for row in _rows(key, tenant, content):
                expected += 1
                if not connection.execute(f"SELECT EXISTS (SELECT 1 FROM attribute {_WHERE})", row).get:  # noqa: S608
                    found.append(f"attribute {row[1]!r} of the instance with key {key} is not in its index")
        except Corrupt as error:
            found.append(f"attributes of the instance with key {key}: {error.message}")
    if connection.execute("SELECT count(*) FROM attribute").get != expected:
        found.append("the index of attributes has rows that no instance has")
    return found


_WHERE = "WHERE tenant = ? AND name = ? AND kind = ? AND value = ? AND key = ?"


def _rows(key: int, tenant: int, content: bytes) -> list[tuple[int, str, int, int | float | str, int]]:
    return [(tenant, name, *placed(value), key) for name, value in decode(content).items()]


def _remove_rows(connection: apsw.Connection, sets: Iterable[tuple[int, int, bytes]]) -> None:
    connection.executemany(
        f"DELETE FROM attribute {_WHERE}",  # noqa: S608 - own text
        [row for one in sets for row in _rows(*one)],
    )


def _insert_rows(connection: apsw.Connection, sets: Iterable[tuple[int, int, bytes]]) -> None:
    connection.executemany("INSERT INTO attribute VALUES(?, ?, ?, ?, ?)", (row for one in sets for row in _rows(*one)))


def _corrupt(reason: str) -> Corrupt:
    return Corrupt(f"An instance's attributes cannot be read: {reason}.", code="attributes_corrupt")
