"""Finding instances by their attributes; each law with all, none and some of it folded."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from facets import Condition, Query, Record, Refused, RowUpdate, StateStore, attributes, listing, ranges, search
from tests.facets.making import names, record

DAY = datetime(2026, 3, 1, tzinfo=UTC)
ROW_BY_KEY = "SEARCH instance USING INTEGER PRIMARY KEY (rowid=?)"


def has(instance: str, sequence: int = 1, *, tenant: str = "acme", state: str = "waiting", **found: Any) -> Record:
    made = record(instance, sequence, tenant=tenant, state=state)
    row = made.row
    content = msgspec.msgpack.encode(dict(sorted(found.items()))) if found else b""
    return Record(
        tenant,
        instance,
        sequence,
        made.entry,
        None,
        RowUpdate(row.state, None, row.workflow, row.commit, 1000, 1000 + sequence, b"", content),
    )


def where(name: str, operator: Any, *values: Any) -> Query:
    return Query(where=(Condition(name, operator, values),))


@pytest.fixture(params=["in the tail", "folded", "half of it folded"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateStore]:
    with StateStore.open(tmp_path, fold="manual") as store:
        store.append(
            [
                has("a", customer="acme", amount=5, due=DAY),
                has("b", customer="acme", amount=7.5, urgent=True),
                has("c", customer="globex", amount=-1),
                has("d"),
                has("e", customer="acme corp", amount="5"),
                has("x", tenant="other", customer="acme", amount=5),
                has("changed", customer="acme", amount=1),
                has("cleared", customer="acme"),
                has("gone", customer="acme"),
            ]
        )
        if request.param != "in the tail":
            store.fold()
        store.append([has("changed", 2, customer="initech"), has("cleared", 2), has("d", 0, amount=9)])
        store.delete("acme", "gone")
        if request.param == "folded":
            store.fold()
        yield store


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        (("customer", "=", "acme"), ["b", "a"]),
        (("customer", "!=", "acme"), ["changed", "e", "c"]),
        (("customer", "in", "acme", "globex", 7), ["c", "b", "a"]),
        (("customer", "in"), []),
        (("customer", "prefix", "acme"), ["e", "b", "a"]),
        (("customer", "prefix", ""), ["changed", "e", "c", "b", "a"]),
        (("customer", "exists", False), ["cleared", "d"]),
        (("amount", "exists", True), ["e", "d", "c", "b", "a"]),
        (("amount", "=", 5), ["a"]),
        (("amount", "=", 5.0), ["a"]),
        (("amount", "=", "5"), ["e"]),
        (("amount", "!=", 5), ["e", "d", "c", "b"]),
        (("amount", ">", 5), ["d", "b"]),
        (("amount", ">=", 5), ["d", "b", "a"]),
        (("amount", "<", 5), ["c"]),
        (("amount", "<=", 5.5), ["c", "a"]),
        (("urgent", "=", True), ["b"]),
        (("urgent", "=", 1), []),
        (("due", "<=", DAY), ["a"]),
        (("due", "<", DAY), []),
        (("due", ">", "2025"), []),
        (("nothing", "exists", True), []),
        (("nothing", "!=", 1), []),
    ],
)
def test_a_condition_is_about_one_attribute_and_kinds_do_not_mix(
    filled: StateStore, condition: tuple[Any, ...], found: list[str]
) -> None:
    wanted = where(*condition)
    assert names(filled.list("acme", wanted)[0]) == found
    assert filled.matches("acme", wanted) == len(found)


def test_conditions_add_up(filled: StateStore) -> None:
    both = Query(where=(Condition("amount", ">", (-5,)), Condition("amount", "<", (6,))))
    assert names(filled.list("acme", both)[0]) == ["c", "a"]
    other = Query(where=(Condition("customer", "=", ("acme",)), Condition("urgent", "exists", (False,))))
    assert names(filled.list("acme", other)[0]) == ["a"]


def test_an_instance_carries_its_attributes(filled: StateStore) -> None:
    row = filled.row("acme", "a")
    assert row is not None
    assert attributes.decode(row.attributes) == {"customer": "acme", "amount": 5, "due": DAY}
    cleared = filled.row("acme", "cleared")
    assert cleared is not None
    assert cleared.attributes == b""


@pytest.mark.parametrize(
    ("order", "is_descending", "found"),
    [
        # Numbers before texts; those without the attribute last, whichever way.
        ("attributes.amount", False, ["c", "a", "b", "d", "e", "cleared", "changed"]),
        ("attributes.amount", True, ["e", "d", "b", "a", "c", "cleared", "changed"]),
        ("attributes.customer", False, ["a", "b", "e", "c", "changed", "cleared", "d"]),
        ("created", False, ["a", "b", "c", "d", "e", "changed", "cleared"]),
        ("updated", True, ["cleared", "changed", "e", "c", "b", "a", "d"]),
        ("updated", False, ["d", "a", "b", "c", "e", "changed", "cleared"]),
    ],
)
@pytest.mark.parametrize("sorted_max", [-1, 2000])
def test_orders_and_their_pages(
    filled: StateStore,
    order: str,
    is_descending: bool,
    found: list[str],
    sorted_max: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("facets.ranges.SORTED_MAX", sorted_max)
    wanted = Query(order=order, is_descending=is_descending)
    assert names(filled.list("acme", wanted)[0]) == found
    for limit in (1, 2, 3):
        cursor, pages = None, []
        while True:
            rows, cursor = filled.list("acme", wanted, limit=limit, after=cursor)
            pages += names(rows)
            if cursor is None:
                break
        assert pages == found


def test_many_matches_are_met_along_the_order_and_few_are_sorted_with_one_outcome(
    filled: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = [
        Query(where=(Condition("customer", "prefix", ("a",)),), order=order, is_descending=is_descending)
        for order in ("created", "updated", "attributes.amount", "attributes.due")
        for is_descending in (False, True)
    ]
    sorted_ones = [names(filled.list("acme", wanted)[0]) for wanted in searches]
    monkeypatch.setattr("facets.ranges.SORTED_MAX", -1)
    assert [names(filled.list("acme", wanted)[0]) for wanted in searches] == sorted_ones


@pytest.mark.parametrize("is_folded", [True, False])
def test_kinds_stand_one_behind_the_other_where_a_listing_is_in_their_order(tmp_path: Path, is_folded: bool) -> None:
    in_order = [False, True, -(2**63), -1.5, 0, 0.5, 2**63 - 1, DAY, datetime(2030, 1, 1, tzinfo=UTC), "", "0", "a"]
    with StateStore.open(tmp_path, fold="manual") as store:
        given = list(enumerate(in_order))
        store.append([has(f"i{at}", k=value) for at, value in given[::2] + given[1::2]])
        store.append([has("none")])
        if is_folded:
            store.fold()
        expected = [f"i{at}" for at, _ in given]
        for is_descending, found in ((False, [*expected, "none"]), (True, [*expected[::-1], "none"])):
            rows, _ = store.list("acme", Query(order="attributes.k", is_descending=is_descending), limit=100)
            assert names(rows) == found


def test_a_cursor_is_of_one_order(filled: StateStore) -> None:
    _, cursor = filled.list("acme", Query(order="updated"), limit=1)
    with pytest.raises(Refused) as caught:
        filled.list("acme", Query(order="updated", is_descending=False), after=cursor)
    assert caught.value.code == "cursor_invalid"
    assert caught.value.message == "The cursor is of a listing in the order of -updated, not of updated."
    with pytest.raises(Refused, match="not of -created"):
        filled.list("acme", after=cursor)


def test_a_count_says_that_there_are_more(filled: StateStore) -> None:
    assert filled.matches("acme", limit=7) == 7
    assert filled.matches("acme", limit=6) == 7
    assert filled.matches("acme", limit=2) == 3


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (Query(order="size"), "'size' is no order"),
        (Query(order="attributes."), "'attributes.' is no order"),
        (where("a", "="), "'=' takes one value"),
        (where("a", "like", "b"), "'like' is no operator"),
        (where("a", "prefix", 1), "a prefix is text"),
        (where("a", "=", None), "of attribute 'a': An instance's attributes cannot be read: NoneType is no value"),
    ],
)
def test_a_search_that_means_nothing_is_refused(filled: StateStore, wanted: Query, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        filled.list("acme", wanted)
    assert caught.value.code == "query_invalid"
    assert caught.value.message.startswith(f"This search means nothing: {reason}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xc1", "its attributes are damaged"),
        (msgspec.msgpack.encode([1]), "its attributes are damaged"),
        (msgspec.msgpack.encode({"a": None}), "its attributes are damaged"),
        (msgspec.msgpack.encode({"": 1}), "names of attributes have 1 to 100 characters"),
        (msgspec.msgpack.encode({"a": "x" * 70_000}), "its attributes have 70008 bytes, the limit is 65536"),
    ],
)
def test_bytes_that_are_no_attributes_are_not_appended(filled: StateStore, content: bytes, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        filled.append([Record("acme", "z", 1, b"", None, RowUpdate("waiting", None, "W", "c", 1, 1, b"", content))])
    assert caught.value.code == "attributes_invalid"
    assert reason in caught.value.message
    assert filled.row("acme", "z") is None


def test_an_instance_without_attributes_has_no_row_of_them(filled: StateStore) -> None:
    filled.fold()
    with filled._readers.snapshot() as snapshot:
        found = snapshot.connection.execute("SELECT count(*) FROM attribute_set").get
        rows = snapshot.connection.execute("SELECT count(*) FROM attribute").get
    assert (found, rows) == (7, 14)
    assert filled.check() == []
    filled.delete_tenant("acme")
    filled.fold()
    with filled._readers.snapshot() as snapshot:
        assert snapshot.connection.execute("SELECT count(*) FROM attribute").get == 2
    assert filled.check() == []


def test_a_damaged_index_is_found(filled: StateStore) -> None:
    filled.fold()
    filled._writer.execute("DELETE FROM attribute WHERE name = 'due'")
    filled._writer.execute("UPDATE attribute SET value = 'acme inc' WHERE name = 'customer' AND value = 'globex'")
    problems = [problem.split(": ")[1] for problem in filled.check()]
    assert problems == [
        "attribute 'due' of the instance with key 1 is not in its index",
        "attribute 'customer' of the instance with key 3 is not in its index",
        "the index of attributes has rows that no instance has",
    ]


@pytest.mark.parametrize(
    ("wanted", "plan"),
    [
        (Query(order="updated"), ["SEARCH instance USING INDEX instance_updated (tenant=?)"]),
        (
            Query(order="attributes.amount"),
            ["SEARCH attribute USING PRIMARY KEY (tenant=? AND name=?)", ROW_BY_KEY],
        ),
        (
            where("customer", "=", "acme"),
            ["SEARCH attribute USING PRIMARY KEY (tenant=? AND name=? AND kind=? AND value=?)", ROW_BY_KEY],
        ),
    ],
)
def test_a_search_is_a_walk_along_an_index_without_sorting(
    filled: StateStore, wanted: Query, plan: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facets.ranges.SORTED_MAX", -1)
    filled.fold()
    asked: list[tuple[str, Any]] = []

    def note(_cursor: object, sql: str, values: Any) -> bool:
        asked.append((sql, values))
        return True

    view = filled._tail.view()
    with filled._readers.snapshot() as snapshot:
        snapshot.connection.set_exec_trace(note)
        listing.list_rows(snapshot, view, "acme", wanted, after=None, limit=10)
        snapshot.connection.set_exec_trace(None)
        [(sql, values)] = [one for one in asked if "tail_first" not in one[0] and "summary" in one[0]][:1]
        told = [row[3] for row in snapshot.connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    tables = [line for line in told if "B-TREE" in line or line.split()[1:2] in (["attribute"], ["instance"])]
    assert tables == plan


def test_texts_are_in_the_order_of_code_points_also_behind_the_surrogates() -> None:
    assert ranges._after_prefix("ab") == "ac"
    assert ranges._after_prefix("\ud7ff") == "\ue000"
    assert ranges._after_prefix("a\U0010ffff") == "b"
    assert ranges._after_prefix("\U0010ffff") is None
    assert ranges._after_prefix("") is None


def test_a_cursor_of_strange_content_is_refused() -> None:
    for place in ((0, ("x",)), (0, (1, 2)), (1, (1,)), (0, (2**70,)), (0, ()), (7, (1,))):
        text = search.cursor(Query(), search.Place(*place)) if 2**70 not in place[1] else "AA"
        with pytest.raises(Refused):
            search.read_cursor(Query(), text)
