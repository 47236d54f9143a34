"""What a listing is asked for: conditions, order and cursor. Pure: no database here (listing.py has that).

A condition on an attribute that an instance does not have is false, whatever its operator, but for `exists` False.
Values of different kinds (text, number, bool, time) are never equal, and neither is less; whole and broken numbers are
one kind.

Orders: `created` (by generation), `updated`, or by one attribute. Rows of one place in the order are in that of their
creation, so every row has a place of its own and a cursor can name it. In the order of an attribute, instances that do
not have it come last, the newest first, whichever way the order runs.
"""

from __future__ import annotations

import base64
import binascii
import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from facets import attributes
from facets.attributes import TEXT, Placed
from facets.errors import Corrupt, Refused
from facets.records import InstanceRow

CREATED, UPDATED = "created", "updated"
COUNT_MAX = 10_000
"""Matches are counted exactly up to so many."""

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in", "exists", "prefix"]

_COMPARED: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


_OPERATORS = frozenset(get_args(Operator))


class Condition(msgspec.Struct, frozen=True, array_like=True):
    """On one attribute. `values`: one; any number for `in`; a bool for `exists`; a text for `prefix`."""

    name: str
    operator: Operator
    values: tuple[Any, ...]


class Query(msgspec.Struct, frozen=True, array_like=True):
    """Which instances of a tenant, and in which order. Times: from is included, to is not. `states` (): all.

    `order`: "created", "updated", or "attributes.NAME".
    """

    states: tuple[str, ...] = ()
    workflow: str | None = None
    commit: str | None = None
    created_from_ms: int | None = None
    created_to_ms: int | None = None
    updated_from_ms: int | None = None
    updated_to_ms: int | None = None
    where: tuple[Condition, ...] = ()
    order: str = CREATED
    is_descending: bool = True

    @property
    def attribute(self) -> str | None:
        """The one that gives the order."""
        return self.order[11:] if self.order.startswith("attributes.") else None


class Place(NamedTuple):
    """Where a row stands: `part` 0, or 1 if it lacks the attribute that gives the order; `at` within its part."""

    part: int
    at: tuple[Any, ...]


def check(query: Query) -> None:
    """Raises Refused (`query_invalid`) for a search that means nothing."""
    name = query.attribute
    if query.order not in {CREATED, UPDATED} and not name:
        raise _invalid(f"{query.order[:80]!r} is no order")
    for condition in query.where:
        values = condition.values
        if condition.operator != "in" and len(values) != 1:
            raise _invalid(f"{condition.operator!r} takes one value")
        if condition.operator == "prefix" and not isinstance(values[0], str):
            raise _invalid("a prefix is text")
        if condition.operator not in _OPERATORS:
            raise _invalid(f"{condition.operator!r} is no operator")
        for value in values:
            try:
                attributes.placed(value)
            except Corrupt as error:
                raise _invalid(f"of attribute {condition.name!r}: {error.message}") from None


def _invalid(reason: str) -> Refused:
    return Refused(f"This search means nothing: {reason}.", code="query_invalid")


def order_of(query: Query, part: int) -> str:
    """That of one part of the listing: what lacks the attribute is in the order of creation."""
    return CREATED if part else query.order


def is_descending(query: Query, part: int) -> bool:
    return bool(part) or query.is_descending


def parts(query: Query) -> range:
    """The parts that the listing has."""
    name = query.attribute
    has_all = name is None or any(each.name == name and needs_attribute(each) for each in query.where)
    return range(1 if has_all else 2)


def place_of(query: Query, generation: int, updated_at_ms: int, content: bytes) -> Place:
    """The place of a row with these facts. Raises Corrupt (`attributes_corrupt`)."""
    if query.order == CREATED:
        return Place(0, (generation,))
    if query.order == UPDATED:
        return Place(0, (updated_at_ms, generation))
    found = attributes.decode(content)
    name = query.attribute
    assert name is not None, "there are no other orders"
    if name not in found:
        return Place(1, (generation,))
    return Place(0, (*attributes.placed(found[name]), generation))


def before(query: Query, place: Place) -> Place:
    """A place right in front of `place`, where no row stands."""
    *head, generation = place.at
    return Place(place.part, (*head, generation + (1 if is_descending(query, place.part) else -1)))


def needs_attribute(condition: Condition) -> bool:
    """Whether only instances that have the attribute can meet it."""
    return condition.operator != "exists" or bool(condition.values[0])


def compile_where(where: tuple[Condition, ...]) -> Callable[[bytes], bool]:
    """Whether attributes meet all conditions."""
    if not where:
        return lambda _: True
    tests = [(condition.name, _test(condition)) for condition in where]

    def meets(content: bytes) -> bool:
        found = attributes.decode(content)
        return all(test(attributes.placed(found[name]) if name in found else None) for name, test in tests)

    return meets


def _test(condition: Condition) -> Callable[[Placed | None], bool]:
    if condition.operator == "exists":
        wanted = bool(condition.values[0])
        return lambda found: (found is not None) is wanted
    places = [attributes.placed(value) for value in condition.values]
    if condition.operator == "in":
        return lambda found: found in places
    [place] = places
    kind, value = place
    if condition.operator == "=":
        return lambda found: found == place
    if condition.operator == "!=":
        return lambda found: found is not None and found != place
    if condition.operator == "prefix":
        return lambda found: found is not None and found[0] == TEXT and str(found[1]).startswith(str(value))
    compared = _COMPARED[condition.operator]
    return lambda found: found is not None and found[0] == kind and compared(found[1], value)


def cursor(query: Query, place: Place) -> str:
    """A place as text; only for a listing in the same order."""
    content = msgspec.msgpack.encode((query.order, query.is_descending, place.part, place.at))
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def cursor_behind(query: Query, row: InstanceRow) -> str:
    """Of the page whose last row is `row`."""
    return cursor(query, place_of(query, row.generation, row.updated_at_ms, row.attributes))


def read_cursor(query: Query, text: str) -> Place:
    """The place that a cursor names. Raises Refused (`cursor_invalid`)."""
    try:
        content = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        order, descending, part, at = msgspec.msgpack.decode(content, type=tuple[str, bool, int, tuple[Any, ...]])
    except (UnicodeEncodeError, binascii.Error, ValueError, msgspec.MsgspecError):
        raise _no_cursor(text) from None
    if (order, descending) != (query.order, query.is_descending):
        raise Refused(
            f"The cursor is of a listing in the order of {'-' * descending}{order[:80]}, not of "
            f"{'-' * query.is_descending}{query.order}.",
            code="cursor_invalid",
            hint="Keep the order from page to page.",
        )
    if not _is_place(query, part, at):
        raise _no_cursor(text)
    return Place(part, at)


def _is_place(query: Query, part: int, at: tuple[Any, ...]) -> bool:
    if part not in parts(query) or not at or not all(type(each) in (int, float, str) for each in at):
        return False
    if type(at[-1]) is not int or not all(-(2**63) <= each < 2**63 for each in at if type(each) is int):
        return False
    order = order_of(query, part)
    if order == CREATED:
        return len(at) == 1
    if order == UPDATED:
        return len(at) == 2 and type(at[0]) is int
    return len(at) == 3 and type(at[0]) is int and (at[0] == TEXT) is (type(at[1]) is str)


def _no_cursor(text: str) -> Refused:
    return Refused(f"{text[:80]!r} is not a cursor of this listing.", code="cursor_invalid")
