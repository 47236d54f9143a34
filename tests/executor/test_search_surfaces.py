"""Searches and bulk operations say the same over HTTP, in Python and on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from executor.core.errors import Refused, Unavailable
from executor.operations import Operation
from executor.platform import Platform, Tenant
from executor.views import BulkResult
from tests.executor.fake_service import NOW_MS
from tests.executor.surface import Perdure, Served, command_line, serving

NOW = datetime.fromtimestamp(NOW_MS / 1000, UTC)


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    with serving() as found:
        yield found


@pytest.fixture
def served(shared: Served) -> Served:
    """Five instances of acme: i0 to i3 wait, and i4 has completed."""
    shared.on_trio(shared.service.instances_.clear)
    for number in range(5):
        workflow = "Waiter" if number < 4 else "Echo"
        shared.http.post("/tenants/acme/instances", json={"workflow": workflow, "id": f"i{number}"})
    return shared


@pytest.fixture
def acme(served: Served) -> Iterator[Tenant]:
    with Platform.connect(served.url, token=served.service.admin_token) as platform:
        yield platform.tenant("acme")


# --- HTTP


def test_where_is_json_in_the_query(served: Served) -> None:
    def listed(**query: str) -> list[str]:
        answer = served.http.get("/tenants/acme/instances", params=query)
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    assert listed(state="waiting,complete", where='{"urgent": {"exists": false}}', order_by="created") == [
        "i0",
        "i1",
        "i2",
        "i3",
        "i4",
    ]
    assert listed(where='[["customer", "=", "acme"]]') == []
    assert listed(where="", limit="2") == ["i4", "i3"]
    assert listed(created_from_ms=str(NOW_MS + 1)) == []
    count = served.http.get("/tenants/acme/instance-count", params={"state": "waiting"})
    assert count.json() == {"count": 4, "is_more": False}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"where": "{"}, "where is not JSON: Input data was truncated"),
        ({"where": '{"amount": {"~": 5}}'}, 'the condition on "amount" is wrong: "~" is no operator'),
        ({"state": "waiting,gone"}, "'gone' is no state of an instance"),
        ({"order_by": "1"}, "'1' is no order"),
    ],
)
def test_what_is_not_understood_is_a_bad_request(served: Served, query: dict[str, str], message: str) -> None:
    answer = served.http.get("/tenants/acme/instances", params=query)
    assert (answer.status_code, answer.json()["code"], answer.json()["message"]) == (400, "bad_request", message)


def test_bulk_over_http_takes_conditions_as_json(served: Served) -> None:
    wanted = {"operation": "terminate", "where": {"customer": "acme"}}
    answer = served.http.post("/tenants/acme/bulk", json=wanted)
    assert answer.json()["matched"] == 0
    first = served.http.post("/tenants/acme/bulk", json={"operation": "terminate", "limit": 3}).json()
    assert (first["matched"], first["done"], first["failed"]) == (3, 2, 1)
    assert [(error["id"], error["error"]["code"]) for error in first["errors"]] == [("i4", "instance_finished")]
    rest = served.http.post(
        "/tenants/acme/bulk", json={"operation": "terminate", "limit": 3, "after": first["next"]}
    ).json()
    assert (rest["matched"], rest["done"], rest["next"]) == (2, 2, None)


@pytest.mark.parametrize("body", [{}, {"operation": "explode"}, {"operation": "pause", "limit": 1001}])
def test_a_bulk_operation_that_there_is_not_is_a_bad_request(served: Served, body: dict[str, object]) -> None:
    answer = served.http.post("/tenants/acme/bulk", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_who_may_only_read_changes_nothing_in_bulk(served: Served) -> None:
    answer = served.http.post("/tenants/acme/bulk", json={"operation": "pause"}, headers=served.bearer("acme", "read"))
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


# --- Python


def test_a_search_in_python(acme: Tenant) -> None:
    assert [row.id for row in acme.instances(state=["waiting"], where={"due": {"exists": False}}, limit=2)] == [
        "i3",
        "i2",
    ]
    assert acme.instances(where={"due": NOW}) == []
    assert acme.count(created_from=NOW, updated_to=NOW) == acme.count(where=[("a", ">", 1)])
    assert acme.count(state=["waiting", "complete"]).count == 5


def test_bulk_in_python_reads_as_many_portions_as_it_needs(
    acme: Tenant, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executor.platform.blocking.search.PAGE", 2)
    result = acme.bulk("terminate")
    assert (result.matched, result.done, result.failed, result.next) == (5, 4, 1, None)
    assert [error.id for error in result.errors] == ["i4"]


def test_bulk_in_python_stops_at_its_limit(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.platform.blocking.search.PAGE", 2)
    result = acme.bulk("pause", state="waiting", limit=3)
    assert (result.matched, result.done) == (3, 3)
    assert acme.count(state="paused").count == 3


def test_a_dry_run_in_python_changes_nothing(acme: Tenant) -> None:
    assert acme.bulk("delete", workflow="Echo", dry_run=True) == BulkResult(matched=1, ids=["i4"])
    assert acme.count().count == 5


def test_what_was_done_before_an_error_is_told_with_it(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.platform.blocking.search.PAGE", 2)
    transport, calls = acme._caller._transport, []
    whole = transport.call

    def failing(operation: Operation, path: tuple[str, ...], arguments: Any) -> Any:
        calls.append(operation.name)
        if calls.count("bulk") == 2:
            raise Unavailable("busy", code="busy")
        return whole(operation, path, arguments)

    monkeypatch.setattr(transport, "call", failing)
    with pytest.raises(Unavailable) as raised:
        acme.bulk("pause", state="waiting")
    assert raised.value.details["so_far"]["done"] == 2


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"limit": 0}, "limit is 0."),
        ({"state": []}, "'' is no state of an instance"),
        ({"created_from": datetime(2026, 1, 1)}, "created_from is no datetime with a time zone"),
        ({"where": {"a": object()}}, 'the condition on "a" is wrong: attribute "a" is of type object'),
    ],
)
def test_a_mistake_in_python_never_means_everything(acme: Tenant, wanted: dict[str, object], message: str) -> None:
    with pytest.raises(Refused) as refused:
        acme.bulk("terminate", **wanted)  # type: ignore[arg-type]
    assert refused.value.code == "bad_request"
    assert refused.value.message.startswith(message)
    assert acme.count(state="terminated").count == 0


# --- the command line


@pytest.fixture
def perdure(served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Perdure:
    run = command_line(served, capsys, monkeypatch)
    return lambda *arguments: run("instances", *arguments, "-t", "acme")


def test_a_search_on_the_command_line(perdure: Perdure) -> None:
    code, out, _ = perdure("list", "--where", "!urgent", "--state", "waiting", "--order-by", "created", "--json")
    assert (code, [row["id"] for row in json.loads(out)]) == (0, ["i0", "i1", "i2", "i3"])
    code, out, _ = perdure("list", "--where", "customer=acme", "--where", "amount>5", "--json")
    assert (code, json.loads(out)) == (0, [])
    code, out, _ = perdure("list", "--created-from", "2031-01-01", "--json")
    assert (code, json.loads(out)) == (0, [])
    code, _, err = perdure("list", "--where", "a b")
    assert (code, err.splitlines()[0]) == (2, 'error: "a b" is no condition [bad_request]')


def test_bulk_on_the_command_line_asks_first(perdure: Perdure) -> None:
    code, out, err = perdure("bulk", "terminate", "--state", "waiting")
    assert (code, out) == (2, "")
    assert err.startswith("error: terminate 4 instances of acme? Nobody is there to confirm it.")
    code, out, _ = perdure("bulk", "terminate", "--state", "waiting", "--dry-run")
    assert (code, out) == (0, "4 instances would be asked to terminate.\n  i3\n  i2\n  i1\n  i0\n")
    code, out, _ = perdure("bulk", "terminate", "--yes")
    assert code == 4
    assert out == (
        '5 instances: 4 done, 0 unchanged, 1 refused.\n  i4: instance "i4" has already ended [instance_finished]\n'
    )
    code, out, _ = perdure("bulk", "delete", "--limit", "2", "--yes", "--json")
    assert (code, json.loads(out)["done"]) == (0, 2)
