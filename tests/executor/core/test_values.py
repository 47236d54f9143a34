"""Values: what comes back is what went in, or a refusal that names the place."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.core import values
from executor.core.errors import Refused

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
    | st.binary()
    | st.datetimes()
    | st.datetimes(timezones=st.just(UTC) | st.just(timezone(timedelta(hours=5, minutes=45))))
    | st.datetimes(timezones=st.just(ZoneInfo("Europe/Berlin")))
    | st.dates()
    | st.times()
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(codec="utf-8")) | st.sampled_from(["$bytes", "$", "$$x"]), inner, max_size=4
        )
    ),
)
anything = st.recursive(
    scalars
    | st.floats()
    | st.text(st.characters())
    | st.sets(st.integers())
    | st.decimals()
    | st.builds(object)
    | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | st.text(), inner, max_size=3)
    ),
)


def same(one: Any, other: Any) -> bool:
    """Equal in value, type, sign of zero and time zone (by name and offset: `fold` only where it decides that)."""
    return repr(told(one)) == repr(told(other))


def told(value: Any) -> Any:
    if isinstance(value, list):
        return [told(item) for item in value]
    if isinstance(value, dict):
        return {key: told(item) for key, item in value.items()}
    if isinstance(value, datetime):
        return ["datetime", value.isoformat(), getattr(value.tzinfo, "key", None)]
    return value.replace(fold=0) if isinstance(value, time) else value


@given(trees)
def test_decoded_equals_encoded(value) -> None:
    assert same(values.decode(values.encode(value)), value)


@given(anything)
def test_what_live_and_replay_see_is_the_same_or_refused(value) -> None:
    try:
        data = values.encode(value)
    except Refused as refused:
        assert refused.code == "value_refused"
        assert refused.hint
        return
    live = values.decode(data)
    assert same(values.decode(values.encode(live)), live)
    assert values.encode(live) == data


@given(trees)
def test_json_form_comes_back(value) -> None:
    value = values.decode(values.encode(value))
    text = json.dumps(values.to_json(value), allow_nan=False)
    assert same(values.from_json(json.loads(text)), value)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_refused(data) -> None:
    try:
        value = values.check(data)
    except Refused:
        return
    assert same(values.decode(values.encode(value)), value)


@given(trees)
def test_canonical_form_does_not_depend_on_the_order_of_keys(value) -> None:
    def reversed_(item):
        if isinstance(item, dict):
            return {key: reversed_(item[key]) for key in reversed(item)}
        return [reversed_(each) for each in item] if isinstance(item, list) else item

    assert values.canonical(value) == values.canonical(reversed_(value))


class Colour(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int


@dataclass
class Account:
    id: str
    opened: date
    colour: Colour = Colour.RED
    parts: list[Account] = field(default_factory=list)


class Model:
    """Has the shape of a pydantic model."""

    def __init__(self, name: str) -> None:
        self.name = name

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        return {"name": self.name}

    @classmethod
    def model_validate(cls, plain: Any) -> Model:
        return cls(plain["name"])


cyclic: list[Any] = []
cyclic.append(cyclic)
deep: Any = 1
for _ in range(65):
    deep = [deep]


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ({"items": [0, 1, 2, {1}]}, 'value["items"][3]: a set', "Return sorted(the_set), a list."),
        (float("nan"), "value: the float nan, which JSON cannot hold", "Use None or a text for it."),
        ([float("-inf")], "value[0]: the float -inf, which JSON cannot hold", "Use None or a text for it."),
        ({1: 2}, "value: a dict with the key 1 of type int", "Keys must be str: use str(key)."),
        (
            "\ud800",
            "value: text with lone surrogates, which is not valid Unicode",
            "Decode the bytes with errors='replace'.",
        ),
        (cyclic, "value[0]: a list that contains itself", "Break the cycle."),
        ({"a": Decimal(1)}, 'value["a"]: a Decimal', "Return str(it), and make a Decimal of it again."),
        (timedelta(1), "value: a timedelta", "Return it.total_seconds()."),
        (UUID(int=1), "value: a UUID", "Return str(it)."),
        (
            Colour.RED,
            "value: a member of the enum Colour",
            "Return its .value, or declare the enum as the step's return type.",
        ),
        (Point(1), "value: a named tuple Point", "Return it._asdict(), or tuple(it)."),
        (
            {"a": Account("1", date(2026, 1, 1))},
            'value["a"]: an instance of Account',
            "Declare it as return type (def function() -> Account), or return dataclasses.asdict(it).",
        ),
        (object(), "value: an object of type object", None),
    ],
)
def test_refusal_names_the_place_and_what_to_do(value, message, hint) -> None:
    with pytest.raises(Refused) as refused:
        values.encode(value)
    assert refused.value.message == message
    assert refused.value.code == "value_refused"
    assert hint is None or refused.value.hint == hint


def test_value_nested_too_deep_is_refused() -> None:
    with pytest.raises(Refused, match="nested more than 64 deep"):
        values.encode(deep)
    assert values.decode(values.encode(deep[0])) == deep[0]


def test_value_over_its_size_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        values.encode(b"x" * values.VALUE_BYTES_MAX, what="result")
    assert len(values.encode(b"x" * (values.VALUE_BYTES_MAX - 5))) == values.VALUE_BYTES_MAX
    assert refused.value.code == "payload_too_large"
    assert refused.value.message == "result is 1048581 bytes encoded, the limit is 1048576"


def test_tuple_becomes_a_list() -> None:
    assert values.decode(values.encode((1, (2,)))) == [1, [2]]


def test_zone_of_a_datetime_is_kept() -> None:
    moment = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))
    back = values.decode(values.encode(moment))
    assert (back.tzinfo.key, back.fold, back.utcoffset()) == ("Europe/Berlin", 1, timedelta(hours=1))


def test_unknown_zone_keeps_the_instant() -> None:
    assert values.from_json({"$datetime": "2026-01-01T00:00:00+02:00[Nowhere/Else]"}).utcoffset() == timedelta(hours=2)


def test_declared_dataclass_comes_back_as_itself() -> None:
    account = Account("1", date(2026, 1, 1), parts=[Account("2", date(2026, 1, 2))])
    data = values.encode([account, None], declared=list[Account | None])
    assert values.decode(data, declared=list[Account | None]) == [account, None]


def test_declared_model_comes_back_as_itself() -> None:
    data = values.encode({"m": Model("n")}, declared=dict[str, Model])
    assert values.decode(data, declared=dict[str, Model])["m"].name == "n"


@pytest.mark.parametrize(("declared", "value"), [(str, 5), (list[int], ["x"]), (int | None, "x"), (Any, {"n": 1})])
def test_declared_type_without_a_class_of_its_own_is_for_readers_and_not_checked(declared, value) -> None:
    assert values.decode(values.encode(value, declared=declared), declared=declared) == value


def test_value_that_does_not_fit_its_declared_type_is_refused() -> None:
    with pytest.raises(Refused, match=r"result does not fit its declared type Account: .*opened"):
        values.encode({"id": "1"}, declared=Account, what="result")


def test_annotation_without_models_is_not_enforced() -> None:
    assert values.decode(values.encode("text", declared=int), declared=int) == "text"


@pytest.mark.parametrize(
    "value", [{"$ref": 1}, {"$bytes": 3}, {"$bytes": "%"}, {"$datetime": "yesterday"}, {"$date": None}]
)
def test_json_with_an_unknown_mark_is_refused(value) -> None:
    with pytest.raises(Refused) as refused:
        values.from_json(value)
    assert refused.value.code == "bad_payload"


def test_argument_that_is_not_a_value_counts_as_its_type() -> None:
    assert values.canonical([object()]) == values.canonical([object()])
    assert values.canonical([object()]) != values.canonical([{1}])
    assert values.canonical({1: object()}) == values.canonical({2: 3})
    assert values.canonical(time(1)) != values.canonical(time(2))


def test_many_unknown_zones_are_not_looked_for_one_by_one(monkeypatch):
    looked = []

    def look(key):
        looked.append(key)
        return ZoneInfo(key)

    monkeypatch.setattr(values, "ZoneInfo", look)
    monkeypatch.setattr(values, "_unknown_zones", set())
    texts = [f"2020-01-01T00:00:00+00:00[Unknown/{number}]" for number in range(values.UNKNOWN_ZONES_MAX + 50)]
    assert all(values.from_json({"$datetime": text}).utcoffset() == timedelta(0) for text in texts)
    assert len(looked) == values.UNKNOWN_ZONES_MAX
    known = values.from_json({"$datetime": "2020-01-01T00:00:00+01:00[Europe/Berlin]"})
    assert str(known.tzinfo) == "Europe/Berlin"
