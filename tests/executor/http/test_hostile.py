"""Hostile and broken requests: each gets a precise answer, and the server goes on."""

from __future__ import annotations

import gzip
import json
import socket
from http.client import HTTPResponse

import httpx2
import pytest

from executor.operations import API_PREFIX
from tests.executor.surface import Served, serving

INSTANCES = "/tenants/acme/instances"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The arguments of start are wrong: Object missing required field `workflow`."),
        (b"{", "The request's body is not JSON: Input data was truncated."),
        (b"[]", "The arguments of start are wrong: Expected `object`, got `array`."),
        (b'{"workflow": 5}', "The arguments of start are wrong: Expected `str`, got `int` - at `$.workflow`."),
        (
            b'{"workflow": "Echo", "paylod": 1}',
            "The arguments of start are wrong: Object contains unknown field `paylod`.",
        ),
        (b'{"workflow": "\xff"}', None),
        (b'{"workflow": "Echo", "payload": NaN}', None),
    ],
    ids=["empty", "truncated", "array", "type", "unknown-field", "not-utf8", "nan"],
)
def test_a_body_of_the_wrong_form_is_a_bad_request(served: Served, body: bytes, message: str | None) -> None:
    answer = served.http.post(INSTANCES, content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    if message:
        assert answer.json()["message"] == message


@pytest.mark.parametrize("end", [b"", b"]" * 100_000 + b"}"], ids=["open", "closed"])
def test_a_body_nested_deeper_than_python_goes_is_a_bad_payload(served: Served, end: bytes) -> None:
    answer = served.http.post(INSTANCES, content=b'{"workflow": "Echo", "payload": ' + b"[" * 100_000 + end)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_payload")
    assert answer.json()["message"] == "The request's body is nested too deep: a payload may be 64 deep."


@pytest.mark.parametrize("payload", [{"$bytes": "not base64!"}, {"$unknown": 1}, {"$datetime": 5}])
def test_a_wrongly_marked_value_is_a_bad_payload(served: Served, payload: object) -> None:
    answer = served.http.post(INSTANCES, json={"workflow": "Echo", "payload": payload})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_payload")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "after=1&nonsense=2", "limit="]
)
def test_a_query_of_the_wrong_form_is_a_bad_request(served: Served, query: str) -> None:
    answer = served.http.get(f"{INSTANCES}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize("id", ["", " ", "a/b", "x" * 101, "../../etc", "-dash", "ünï", "a\x00b"])
def test_an_id_that_is_none_is_refused(served: Served, id: str) -> None:
    answer = served.http.post(INSTANCES, json={"workflow": "Echo", "id": id})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_name")


def test_a_body_over_the_limit_is_refused_by_its_declared_length_before_it_is_read(served: Served) -> None:
    token = served.service.admin_token
    answer = served.raw(
        f"POST {API_PREFIX}{INSTANCES} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        "Content-Length: 99999999999\r\nConnection: close\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "payload_too_large"


def test_an_early_answer_leaves_the_connection_usable_or_says_that_it_closes(served: Served) -> None:
    """Else the client's next request on it would be lost."""
    for size, closes in ((100_000, False), (5_000_000, True)):
        head = f"POST {API_PREFIX}/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(head + b"x" * min(size, 400_000))
            answer = HTTPResponse(connection)
            answer.begin()
            answer.read()
            assert (answer.status, answer.headers["connection"]) == (401, "close" if closes else None)
            if not closes:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_an_early_answer_is_read_even_by_a_client_that_sends_everything_first(served: Served) -> None:
    head = f"POST {API_PREFIX}/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n".encode()
    assert served.raw(head + b"x" * 9_000_000).startswith(b"HTTP/1.1 401 ")


def test_a_stranger_is_not_asked_for_the_body_that_he_offers(served: Served) -> None:
    answer = served.raw(
        f"POST {API_PREFIX}{INSTANCES} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nconnection: close\r\n" in answer


def test_a_chunked_body_over_the_limit_is_refused_while_it_is_read(served: Served) -> None:
    def chunks() -> object:
        for _ in range(64):
            yield b" " * 65536

    answer = served.http.post(INSTANCES, content=chunks())  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


def test_a_payload_over_the_limit_is_refused_by_its_own_size(served: Served) -> None:
    answer = served.http.post(INSTANCES, json={"workflow": "Echo", "payload": "x" * 1_100_000})
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


def test_huge_headers_are_refused_and_the_server_goes_on(served: Served) -> None:
    answer = served.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Large: " + b"a" * 200_000 + b"\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))
    assert served.stranger.get("/healthz").text == "ok\n"


@pytest.mark.parametrize(
    "request_bytes",
    [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"],
    ids=["tls", "no-target", "negative-length"],
)
def test_what_is_not_http_is_refused_and_the_server_goes_on(served: Served, request_bytes: bytes) -> None:
    answer = served.raw(request_bytes)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert served.stranger.get("/healthz").text == "ok\n"


@pytest.mark.parametrize("path", ["/nothing", "/api/v1", "/api/v1/tenants/", "/api/v1/tenants/acme/forks", "/git/"])
def test_an_unknown_route_is_not_found_in_our_form(served: Served, path: str) -> None:
    answer = served.stranger.get(path)
    assert answer.status_code == 404
    if not path.startswith("/git"):
        assert (answer.json()["code"], answer.json()["family"]) == ("route_not_found", "not_found")


def test_a_wrong_method_says_which_is_right(served: Served) -> None:
    answer = served.http.put("/tenants/acme")
    assert (answer.status_code, answer.json()["code"]) == (405, "route_not_found")
    assert "GET" in answer.headers["allow"] or "DELETE" in answer.headers["allow"]


def test_strange_request_ids_are_not_echoed(served: Served) -> None:
    answer = served.stranger.get("/healthz", headers={"X-Request-Id": "a b<script>"})
    assert len(answer.headers["x-request-id"]) == 32


def test_strange_methods_do_not_become_labels(served: Served) -> None:
    for method in ("PROPFIND", "LOCK", "PURGE"):
        assert served.stranger.request(method, "/healthz").status_code == 405
    metrics = served.stranger.get("/metrics").text
    assert 'perdure_http_requests_total{method="other",status="405"} 3' in metrics
    assert "PURGE" not in metrics


def test_a_method_that_nobody_has_heard_of_is_no_http(served: Served) -> None:
    answer = served.stranger.request("M1", "/healthz")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert answer.json()["message"] == "Invalid HTTP request received."


def test_a_gzip_bomb_is_refused_at_the_limit_of_what_it_unpacks_to() -> None:
    with serving(push_bytes_max=2_000_000) as served:
        answer = served.stranger.post(
            "/git/acme.git/git-upload-pack",
            content=gzip.compress(b"\x00" * 50_000_000),
            headers={
                **served.bearer("acme"),
                "Content-Encoding": "gzip",
                "Content-Type": "application/x-git-upload-pack-request",
            },
        )
        assert answer.status_code == 413
        assert answer.text.startswith("The request's body is larger than 2000000 bytes. [payload_too_large]")
        assert served.service.received == []


RECEIVE = "/git/acme.git/git-receive-pack"


def _receive(served: Served, content: object, **headers: str) -> httpx2.Response:
    kind = {"Content-Type": "application/x-git-receive-pack-request"}
    return served.stranger.post(
        RECEIVE,
        content=content,  # type: ignore[arg-type]
        headers={**served.bearer("acme"), **kind, **headers},
    )


@pytest.mark.parametrize("how", ["declared", "chunked", "gzip"])
def test_a_push_somewhat_over_the_limit_is_read_whole_and_its_beginning_handed_on(how: str) -> None:
    """So that git reads the code store's own reason; and the disk holds no more than the limit and 1 MiB."""
    with serving(push_bytes_max=1_000_000) as served:
        body = bytes(range(256)) * 14_000
        content = gzip.compress(body, 1) if how == "gzip" else iter([body[:9], body[9:]]) if how == "chunked" else body
        answer = _receive(served, content, **({"Content-Encoding": "gzip"} if how == "gzip" else {}))
        assert (answer.status_code, answer.text) == (200, "first second")
        assert served.service.received == [body[: 1_000_000 + 1024 * 1024]]


@pytest.mark.parametrize("how", ["declared", "chunked", "gzip", "after-gzip"])
def test_a_push_of_more_than_four_times_the_limit_is_cut_off(how: str) -> None:
    with serving(push_bytes_max=100_000) as served:
        body = b"x" * 400_001
        content: object = body
        if how == "chunked":
            content = iter([body])
        elif how != "declared":
            packed = gzip.compress(body) if how == "gzip" else gzip.compress(b"x") + body
            content = iter([packed])
        answer = _receive(served, content, **({"Content-Encoding": "gzip"} if "gzip" in how else {}))
        assert answer.status_code == 413
        assert answer.text.startswith("The request's body is larger than 100000 bytes. [payload_too_large]")
        assert served.service.received == []
