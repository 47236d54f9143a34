"""Search attributes: their stored form, their bounds, and the words in which they are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.core import attributes
from executor.core.errors import Refused

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,63}", fullmatch=True)
scalars = (
    st.text(max_size=256)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC))
)
sets = st.dictionaries(names, scalars, max_size=32)


@given(sets)
def test_what_is_encoded_comes_back_with_its_types(given: dict[str, Any]) -> None:
    found = attributes.decode(attributes.encode(given))
    assert found == given
    assert {name: type(value) for name, value in found.items()} == {name: type(value) for name, value in given.items()}


@given(sets)
def test_equal_attributes_have_equal_bytes_whatever_their_order(given: dict[str, Any]) -> None:
    turned = dict(reversed(given.items()))
    assert attributes.encode(turned) == attributes.encode(given)


@given(sets, st.dictionaries(names, st.none() | scalars, max_size=4))
def test_merge_is_that_of_dicts_where_none_takes_away(before: dict[str, Any], changes: dict[str, Any]) -> None:
    expected = {name: value for name, value in (before | changes).items() if value is not None}
    if len(expected) > 32:
        with pytest.raises(Refused):
            attributes.merge(attributes.encode(before), changes)
    else:
        assert attributes.merge(attributes.encode(before), changes) == attributes.encode(expected)


@given(st.dictionaries(names, st.none() | scalars, max_size=4))
def test_changes_come_back(changes: dict[str, Any]) -> None:
    assert attributes.decode_changes(attributes.encode_changes(changes)) == changes


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        attributes.decode(data)
    except Refused as refused:
        assert refused.code == "bad_request"


def test_no_attributes_are_no_bytes() -> None:
    assert attributes.encode({}) == b""
    assert attributes.decode(b"") == {}
    assert attributes.merge(attributes.encode({"a": 1}), {"a": None}) == b""


def test_a_time_is_kept_in_utc() -> None:
    given = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert attributes.decode(attributes.encode({"due": given}))["due"].isoformat() == "2026-01-01T10:00:00+00:00"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"amount": None}, 'attribute "amount" is of type NoneType'),
        ({"tags": ["a"]}, 'attribute "tags" is of type list'),
        ({"note": "x" * 257}, 'attribute "note" is a text of 257 characters, the limit is 256'),
        ({"note": "\ud800"}, 'attribute "note" is text with lone surrogates, which is not valid Unicode'),
        ({"count": 2**63}, 'attribute "count" is an integer of more than 64 bits'),
        ({"rate": float("nan")}, 'attribute "rate" is nan, which has no place in an order'),
        ({"due": datetime(2026, 1, 1)}, 'attribute "due" is a datetime without a time zone'),
        ({"1st": 1}, '"1st" is not the name of a search attribute'),
        ({"$flow": 1}, '"$flow" is not the name of a search attribute'),
        ({7: 1}, "7 is not the name of a search attribute"),
        ({f"a{n:02}": 1 for n in range(33)}, '33 search attributes, the limit is 32 (the last one is "a32")'),
    ],
)
def test_refusals_name_the_attribute(given: dict[Any, Any], message: str) -> None:
    for call in (attributes.encode, lambda given: attributes.merge(b"", given)):
        if call is not attributes.encode and None in given.values():
            continue
        with pytest.raises(Refused) as refused:
            call(given)
        assert (refused.value.message, refused.value.code) == (message, "bad_request")


def test_the_platforms_own_attributes_are_neither_shown_nor_set_by_tenants() -> None:
    data = attributes.merge(attributes.encode({"a": 1}), {"$flow": "k"}, is_reserved=True)
    assert attributes.decode(data) == {"$flow": "k", "a": 1}
    assert attributes.show(data) == {"a": 1}
    assert attributes.decode(attributes.merge(data, {"a": 2})) == {"$flow": "k", "a": 2}
    with pytest.raises(Refused, match="not the name"):
        attributes.merge(data, {"$flow": None})


def test_json_form_of_a_time() -> None:
    given = {"due": datetime(2026, 1, 1, tzinfo=UTC)}
    shown = attributes.show(attributes.encode(given))
    assert shown == {"due": {"$datetime": "2026-01-01T00:00:00+00:00"}}
    assert attributes.parse("due", shown["due"]) == given["due"]
    with pytest.raises(Refused) as refused:
        attributes.parse("due", {"$datetime": "soon"})
    assert refused.value.code == "bad_request"
    assert refused.value.message.startswith('attribute "due": {"$datetime": …} cannot be read')
