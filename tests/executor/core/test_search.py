"""The words of a search: what is understood, and what is refused by its name."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.core import search
from executor.core.errors import Refused
from executor.core.search import Condition, Query

DAY = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (None, ()),
        ("", ()),
        ({}, ()),
        ([], ()),
        ({"customer": "acme"}, (Condition("customer", "=", ("acme",)),)),
        ({"amount": {">": 5, "<=": 10}}, (Condition("amount", ">", (5,)), Condition("amount", "<=", (10,)))),
        (
            [("amount", "!=", 1), ["amount", "!=", 2]],
            (Condition("amount", "!=", (1,)), Condition("amount", "!=", (2,))),
        ),
        ({"stage": {"in": ["a", "b"]}}, (Condition("stage", "in", ("a", "b")),)),
        ({"urgent": {"exists": False}}, (Condition("urgent", "exists", (False,)),)),
        ({"name": {"prefix": "ac"}}, (Condition("name", "prefix", ("ac",)),)),
        ({"due": DAY}, (Condition("due", "=", (DAY,)),)),
        ('{"due": {"$datetime": "2026-03-01T00:00:00+00:00"}}', (Condition("due", "=", (DAY,)),)),
        ('{"due": {"<": {"$datetime": "2026-03-01T01:00:00+01:00"}}}', (Condition("due", "<", (DAY,)),)),
        ('[["urgent", "=", true]]', (Condition("urgent", "=", (True,)),)),
    ],
)
def test_conditions_are_read(where: Any, found: tuple[Condition, ...]) -> None:
    assert search.parse_where(where) == found


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("{", "where is not JSON: Input data was truncated"),
        (5, "where is of type int"),
        (b"x", "where is of type bytes"),
        (["amount"], '"amount" in where is no condition'),
        ([["amount", ">"]], "['amount', '>'] in where is no condition"),
        ({"amount": {}}, 'the condition on "amount" is wrong: no operator is given'),
        ({"amount": {"=>": 5}}, 'the condition on "amount" is wrong: "=>" is no operator'),
        ({"amount": {">": True}}, 'the condition on "amount" is wrong: ">" takes a number, a text or a time'),
        ({"amount": None}, 'the condition on "amount" is wrong: attribute "amount" is of type NoneType'),
        ({"amount": [1]}, 'the condition on "amount" is wrong: attribute "amount" is of type list'),
        ({"amount": {"in": "abc"}}, 'the condition on "amount" is wrong: "in" takes a list of values'),
        ({"amount": {"in": [1] * 101}}, 'the condition on "amount" is wrong: "in" takes 100 values at most, not 101'),
        ({"amount": {"exists": 1}}, 'the condition on "amount" is wrong: "exists" takes true or false'),
        ({"amount": {"prefix": 1}}, 'the condition on "amount" is wrong: "prefix" takes a text'),
        ({"$flow": 1}, '"$flow" is not the name of a search attribute'),
        ({f"a{n}": 1 for n in range(21)}, "more conditions in where than the limit of 20"),
    ],
)
def test_what_is_wrong_with_a_condition_is_said_by_its_name(where: Any, message: str) -> None:
    with pytest.raises(Refused) as refused:
        search.parse_where(where)
    assert (refused.value.code, refused.value.message) == ("bad_request", message)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    )
)
def test_any_json_is_understood_or_refused(where: Any) -> None:
    for form in (where, msgspec.json.encode(where).decode()):
        try:
            search.parse_where(form)
        except Refused as refused:
            assert refused.code == "bad_request"


@pytest.mark.parametrize(
    ("order_by", "found"),
    [
        (None, ("created", True)),
        ("created", ("created", False)),
        ("-created", ("created", True)),
        ("-updated", ("updated", True)),
        ("amount", ("attributes.amount", False)),
        ("-amount", ("attributes.amount", True)),
        ("attributes.created", ("attributes.created", False)),
    ],
)
def test_orders_are_read(order_by: str | None, found: tuple[str, bool]) -> None:
    assert search.parse_order(order_by) == found


@pytest.mark.parametrize("order_by", ["", "-", "--created", "a b", "attributes.", "$flow", "ü"])
def test_what_is_no_order_is_refused(order_by: str) -> None:
    with pytest.raises(Refused) as refused:
        search.parse_order(order_by)
    assert refused.value.message == f"{order_by!r} is no order"
    assert refused.value.hint == (
        "Orders are created, updated and the names of attributes; with - before it, the greatest comes first."
    )


def test_states_are_one_or_several() -> None:
    assert search.parse_states(None) == ()
    assert search.parse_states("running") == ("running",)
    assert search.parse_states("running,waiting,running") == ("running", "waiting")
    assert search.parse_states(["held", "paused"]) == ("held", "paused")
    for wrong in ("", "gone", ["running", "gone"], "running, waiting"):
        with pytest.raises(Refused, match="is no state of an instance"):
            search.parse_states(wrong)


def test_a_query_is_made_of_words() -> None:
    assert search.query() == Query() == search.EVERYTHING
    assert search.query(
        state="failed", workflow="W", where={"a": 1}, order_by="a", created_from_ms=1, updated_to_ms=2
    ) == Query(("failed",), "W", None, 1, None, None, 2, (Condition("a", "=", (1,)),), "attributes.a", False)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.sampled_from(["=", "!=", "<"]),
            st.integers(-5, 5) | st.text(max_size=3) | st.floats(-1, 1) | st.just(DAY),
        ),
        max_size=5,
    )
)
def test_the_text_that_transports_carry_means_the_same(where: list[tuple[str, str, Any]]) -> None:
    text = search.where_text(where)
    assert (text is None) == (not where)
    assert search.parse_where(text) == search.parse_where(where)


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("customer=acme", ("customer", "=", "acme")),
        ("customer = acme inc ", ("customer", "=", "acme inc")),
        ("amount>5", ("amount", ">", 5)),
        ("amount >= 5.5", ("amount", ">=", 5.5)),
        ("amount!=-1", ("amount", "!=", -1)),
        ('amount="5"', ("amount", "=", "5")),
        ("customer=a=b", ("customer", "=", "a=b")),
        ("customer=", ("customer", "=", "")),
        ("customer^=ac", ("customer", "prefix", "ac")),
        ('stage in ["a", "b"]', ("stage", "in", ["a", "b"])),
        ("urgent=true", ("urgent", "=", True)),
        ("due<2026-03-01T00:00:00+00:00", ("due", "<", DAY)),
        ("due<2026-03-01T00:00:00Z", ("due", "<", DAY)),
        ("due<2026-03-01", ("due", "<", "2026-03-01")),
        ("urgent", ("urgent", "exists", True)),
        ("!urgent", ("urgent", "exists", False)),
    ],
)
def test_a_condition_as_people_type_it(typed: str, found: tuple[str, str, Any]) -> None:
    assert search.words(typed) == found


@pytest.mark.parametrize("typed", ["", "=5", "1st=2", "a b", "!a=1"])
def test_what_is_typed_wrong_is_refused(typed: str) -> None:
    with pytest.raises(Refused, match="is no condition") as refused:
        search.words(typed)
    assert refused.value.code == "bad_request"


def test_conditions_beyond_the_limit_are_not_looked_at():
    looked = []

    class Many(list):
        def __iter__(self):
            for number in range(1_000_000):
                looked.append(number)
                yield ["a", "=", number]

    with pytest.raises(Refused, match="more conditions in where than the limit of 20"):
        search.parse_where(Many())
    assert len(looked) == 21
