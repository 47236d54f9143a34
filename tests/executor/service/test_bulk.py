"""Laws of searches and bulk operations: what they find, what they touch, and what they say of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from executor.adapters.state import FacetsStateStore
from executor.core import attributes
from executor.core.errors import Conflict, NotFound, PerdureError, Refused, Unavailable
from executor.core.lifecycle import check
from executor.core.search import Query
from executor.ports import Append, CodeSource, Instances, Row, Seen, StoredRow
from executor.service import ADMINISTRATOR, Caller, Service, ServiceOptions
from executor.service import bulk as bulks
from executor.views import BulkResult

COMMIT = "c" * 40


class Code:
    def tenant(self, name: str) -> None:
        if name != "acme":
            raise NotFound("no such tenant", code="tenant_not_found")


class Stored:
    """Instances of a store that nobody runs: an operation changes the row as the table of states says."""

    def __init__(self, store: FacetsStateStore) -> None:
        self.store = store
        self.asked: list[tuple[str, str]] = []
        self.by: set[str] = set()
        self.errors: dict[str, PerdureError] = {}
        self.under_way = self.most_under_way = 0
        self.before_each = 0
        self.progress = False

    def begin(self, name: str, state: str = "waiting", *, workflow: str = "W", at_ms: int = 0, **found: Any) -> None:
        row = Row(state, None, workflow, COMMIT, at_ms, at_ms, b"", attributes.encode(found))
        self.store.append([Append("acme", name, 1, b"entry", None, row)])

    async def page(
        self, tenant: str, query: Query, *, limit: int, after: str | None
    ) -> tuple[list[StoredRow], str | None]:
        return self.store.page(tenant, query, limit=limit, after=after)

    async def matches(self, tenant: str, query: Query) -> int:
        return self.store.matches(tenant, query)

    async def counts(self, tenant: str) -> dict[str, int]:
        return self.store.counts(tenant)

    async def _operate(self, operation: Any, tenant: str, instance: str, state: str, by: str) -> Seen:
        self.asked.append((operation, instance))
        self.by.add(by)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await trio.lowlevel.checkpoint()
            if self.before_each:
                self.before_each -= 1
                self.begin(f"late{self.before_each}")
            error = self.errors.get(instance)
            if error is not None:
                raise error
            found = self.store.row(tenant, instance)
            if found is None:
                raise NotFound("none", code="instance_not_found")
            if self.progress:
                self.store.append([Append(tenant, instance, found.sequence + 1, b"entry", None, found.row)])
            elif check(operation, cast("Any", found.row.state), instance):
                row = found.row
                changed = Row(state, None, row.workflow, row.commit, 0, 9, b"", row.attributes)
                self.store.append([Append(tenant, instance, found.sequence + 1, b"entry", None, changed)])
            seen = self.store.row(tenant, instance)
            assert seen is not None
            return Seen(seen)
        finally:
            self.under_way -= 1

    async def pause(self, tenant: str, instance: str, *, by: str) -> Seen:
        return await self._operate("pause", tenant, instance, "paused", by)

    async def resume(self, tenant: str, instance: str, *, by: str) -> Seen:
        return await self._operate("resume", tenant, instance, "queued", by)

    async def terminate(self, tenant: str, instance: str, *, by: str) -> Seen:
        return await self._operate("terminate", tenant, instance, "terminated", by)

    async def restart(self, tenant: str, instance: str, *, by: str) -> Seen:
        return await self._operate("restart", tenant, instance, "queued", by)

    async def retry(self, tenant: str, instance: str, *, by: str) -> Seen:
        return await self._operate("retry", tenant, instance, "queued", by)

    async def delete(self, tenant: str, instance: str) -> None:
        await self._operate("delete", tenant, instance, "gone", "")
        self.store.delete(tenant, instance)


class At:
    def now_ms(self) -> int:
        return 0

    async def sleep_until_ms(self, at_ms: int) -> None:
        raise AssertionError(at_ms)


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Stored]:
    store = FacetsStateStore.open(tmp_path / "state")
    yield Stored(store)
    store.close()


def service_of(stored: Stored) -> Service:
    options = ServiceOptions(admin_token="pda_admin", version="1", isolation_level=2)
    return Service(cast("Instances", stored), cast("CodeSource", Code()), At(), options)


async def listed(stored: Stored, **wanted: Any) -> list[str]:
    page = await service_of(stored).instances(ADMINISTRATOR, "acme", **wanted)
    return [view.id for view in page.items]


async def bulk(stored: Stored, operation: str, *, caller: Caller = ADMINISTRATOR, **wanted: Any) -> BulkResult:
    return await service_of(stored).bulk(caller, "acme", operation, **wanted)


# --- searches


async def test_a_search_has_states_attributes_times_and_an_order(stored: Stored) -> None:
    stored.begin("a", "running", at_ms=10, customer="acme", amount=5, due=datetime(2026, 3, 1, tzinfo=UTC))
    stored.begin("b", "waiting", at_ms=20, customer="acme", amount=7.5)
    stored.begin("c", "complete", at_ms=30, customer="globex")
    assert await listed(stored) == ["c", "b", "a"]
    assert await listed(stored, state="running,waiting") == ["b", "a"]
    assert await listed(stored, state=["complete"]) == ["c"]
    assert await listed(stored, where={"customer": "acme", "amount": {">": 5}}) == ["b"]
    assert await listed(stored, where='[["amount", "in", [5, 6]]]') == ["a"]
    assert await listed(stored, where={"due": {"<=": {"$datetime": "2026-03-01T01:00:00+01:00"}}}) == ["a"]
    assert await listed(stored, order_by="amount") == ["a", "b", "c"]
    assert await listed(stored, order_by="-amount") == ["b", "a", "c"]
    assert await listed(stored, order_by="created") == ["a", "b", "c"]
    assert await listed(stored, created_from_ms=10, created_to_ms=30) == ["b", "a"]
    assert await listed(stored, updated_from_ms=20) == ["c", "b"]
    service = service_of(stored)
    assert (await service.count(ADMINISTRATOR, "acme", where={"customer": "acme"})).count == 2


async def test_pages_go_on_in_their_order(stored: Stored) -> None:
    for number in range(5):
        stored.begin(f"i{number}", amount=number % 2)
    service, found, after = service_of(stored), [], None
    while True:
        page = await service.instances(ADMINISTRATOR, "acme", order_by="-amount", limit=2, after=after)
        found += [view.id for view in page.items]
        after = page.next
        if after is None:
            break
    assert found == ["i3", "i1", "i4", "i2", "i0"]


async def test_a_cursor_of_another_order_is_refused(stored: Stored) -> None:
    stored.begin("a")
    stored.begin("b")
    page = await service_of(stored).instances(ADMINISTRATOR, "acme", limit=1)
    with pytest.raises(Refused) as refused:
        await service_of(stored).instances(ADMINISTRATOR, "acme", order_by="updated", after=page.next)
    assert refused.value.code == "bad_request"


# --- bulk


async def test_everything_that_fits_is_done_and_nothing_else(stored: Stored) -> None:
    for number in range(6):
        stored.begin(f"i{number}", customer="acme" if number % 2 else "globex")
    result = await bulk(stored, "terminate", where={"customer": "acme"})
    assert result == BulkResult(matched=3, done=3)
    assert sorted(stored.asked) == [("terminate", "i1"), ("terminate", "i3"), ("terminate", "i5")]
    assert stored.by == {ADMINISTRATOR.who}
    assert stored.store.counts("acme") == {"terminated": 3, "waiting": 3}


async def test_a_portion_says_where_the_next_begins_and_none_comes_twice(stored: Stored) -> None:
    """Restarted ones still fit, and yet are restarted once; those that begin meanwhile are not touched."""
    for number in range(7):
        stored.begin(f"i{number}")
    stored.before_each = 3
    results, after = [], None
    while True:
        results.append(await bulk(stored, "restart", limit=3, after=after))
        after = results[-1].next
        if after is None:
            break
    assert [result.matched for result in results] == [3, 3, 1]
    assert [name for _, name in stored.asked] != []
    assert sorted(name for _, name in stored.asked) == [f"i{number}" for number in range(7)]


async def test_each_instance_has_its_own_outcome(stored: Stored) -> None:
    stored.begin("complete", "complete")
    stored.begin("held", "held")
    stored.begin("waiting")
    stored.begin("paused", "paused")
    stored.begin("broken")
    stored.errors["broken"] = Unavailable("the disk is full", code="storage_full")
    result = await bulk(stored, "pause")
    assert (result.matched, result.done, result.unchanged, result.failed) == (5, 1, 1, 3)
    assert [(error.id, error.error["code"]) for error in result.errors] == [
        ("broken", "storage_full"),
        ("held", "invalid_state"),
        ("complete", "instance_finished"),
    ]


async def test_what_failed_is_retried_at_once_and_nothing_else(stored: Stored) -> None:
    for name, state in (("a", "failed"), ("b", "failed"), ("c", "complete"), ("d", "waiting")):
        stored.begin(name, state)
    assert await bulk(stored, "retry", state="failed") == BulkResult(matched=2, done=2)
    assert sorted(stored.asked) == [("retry", "a"), ("retry", "b")]
    assert stored.by == {ADMINISTRATOR.who}
    result = await bulk(stored, "retry", state=["complete", "waiting"])
    assert [(error.id, error.error["code"]) for error in result.errors] == [
        ("d", "invalid_state"),
        ("c", "instance_finished"),
    ]


async def test_what_goes_on_by_itself_meanwhile_does_not_count_as_done(stored: Stored) -> None:
    stored.begin("a")
    stored.progress = True
    assert await bulk(stored, "resume") == BulkResult(matched=1, unchanged=1)


async def test_what_has_ended_is_no_failure_of_a_termination(stored: Stored) -> None:
    stored.begin("complete", "complete")
    stored.begin("terminated", "terminated")
    stored.begin("waiting")
    assert await bulk(stored, "terminate") == BulkResult(matched=3, done=1, unchanged=2)


async def test_what_is_gone_meanwhile_is_no_failure(stored: Stored) -> None:
    stored.begin("a", "complete")
    stored.errors["a"] = NotFound("none", code="instance_not_found")
    assert await bulk(stored, "delete") == BulkResult(matched=1, unchanged=1)


async def test_deletion_refuses_those_that_have_not_ended(stored: Stored) -> None:
    stored.begin("a", "complete")
    stored.begin("b")
    result = await bulk(stored, "delete")
    assert (result.done, result.failed, result.errors[0].error["code"]) == (1, 1, "invalid_state")
    assert await listed(stored) == ["b"]


async def test_of_many_errors_the_first_hundred_are_told_in_the_order_of_the_list(stored: Stored) -> None:
    for number in range(105):
        stored.begin(f"i{number:03}")
        stored.errors[f"i{number:03}"] = Conflict("no")
    result = await bulk(stored, "pause")
    assert (result.failed, len(result.errors)) == (105, 100)
    assert [error.id for error in result.errors] == [f"i{number:03}" for number in range(104, 4, -1)]


async def test_a_portion_of_which_nothing_was_done_can_be_asked_for_again(stored: Stored) -> None:
    for name in ("a", "b"):
        stored.begin(name)
        stored.errors[name] = Unavailable("busy", code="busy", retry_after_s=1)
    with pytest.raises(Unavailable) as raised:
        await bulk(stored, "pause")
    assert (raised.value.code, raised.value.details["retry_after_s"]) == ("busy", 1)


async def test_not_too_many_are_under_way_at_once(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulks, "CONCURRENCY", 3)
    for number in range(20):
        stored.begin(f"i{number}")
    await bulk(stored, "pause")
    assert stored.most_under_way == 3


async def test_a_dry_run_counts_names_the_first_and_changes_nothing(stored: Stored) -> None:
    for number in range(25):
        stored.begin(f"i{number:02}", customer="acme")
    result = await bulk(stored, "terminate", where={"customer": "acme"}, dry_run=True)
    assert result == BulkResult(matched=25, ids=[f"i{number:02}" for number in range(24, 4, -1)])
    assert stored.asked == []


async def test_a_count_beyond_the_bound_says_that_there_are_more(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executor.adapters.state.COUNT_MAX", 3)
    monkeypatch.setattr("executor.core.search.COUNT_MAX", 3)
    for number in range(4):
        stored.begin(f"i{number}")
    counted = await service_of(stored).count(ADMINISTRATOR, "acme")
    assert (counted.count, counted.is_more) == (3, True)
    result = await bulk(stored, "pause", dry_run=True)
    assert (result.matched, result.is_more) == (3, True)


@pytest.mark.parametrize(
    ("operation", "wanted", "message"),
    [
        ("explode", {}, "'explode' is no bulk operation"),
        ("pause", {"limit": 1001}, "limit is 1001; it is 1 to 1000"),
        ("pause", {"limit": 0}, "limit is 0; it is 1 to 1000"),
        ("pause", {"state": "gone"}, "'gone' is no state of an instance"),
        ("pause", {"where": {"a": {"~": 1}}}, 'the condition on "a" is wrong: "~" is no operator'),
    ],
)
async def test_what_is_not_understood_changes_nothing(
    stored: Stored, operation: str, wanted: dict[str, Any], message: str
) -> None:
    stored.begin("a")
    with pytest.raises(Refused) as refused:
        await bulk(stored, operation, **wanted)
    assert (refused.value.code, refused.value.message) == ("bad_request", message)
    assert stored.asked == []


async def test_readers_and_strangers_may_not(stored: Stored) -> None:
    stored.begin("a")
    with pytest.raises(Refused) as refused:
        await bulk(stored, "pause", caller=Caller("r", "acme", "read"))
    assert refused.value.code == "forbidden"
    with pytest.raises(NotFound) as missing:
        await bulk(stored, "pause", caller=Caller("s", "globex", "write"))
    assert missing.value.code == "tenant_not_found"
    assert stored.asked == []
