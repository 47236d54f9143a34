"""Laws of the HTTP API: each operation, its errors, and who may do it."""

from __future__ import annotations

import base64
import socket
import time

import pytest

from executor.operations import API_PREFIX, OPERATIONS
from tests.executor.surface import Served

WRONG_TOKEN = {"Authorization": "Bearer pdt_no-such-token"}


def _path(name: str) -> str:
    """The operation's path, for tenant acme and things that do not exist."""
    path = OPERATIONS[name].path.replace("{tenant}", "acme").replace(":path}", "}")
    for parameter in OPERATIONS[name].parameters:
        path = path.replace("{" + parameter + "}", "nothing")
    return path


PROTECTED = [name for name, row in OPERATIONS.items() if row.access != "none"]


@pytest.mark.parametrize("headers", [{}, WRONG_TOKEN, {"Authorization": "Basic eDp5"}], ids=["none", "wrong", "basic"])
def test_every_operation_refuses_who_has_no_valid_token(served: Served, headers: dict[str, str]) -> None:
    for name in PROTECTED:
        answer = served.stranger.request(
            OPERATIONS[name].method, API_PREFIX + _path(name), headers=headers, content=b"not even JSON"
        )
        assert (name, answer.status_code, answer.json()["code"]) == (name, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == 'Bearer realm="Perdure"'


def test_another_tenants_things_are_not_found_whether_they_exist_or_not(served: Served) -> None:
    started = served.http.post("/tenants/umbrella/instances", json={"workflow": "Waiter", "id": "secret"})
    assert started.status_code == 200
    headers = served.bearer("acme")
    for path in ("/tenants/umbrella", "/tenants/umbrella/instances/secret", "/tenants/umbrella/versions"):
        exists = served.stranger.get(API_PREFIX + path, headers=headers)
        absent = served.stranger.get(API_PREFIX + path.replace("umbrella", "nobody"), headers=headers)
        assert exists.status_code == absent.status_code == 404
        assert exists.text.replace("umbrella", "nobody") == absent.text
        assert exists.json()["code"] == "tenant_not_found"


def test_a_read_token_cannot_write(served: Served) -> None:
    headers = served.bearer("acme", "read")
    assert served.stranger.get(API_PREFIX + "/tenants/acme/instances", headers=headers).status_code == 200
    answer = served.stranger.post(API_PREFIX + "/tenants/acme/instances", headers=headers, json={"workflow": "Echo"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_a_tenants_token_cannot_administer(served: Served) -> None:
    headers = served.bearer("acme")
    for method, path in (("GET", "/tenants"), ("DELETE", "/tenants/acme"), ("GET", "/tenants/acme/tokens")):
        answer = served.stranger.request(method, API_PREFIX + path, headers=headers)
        assert (path, answer.status_code, answer.json()["code"]) == (path, 403, "forbidden")


def test_a_revoked_token_opens_nothing(served: Served) -> None:
    made = served.http.post("/tenants/acme/tokens", json={"label": "ci"}).json()
    headers = {"Authorization": f"Bearer {made['secret']}"}
    assert served.stranger.get(API_PREFIX + "/tenants/acme", headers=headers).status_code == 200
    assert served.http.delete(f"/tenants/acme/tokens/{made['id']}").status_code == 204
    assert served.stranger.get(API_PREFIX + "/tenants/acme", headers=headers).status_code == 401


def test_a_tokens_secret_is_in_the_first_answer_only(served: Served) -> None:
    secret = served.token("acme")
    assert served.http.get("/tenants/acme/tokens").json()[0]["secret"] is None
    assert secret not in served.http.get("/tenants/acme/tokens").text


def test_values_that_are_not_json_travel_marked(served: Served) -> None:
    payload = {
        "file": {"$bytes": base64.b64encode(b"\x00\xff").decode()},
        "at": {"$datetime": "2026-01-02T03:04:05+00:00"},
    }
    started = served.http.post("/tenants/acme/instances", json={"workflow": "Echo", "payload": payload, "id": "i"})
    assert started.json()["output"] == payload
    assert served.http.get("/tenants/acme/instances/i/result").json() == {"output": payload}
    journal = served.http.get("/tenants/acme/instances/i/journal").json()
    assert journal[0]["fields"]["payload"] == payload


def test_deploying_takes_text_and_base64(served: Served) -> None:
    files = {"workflows.py": "class A(Workflow): ...", "logo.png": {"base64": base64.b64encode(b"\x89PNG").decode()}}
    made = served.http.post("/tenants/acme/deployments", json={"files": files, "message": "logo"})
    assert made.status_code == 201
    commit = made.json()["commit"]
    assert served.http.get(f"/tenants/acme/versions/{commit}/files").json() == {"workflows.py": 22, "logo.png": 4}
    logo = served.http.get(f"/tenants/acme/versions/{commit}/files/logo.png")
    assert logo.content == b"\x89PNG"
    # A tenant's file must never run as a page of the platform's origin.
    assert logo.headers["content-disposition"] == "attachment"
    assert logo.headers["x-content-type-options"] == "nosniff"


def test_a_broken_deployment_is_refused_with_its_place(served: Served) -> None:
    answer = served.http.post("/tenants/acme/deployments", json={"files": {"workflows.py": "def f(:\n"}})
    assert (answer.status_code, answer.json()["code"]) == (422, "deploy_refused")
    assert answer.json()["details"]["diagnostics"][0]["path"] == "workflows.py"
    assert answer.json()["details"]["diagnostics"][0]["line"] == 1


def test_starting_twice_is_one_instance_and_another_payload_is_a_conflict(served: Served) -> None:
    body = {"workflow": "Waiter", "payload": 1, "id": "once"}
    first = served.http.post("/tenants/acme/instances", json=body).json()
    assert served.http.post("/tenants/acme/instances", json=body).json() == first
    answer = served.http.post("/tenants/acme/instances", json={**body, "payload": 2})
    assert (answer.status_code, answer.json()["code"], answer.json()["family"]) == (409, "instance_exists", "conflict")


def test_each_start_of_a_batch_has_its_own_outcome(served: Served) -> None:
    requests = [{"workflow": "Echo", "payload": 7}, {"workflow": "Nothing"}]
    outcomes = served.http.post("/tenants/acme/instances/batch", json={"requests": requests}).json()
    assert outcomes[0]["status"]["output"] == 7
    assert outcomes[1]["error"]["code"] == "unknown_workflow"


def test_a_result_is_the_output_or_the_reason_why_there_is_none(served: Served) -> None:
    for workflow in ("Waiter", "Broken"):
        served.http.post("/tenants/acme/instances", json={"workflow": workflow, "id": workflow})
    early = served.http.get("/tenants/acme/instances/Waiter/result")
    assert (early.status_code, early.json()["code"]) == (504, "timeout")
    failed = served.http.get("/tenants/acme/instances/Broken/result")
    assert (failed.status_code, failed.json()["code"]) == (422, "workflow_failed")
    assert failed.json()["message"] == 'instance "Broken" failed: ValueError: no luck'
    served.http.post("/tenants/acme/instances/Waiter/terminate")
    ended = served.http.get("/tenants/acme/instances/Waiter/result")
    assert (ended.status_code, ended.json()["code"]) == (409, "instance_terminated")


def test_an_event_counts_once_by_its_id(served: Served) -> None:
    served.http.post("/tenants/acme/instances", json={"workflow": "Waiter", "id": "w"})
    send = {"type": "note", "payload": {"n": 1}, "event_id": "e1"}
    assert served.http.post("/tenants/acme/instances/w/events", json=send).json()["is_duplicate"] is False
    assert served.http.post("/tenants/acme/instances/w/events", json=send).json()["is_duplicate"] is True
    other = served.http.post("/tenants/acme/instances/w/events", json={**send, "payload": 2})
    assert (other.status_code, other.json()["code"]) == (409, "event_exists")
    served.http.post("/tenants/acme/instances/w/events", json={"type": "go"})
    late = served.http.post("/tenants/acme/instances/w/events", json={"type": "go"})
    assert (late.status_code, late.json()["code"]) == (409, "instance_finished")


def test_lists_are_paged_newest_first(served: Served) -> None:
    for number in range(5):
        served.http.post("/tenants/acme/instances", json={"workflow": "Waiter", "id": f"i{number}"})
    page = served.http.get("/tenants/acme/instances", params={"limit": 3, "state": "waiting"}).json()
    assert [item["id"] for item in page["items"]] == ["i4", "i3", "i2"]
    rest = served.http.get("/tenants/acme/instances", params={"limit": 3, "after": page["next"]}).json()
    assert ([item["id"] for item in rest["items"]], rest["next"]) == (["i1", "i0"], None)


def test_rolling_back_and_pinning_move_the_channel(served: Served) -> None:
    first = served.http.get("/tenants/acme/channels").json()[0]["commit"]
    second = served.http.post("/tenants/acme/deployments", json={"files": {"workflows.py": "x = 1"}}).json()["commit"]
    move = served.http.post("/tenants/acme/rollback", json={"why": "broken"}).json()
    assert (move["from_commit"], move["to_commit"], move["kind"], move["why"]) == (second, first, "rollback", "broken")
    assert served.http.post("/tenants/acme/pin").json()["pinned"] is True
    assert (
        served.http.post("/tenants/acme/deployments", json={"files": {"workflows.py": "x = 2"}}).json()["channel"]
        is None
    )
    assert served.http.post("/tenants/acme/unpin", json={}).json()["pinned"] is False
    kinds = [move["kind"] for move in served.http.get("/tenants/acme/channels/live/history").json()]
    assert kinds == ["pin", "rollback", "deploy", "deploy"]


def test_the_facet_comes_as_an_sqlite_file(served: Served) -> None:
    served.http.post("/tenants/acme/instances", json={"workflow": "Talker", "id": "t"})
    answer = served.http.get("/tenants/acme/instances/t/facet")
    assert answer.content.startswith(b"SQLite format 3\x00")
    assert answer.headers["content-type"] == "application/vnd.sqlite3"


def test_the_platform_tells_how_it_is_without_a_token(served: Served) -> None:
    assert served.stranger.get("/healthz").text == "ok\n"
    assert served.stranger.get("/readyz").text == "ready\n"
    assert served.stranger.get(API_PREFIX + "/health").json()["ready"] is True
    metrics = served.stranger.get("/metrics").text
    assert 'perdure_http_requests_total{method="GET",status="200"}' in metrics
    assert "acme" not in metrics
    served.on_trio(lambda: setattr(served.service, "is_ready", False))
    assert served.stranger.get("/readyz").status_code == 503


def test_a_fault_of_ours_tells_no_details_and_is_logged(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.on_trio(lambda: setattr(served.service, "break_next", ZeroDivisionError("secret detail")))
    answer = served.http.post("/tenants/acme/instances", json={"workflow": "Echo"}, headers={"X-Request-Id": "r-1"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret detail" not in answer.text
    assert answer.headers["x-request-id"] == "r-1"
    assert "ZeroDivisionError: secret detail" in caplog.text


def test_errors_of_nurseries_come_out_as_themselves(served: Served) -> None:
    from executor.core.errors import Unavailable

    inner = ExceptionGroup("nursery", [ExceptionGroup("nursery", [Unavailable("full", retry_after_s=2.2)])])
    served.on_trio(lambda: setattr(served.service, "break_next", inner))
    answer = served.http.post("/tenants/acme/instances", json={"workflow": "Echo"})
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "busy", "3")


def test_a_wait_ends_when_nobody_waits_for_it_any_more(served: Served) -> None:
    """Else who connects, asks and goes away, again and again, would take every place for requests."""
    served.http.post("/tenants/acme/instances", json={"workflow": "Waiter", "id": "w"})
    host, port = served.url.removeprefix("http://").split(":")
    path = f"{API_PREFIX}/tenants/acme/instances/w/result?timeout_s=60"
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.service.admin_token}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode())
        _until_open(served, 2)  # it, and the one that asks for the figure
    _until_open(served, 1)


def _until_open(served: Served, count: int) -> None:
    deadline = time.monotonic() + 10
    while f"perdure_http_requests_open {count}\n" not in served.stranger.get("/metrics").text:
        assert time.monotonic() < deadline
