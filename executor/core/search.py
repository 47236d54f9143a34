"""What a listing of instances is asked for: from a caller's words to a Query. Pure.

Conditions on search attributes, as JSON or Python values:

    {"customer": "acme", "amount": {">": 5, "<=": 10}}       name → value, or operators and their values
    [["customer", "=", "acme"], ["amount", ">", 5]]          the same, as a list

Operators are = != < <= > >= in (a list), exists (true or false), prefix (of a text). All conditions must hold; one on
an attribute that an instance does not have is false, but for `exists` false.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Literal, cast, get_args

import msgspec

from executor.core import attributes, values
from executor.core.errors import Refused
from executor.core.lifecycle import STATES

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in", "exists", "prefix"]
OPERATORS: tuple[str, ...] = get_args(Operator)
CONDITION_COUNT_MAX = 20
IN_COUNT_MAX = 100
MOMENT_MAX_MS = 253_402_300_799_999
COUNT_MAX = 10_000
"""Matches are counted exactly up to so many."""

_BY_ATTRIBUTE = "attributes."
_CONDITION = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*(!=|<=|>=|\^=|=|<|>|\bin\b)\s*(.*)", re.DOTALL)
_PRESENCE = re.compile(r"\s*(!?)\s*([A-Za-z_][A-Za-z0-9_]*)\s*")


class Condition(msgspec.Struct, frozen=True, array_like=True):
    """On one attribute. `values`: one; any number for `in`; a bool for `exists`; a text for `prefix`."""

    name: str
    operator: Operator
    values: tuple[Any, ...]


class Query(msgspec.Struct, frozen=True, array_like=True):
    """Which instances of a tenant, and in which order. `states` (): all. Times: from is included, to is not.

    `order`: "created", "updated" or "attributes.NAME". By an attribute, instances without it come last.
    """

    states: tuple[str, ...] = ()
    workflow: str | None = None
    commit: str | None = None
    created_from_ms: int | None = None
    created_to_ms: int | None = None
    updated_from_ms: int | None = None
    updated_to_ms: int | None = None
    where: tuple[Condition, ...] = ()
    order: str = "created"
    is_descending: bool = True


EVERYTHING = Query()


def query(
    *,
    state: str | Sequence[str] | None = None,
    workflow: str | None = None,
    commit: str | None = None,
    created_from_ms: int | None = None,
    created_to_ms: int | None = None,
    updated_from_ms: int | None = None,
    updated_to_ms: int | None = None,
    where: Any = None,
    order_by: str | None = None,
) -> Query:
    """The query in these words; `state`: one, several, or several with commas between. Raises Refused (`bad_request`)
    that names what it does not understand."""
    order, is_descending = parse_order(order_by)
    for at_ms in (created_from_ms, created_to_ms, updated_from_ms, updated_to_ms):
        if at_ms is not None and not -MOMENT_MAX_MS <= at_ms <= MOMENT_MAX_MS:
            raise Refused("a time is beyond the year 9999", code="bad_request", hint="Times are in milliseconds.")
    return Query(
        parse_states(state),
        workflow,
        commit,
        created_from_ms,
        created_to_ms,
        updated_from_ms,
        updated_to_ms,
        parse_where(where),
        order,
        is_descending,
    )


def parse_states(state: str | Sequence[str] | None) -> tuple[str, ...]:
    """The states meant; (): all. Raises Refused (`bad_request`)."""
    if state is None:
        return ()
    names = state.split(",") if isinstance(state, str) else list(state)
    for name in names:
        if name not in STATES:
            raise Refused(
                f"{str(name)[:40]!r} is no state of an instance",
                code="bad_request",
                hint=f"States are {', '.join(STATES)}.",
            )
    return tuple(dict.fromkeys(names))


def parse_order(order_by: str | None) -> tuple[str, bool]:
    """The order, and whether it is descending. "-created" (the default) is newest first. Raises Refused."""
    if order_by is None:
        return "created", True
    if not isinstance(order_by, str):
        raise Refused(f"order_by is text, not {type(order_by).__name__}", code="bad_request", hint=_ORDERS)
    name = order_by.removeprefix("-")
    is_descending = name != order_by
    if name in {"created", "updated"}:
        return name, is_descending
    name = name.removeprefix(_BY_ATTRIBUTE)
    try:
        attributes.check_name(name)
    except Refused:
        raise Refused(f"{order_by[:80]!r} is no order", code="bad_request", hint=_ORDERS) from None
    return _BY_ATTRIBUTE + name, is_descending


_ORDERS = "Orders are created, updated and the names of attributes; with - before it, the greatest comes first."


def parse_where(where: Any) -> tuple[Condition, ...]:
    """The conditions; `where` may be their JSON text. Raises Refused (`bad_request`) that names the condition."""
    if isinstance(where, str):
        try:
            where = msgspec.json.decode(where) if where.strip() else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(f"where is not JSON: {error}", code="bad_request", hint=_FORM) from None
    if where is None:
        return ()
    found = tuple(islice(_conditions(where), CONDITION_COUNT_MAX + 1))
    if len(found) > CONDITION_COUNT_MAX:
        raise Refused(f"more conditions in where than the limit of {CONDITION_COUNT_MAX}", code="bad_request")
    return found


_FORM = 'Write {"customer": "acme", "amount": {">": 5}}, or [["amount", ">", 5]].'


def _conditions(where: Any) -> Iterable[Condition]:
    if isinstance(where, Mapping):
        for name, wanted in where.items():
            if isinstance(wanted, Mapping) and not _is_marked(wanted):
                if not wanted:
                    raise _refused(name, "no operator is given")
                yield from (condition(name, operator, value) for operator, value in wanted.items())
            else:
                yield condition(name, "=", wanted)
        return
    if isinstance(where, Sequence) and not isinstance(where, bytes | bytearray | memoryview):
        for one in where:
            if not isinstance(one, Sequence) or isinstance(one, str | bytes) or len(one) != 3:
                raise Refused(f"{_short(one)} in where is no condition", code="bad_request", hint=_FORM)
            yield condition(*one)
        return
    raise Refused(f"where is of type {type(where).__name__}", code="bad_request", hint=_FORM)


def _is_marked(wanted: Mapping[Any, Any]) -> bool:
    """Whether it is the JSON form of a value (a time)."""
    return len(wanted) == 1 and str(next(iter(wanted))).startswith("$")


def condition(name: Any, operator: Any, value: Any) -> Condition:
    """One condition, checked. Raises Refused (`bad_request`) that names it."""
    attributes.check_name(name)
    if operator not in OPERATORS:
        raise _refused(name, f"{_short(operator)} is no operator", f"Operators are {' '.join(OPERATORS)}.")
    if operator == "in":
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise _refused(name, '"in" takes a list of values')
        if len(value) > IN_COUNT_MAX:
            raise _refused(name, f'"in" takes {IN_COUNT_MAX} values at most, not {len(value)}')
        return Condition(name, "in", tuple(_value(name, each) for each in value))
    checked = _value(name, value)
    if operator == "exists" and not isinstance(checked, bool):
        raise _refused(name, '"exists" takes true or false')
    if operator == "prefix" and not isinstance(checked, str):
        raise _refused(name, '"prefix" takes a text')
    if operator in {"<", "<=", ">", ">="} and isinstance(checked, bool):
        raise _refused(name, f'"{operator}" takes a number, a text or a time')
    return Condition(name, cast("Operator", operator), (checked,))


def _value(name: str, value: Any) -> attributes.Attribute:
    try:
        return attributes.parse(name, value)
    except Refused as refused:
        raise _refused(name, refused.message, refused.hint) from None


def _refused(name: Any, what: str, hint: str | None = None) -> Refused:
    return Refused(f"the condition on {_short(name)} is wrong: {what}", code="bad_request", hint=hint or _FORM)


def _short(thing: Any) -> str:
    text = json.dumps(thing) if isinstance(thing, str) else repr(thing)
    return text if len(text) <= 80 else text[:77] + "..."


# --- for those who ask


def where_text(where: Any) -> str | None:
    """Conditions as the JSON text that every transport carries; None: none. Raises Refused (`bad_request`)."""
    if where is None:
        return None
    found = [
        (
            one.name,
            one.operator,
            [values.to_json(value) for value in one.values] if one.operator == "in" else values.to_json(one.values[0]),
        )
        for one in parse_where(where)
    ]
    return msgspec.json.encode(found).decode() if found else None


def words(text: str) -> tuple[str, str, Any]:
    """A condition as people type it: amount>5, customer=acme, customer^=ac (a prefix), stage in ["a", "b"], urgent
    (there is one), !urgent (there is none).

    The value is JSON if it reads as such, else a time if it is one with its zone, else text. Raises Refused.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        presence = _PRESENCE.fullmatch(text)
        if presence is None:
            raise Refused(
                f"{_short(text)} is no condition",
                code="bad_request",
                hint="Write customer=acme, 'amount>5', 'customer^=ac', 'stage in [\"a\", \"b\"]', urgent or !urgent.",
            )
        return presence[2], "exists", not presence[1]
    name, operator, typed = found.groups()
    return name, "prefix" if operator == "^=" else operator, typed if operator == "^=" else _typed(typed.strip())


def _typed(text: str) -> Any:
    try:
        return values.from_json(json.loads(text))
    except (ValueError, RecursionError, Refused):
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text
    return text if at.tzinfo is None else at
