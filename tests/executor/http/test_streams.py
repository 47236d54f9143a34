"""Laws of the live streams: every line once, resume after the last seen, an end, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import httpx2
import pytest
import trio
import trio.testing

from executor.config import load
from executor.http import live, server
from executor.http.app import create_app
from executor.operations import API_PREFIX
from executor.service import ADMINISTRATOR
from tests.executor.fake_service import WORKFLOWS, FakeService
from tests.executor.surface import Served

INSTANCE = "/tenants/acme/instances/t"


@pytest.fixture
def talker(served: Served) -> Served:
    served.http.post("/tenants/acme/instances", json={"workflow": "Talker", "id": "t"})
    return served


def _events(answer: httpx2.Response) -> Iterator[dict[str, str]]:
    """Events of a stream, comments left out (WHATWG HTML 9.2.6, as far as we use it)."""
    found: dict[str, str] = {}
    for line in answer.iter_lines():
        if not line and found:
            yield found
            found = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            found[name] = value


def test_log_lines_come_as_they_are_written_and_the_stream_ends_with_the_instance(talker: Served) -> None:
    instance = talker.service.instances_["acme", "t"]
    with talker.http.stream("GET", INSTANCE + "/logs/stream") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-store"
        events = _events(answer)
        texts = [json.loads(next(events)["data"])["text"] for _ in range(2)]
        assert texts == ["one", "two"]
        talker.on_trio(lambda: instance.say("three"))
        third = next(events)
        assert (third["id"], third["event"], json.loads(third["data"])["text"]) == ("3", "log", "three")
        talker.http.post(INSTANCE + "/events", json={"type": "go", "payload": 9})
        end = next(events)
        assert (end["event"], json.loads(end["data"])["output"]) == ("end", 9)
        assert list(events) == []


def test_a_stream_goes_on_after_the_last_event_seen(talker: Served) -> None:
    talker.http.post(INSTANCE + "/events", json={"type": "go"})
    for request in ({"headers": {"Last-Event-ID": "1"}}, {"params": {"after": "1"}}):
        with talker.http.stream("GET", INSTANCE + "/logs/stream", **request) as answer:  # type: ignore[arg-type]
            assert [(event["event"], event.get("id")) for event in _events(answer)] == [("log", "2"), ("end", None)]


def test_no_line_is_lost_or_doubled_however_often_the_connection_breaks(talker: Served) -> None:
    instance = talker.service.instances_["acme", "t"]

    def say() -> None:
        for number in range(48):
            instance.say(f"line {number}")

    talker.on_trio(say)
    talker.http.post(INSTANCE + "/events", json={"type": "go"})
    seen: list[int] = []
    ended = False
    while not ended:
        headers = {"Last-Event-ID": str(seen[-1])} if seen else {}
        with talker.http.stream("GET", INSTANCE + "/logs/stream", headers=headers) as answer:
            for count, event in enumerate(_events(answer)):
                if event["event"] == "end":
                    ended = True
                    break
                seen.append(int(event["id"]))
                if count == 6:
                    break  # the client goes away in the middle
    assert seen == list(range(1, 51))


def test_the_journal_streams_entries_with_their_sequence_numbers(talker: Served) -> None:
    with talker.http.stream("GET", INSTANCE + "/stream") as answer:
        events = _events(answer)
        assert json.loads(next(events)["data"])["kind"] == "started"
        talker.http.post(INSTANCE + "/events", json={"type": "go", "event_id": "e"})
        rest = [(event["event"], event.get("id")) for event in events]
    assert rest == [("entry", "2"), ("entry", "3"), ("end", None)]


@pytest.mark.parametrize("last", ["-1", "x", "1.5", "٣", "9" * 19])
def test_a_position_that_is_none_is_refused(talker: Served, last: str) -> None:
    answer = talker.http.get(INSTANCE + "/logs/stream", params={"after": last})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_a_stream_of_nothing_is_an_ordinary_error(served: Served) -> None:
    for path in ("/tenants/acme/instances/none/logs/stream", "/tenants/acme/instances/none/stream"):
        answer = served.http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "instance_not_found")
    assert served.stranger.get(API_PREFIX + INSTANCE + "/stream").status_code == 401


@pytest.mark.parametrize("kind", ["logs/stream", "stream"])
@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "speaking"])
def test_a_stream_ends_once_its_token_is_revoked(
    kind: str, is_silent: bool, talker: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that happened after the revocation is told, and a silent stream ends at its next keep-alive."""
    monkeypatch.setattr(live, "KEEP_ALIVE_S", 0.05 if is_silent else 15.0)
    token = talker.http.post("/tenants/acme/tokens", json={"access": "read"}).json()
    with talker.stranger.stream(
        "GET", f"{API_PREFIX}{INSTANCE}/{kind}", headers={"Authorization": f"Bearer {token['secret']}"}
    ) as answer:
        events = _events(answer)
        before = [next(events)["event"] for _ in range(2 if kind == "logs/stream" else 1)]
        assert set(before) == {"log" if kind == "logs/stream" else "entry"}
        assert talker.http.delete(f"/tenants/acme/tokens/{token['id']}").status_code == 204
        if not is_silent:
            talker.http.post(INSTANCE + "/events", json={"type": "go"})
            talker.on_trio(lambda: talker.service.instances_["acme", "t"].say("secret"))
        rest = list(events)
    assert [(event["event"], json.loads(event["data"])["code"]) for event in rest] == [("error", "unauthorized")]


def test_closing_the_server_ends_streams_and_long_waits(talker: Served) -> None:
    """Else a stop would take as long as the longest stream; clients come back with Last-Event-ID."""
    with talker.http.stream("GET", INSTANCE + "/logs/stream") as answer:
        events = _events(answer)
        next(events)
        talker.host.stop().result(timeout=10)
        # The end of the bytes, orderly or cut, but no `end` event: the instance has not ended.
        names = []
        try:
            names += [event["event"] for event in events]
        except httpx2.TransportError:
            pass
        assert "end" not in names


async def test_a_stop_answers_long_waits_before_their_time() -> None:
    """The time of grace is for work under way; a wait is none, and its client comes back."""
    service = FakeService()
    await service.create_tenant(ADMINISTRATOR, "acme")
    await service.deploy(ADMINISTRATOR, "acme", {"workflows.py": WORKFLOWS.encode()}, message="first")
    await service.start(ADMINISTRATOR, "acme", "Waiter", None, id="w")
    app = create_app(service, load({}, environment={}))  # type: ignore[arg-type]
    shutdown = trio.Event()
    with trio.fail_after(server.GRACE_S):
        async with trio.open_nursery() as nursery:
            address = await nursery.start(partial(server.serve, app, shutdown=shutdown))
            async with await trio.open_tcp_stream("127.0.0.1", int(address.rpartition(":")[2])) as stream:
                path = f"{API_PREFIX}/tenants/acme/instances/w/result?timeout_s=60"
                token = f"Authorization: Bearer {service.admin_token}"
                await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: x\r\n{token}\r\n\r\n".encode())
                while not service.instances_["acme", "w"].changed.statistics().tasks_waiting:
                    await trio.testing.wait_all_tasks_blocked()
                shutdown.set()
                answer = b"".join([part async for part in stream])
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "shutting_down"
