"""Finding instances: by time, state, tenant, workflow and commit; each law with all, none and some of it folded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from facets import Query, Refused, StateStore
from tests.facets.making import names, record

Fold = Callable[[], None]


@pytest.fixture(params=["in the tail", "folded", "half of it folded"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateStore]:
    """Nine instances of acme and one of another tenant; some have changed since they began."""
    with StateStore.open(tmp_path, fold="manual") as store:
        for number in range(9):
            store.append(
                [
                    record(
                        f"i{number}",
                        1,
                        wake=100 - 10 * number,
                        state="running" if number % 3 == 0 else "waiting",
                        workflow="Audit" if number % 2 else "Onboarding",
                        commit=f"c{number % 4}",
                    )
                ]
            )
        store.append([record("i0", 1, tenant="other", wake=55, state="running", commit="c9")])
        if request.param != "in the tail":
            store.fold()
        # i3 stops waiting for the clock, i7 waits longer, i8 is done, i6 moves to another commit.
        store.append([record("i3", 2, state="complete", workflow="Audit", commit="c3")])
        store.append([record("i7", 2, state="waiting", wake=5000, workflow="Audit", commit="c3")])
        store.append([record("i8", 0, state="complete", commit="c0")])
        store.append([record("i6", 2, state="running", wake=40, commit="c7")])
        if request.param == "folded":
            store.fold()
        yield store


def test_due_is_everything_up_to_now_earliest_first(filled: StateStore) -> None:
    assert names(filled.due(60, limit=100)) == ["i6", "i5", "i0", "i4"]
    assert [row.tenant for row in filled.due(60, limit=100)] == ["acme", "acme", "other", "acme"]
    assert names(filled.due(60, limit=2)) == ["i6", "i5"]
    assert names(filled.due(39, limit=100)) == []
    assert names(filled.due(40, limit=100)) == ["i6"]
    assert names(filled.due(10_000, limit=100)) == ["i6", "i5", "i0", "i4", "i2", "i1", "i0", "i7"]


def test_one_that_was_put_off_does_not_take_the_place_of_one_that_is_due_sooner(tmp_path: Path) -> None:
    """The database still has its old time, which comes first there."""
    with StateStore.open(tmp_path, fold="manual") as store:
        store.append([record("put off", 1, wake=1), record("sooner", 1, wake=3), record("later", 1, wake=30)])
        store.fold()
        store.append([record("put off", 2, wake=15)])
        assert names(store.due(20, limit=1)) == ["sooner"]
        assert names(store.due(20, limit=2)) == ["sooner", "put off"]
        assert names(store.due(40, limit=5)) == ["sooner", "put off", "later"]


def test_listing_by_a_commit_of_many_versions_is_the_same_by_either_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StateStore.open(tmp_path, fold="manual") as store:
        for number in range(60):
            store.append([record(f"i{number:02}", 1, workflow=f"W{number % 20}", commit=f"c{number % 2}")])
        store.fold()
        by_versions = [
            names(store.list("acme", Query(commit="c1"), limit=7)[0]),
            names(store.list("acme", Query(workflow="W3"))[0]),
        ]
        monkeypatch.setattr("facets.ranges.VERSION_COUNT_MAX", 0)
        assert by_versions == [
            names(store.list("acme", Query(commit="c1"), limit=7)[0]),
            names(store.list("acme", Query(workflow="W3"))[0]),
        ]
        assert by_versions[1] == ["i43", "i23", "i03"]


def test_next_wake_is_the_earliest_and_follows_what_happens(filled: StateStore) -> None:
    assert filled.next_wake_ms() == 40
    filled.append([record("i6", 0, state="running")])
    assert filled.next_wake_ms() == 50
    filled.append([record("late", 1, wake=1)])
    assert filled.next_wake_ms() == 1
    filled.delete("acme", "late")
    assert filled.next_wake_ms() == 50
    filled.delete_tenant("acme")
    assert filled.next_wake_ms() == 55
    filled.delete_tenant("other")
    assert filled.next_wake_ms() is None
    assert filled.due(10_000, limit=10) == []


def test_list_is_newest_first_and_filters_add_up(filled: StateStore) -> None:
    assert names(filled.list("acme")[0]) == [f"i{number}" for number in range(8, -1, -1)]
    assert names(filled.list("acme", Query(states=("complete",)))[0]) == ["i8", "i3"]
    assert names(filled.list("acme", Query(workflow="Audit"))[0]) == ["i7", "i5", "i3", "i1"]
    assert names(filled.list("acme", Query(commit="c0"))[0]) == ["i8", "i4", "i0"]
    assert names(filled.list("acme", Query(commit="c3", states=("waiting",), workflow="Audit"))[0]) == ["i7"]
    assert names(filled.list("acme", Query(commit="c2"))[0]) == ["i2"]
    assert names(filled.list("other")[0]) == ["i0"]
    assert filled.list("nobody") == ([], None)


def test_pages_join_to_the_whole_list_even_if_instances_begin_meanwhile(filled: StateStore) -> None:
    pages: list[list[str]] = []
    cursor = None
    while True:
        rows, cursor = filled.list("acme", limit=2, after=cursor)
        pages.append(names(rows))
        filled.append([record(f"new{len(pages)}", 1)])
        if cursor is None:
            break
    assert pages == [["i8", "i7"], ["i6", "i5"], ["i4", "i3"], ["i2", "i1"], ["i0"]]


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "²", "9" * 30])
def test_cursor_that_is_none_is_refused(filled: StateStore, cursor: str) -> None:
    with pytest.raises(Refused) as caught:
        filled.list("acme", after=cursor)
    assert caught.value.code == "cursor_invalid"


def test_count_is_by_state_and_by_tenant(filled: StateStore) -> None:
    assert filled.count("acme") == {"running": 2, "waiting": 5, "complete": 2}
    assert filled.count("other") == {"running": 1}
    assert filled.count("nobody") == {}


def test_commits_are_those_of_present_instances_only(filled: StateStore) -> None:
    assert filled.commits("acme") == {"c0", "c1", "c2", "c3", "c7"}
    filled.delete("acme", "i2")
    assert filled.commits("acme") == {"c0", "c1", "c3", "c7"}
    assert filled.commits("other") == {"c9"}


def test_in_states_goes_over_all_tenants_oldest_first_in_pages(filled: StateStore) -> None:
    found = filled.in_states(["running", "complete"], limit=100)
    assert [(row.tenant, row.instance) for row in found] == [
        ("acme", "i0"),
        ("acme", "i3"),
        ("acme", "i6"),
        ("acme", "i8"),
        ("other", "i0"),
    ]
    first = filled.in_states({"running", "complete"}, limit=2)
    second = filled.in_states({"running", "complete"}, limit=2, after=first[-1].generation)
    assert names(first) + names(second) == ["i0", "i3", "i6", "i8"]
    assert filled.in_states([], limit=5) == []


@pytest.mark.parametrize(
    ("where", "index"),
    [
        ("wake_at_ms IS NOT NULL ORDER BY wake_at_ms", "instance_wake"),
        ("wake_at_ms IS NOT NULL AND wake_at_ms <= 5 ORDER BY wake_at_ms, key", "instance_wake"),
        ("tenant = 1 AND state = 2 AND key > 0 ORDER BY key", "instance_state"),
        ("tenant = 1 AND state = 2 AND key < 9 ORDER BY key DESC", "instance_state"),
        ("version = 1 AND state = 2 AND key < 9 ORDER BY key DESC", "instance_version"),
        ("tenant = 1 AND instance = 'i1'", "instance_name"),
    ],
)
def test_every_query_is_a_range_of_an_index_without_sorting(filled: StateStore, where: str, index: str) -> None:
    filled.fold()
    with filled._readers.snapshot() as snapshot:
        plan = [
            row[3] for row in snapshot.connection.execute(f"EXPLAIN QUERY PLAN SELECT * FROM instance WHERE {where}")
        ]
    assert len(plan) == 1, plan
    assert f"USING INDEX {index}" in plan[0]
