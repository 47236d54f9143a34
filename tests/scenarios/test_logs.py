"""What tenant code prints and logs: captured by instance and step, in order, once, bounded, and seen while it happens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from executor import wire
from executor.platform import Run, Tenant
from executor.views import LogLine
from tests.scenarios.live import LiveServer, serving, wait_status, wait_waiting

SOURCE = r'''
import asyncio
import logging
import os
import sys

from executor.workflow import Retry, Workflow

log = logging.getLogger("shop")
print("at import")


class Talk(Workflow):
    async def run(self, event, step):
        print("run begins", event.payload)
        log.info("for %s", event.instance_id)
        await step.do("first", self.first)
        sys.stderr.write("between the steps\n")
        await step.do("second", self.second)
        got = await step.wait_for_event("go", type="go")
        print("went on", got.payload)
        await step.do("last", lambda: log.warning("nearly done"))
        print("run ends")

    def first(self):
        print("one", "two", sep="\n")
        print("no newline at the end", end="")

    async def second(self):
        log.debug("below the level")
        log.error("from an async step")
        try:
            1 / 0
        except ZeroDivisionError:
            log.exception("it failed")


class Tries(Workflow):
    async def run(self, event, step):
        await step.options(retry=Retry(limit=2, delay="10 ms", jitter=0)).do("shaky", self.shaky, step)

    def shaky(self, step):
        attempt = step.current().attempt
        print("attempt", attempt)
        if attempt < 3:
            raise OSError("again")


class Side(Workflow):
    """Two steps at once, each with lines of its own."""

    async def run(self, event, step):
        await asyncio.gather(step.do("left", self.talk, "left"), step.do("right", self.talk, "right"))

    async def talk(self, side):
        for number in range(20):
            print(side, number)
            await asyncio.sleep(0)


class Garbage(Workflow):
    async def run(self, event, step):
        print("x" * 1_000_000)
        print(bytes(range(256)).decode("latin-1"))
        print("\ud800 half a pair", "\x1b[31mred\x1b[0m", "\u202eturned", "\0nul")
        print("a\rb\vc\x85d\u2028e")
        log.info("bad format %d", "not a number")
        log.info("a\nb")
        print()
        print(end="")
        sys.stdout.writelines(["p", "q\n", "r"])
        await step.do("raw", self.raw)

    def raw(self):
        os.write(1, b"\xff\xfe past the capture\n")
        os.write(2, b"\xff\xfe past the capture\n")
        print("y" * 300_000, end="")
        print("z" * 9000)


class Flood(Workflow):
    async def run(self, event, step):
        print("before the flood")
        for part in range(4):
            await step.do("flood", self.flood, part)
        print("after the flood")
        return "dry"

    def flood(self, part):
        for number in range(5000):
            print(f"{part} {number:05} " + "w" * 90)
'''
LINE_BYTES_MAX = 8 * 1024
INSTANCE_BYTES_MAX = 1024 * 1024
BEGIN = [
    ("", "stdout", "", "run begins hello"),
    ("", "log", "INFO", "shop: for {id}"),
    ("first#1", "stdout", "", "one"),
    ("first#1", "stdout", "", "two"),
    ("first#1", "stdout", "", "no newline at the end"),
    ("", "stderr", "", "between the steps"),
    ("second#1", "log", "ERROR", "shop: from an async step"),
    ("second#1", "log", "ERROR", "shop: it failed"),
]
END = [
    ("", "stdout", "", "went on kim"),
    ("last#1", "log", "WARNING", "shop: nearly done"),
    ("", "stdout", "", "run ends"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with serving(tmp_path_factory.mktemp("logs")) as started:
        started.platform().create_tenant("acme").deploy({"workflows.py": SOURCE})
        yield started


@pytest.fixture
def acme(server: LiveServer) -> Tenant:
    return server.platform().tenant("acme")


def _facts(lines: Any) -> list[tuple[str, str, str, str]]:
    """Without the lines of tracebacks, whose text is Python's own."""
    found = [(line.step, line.stream, line.level, line.text) for line in lines]
    return [fact for fact in found if not fact[3].startswith(("Traceback", "  ", "ZeroDivisionError"))]


def _expected(facts: list[tuple[str, str, str, str]], id: str) -> list[tuple[str, str, str, str]]:
    return [(*fact[:3], fact[3].format(id=id)) for fact in facts]


def _talk(acme: Tenant, name: str) -> Run[Any]:
    run = acme.start("Talk", "hello", id=name)
    wait_waiting(run, "event")
    return run


def test_print_and_logging_are_captured_by_step_in_order(acme: Tenant) -> None:
    run = _talk(acme, "order")
    lines = list(run.logs())
    assert _facts(lines) == _expected(BEGIN, "order")
    traceback = [line.text for line in lines if line.step == "second#1"]
    assert traceback[2] == "Traceback (most recent call last):"
    assert traceback[-1] == "ZeroDivisionError: division by zero"
    assert {line.attempt for line in lines if line.step} == {1}
    assert {line.attempt for line in lines if not line.step} == {0}
    run.send_event("go", "kim")
    run.result(timeout=30)
    assert _facts(run.logs()) == _expected(BEGIN + END, "order")
    cursors = [line.cursor for line in run.logs()]
    assert cursors == sorted(set(cursors))
    middle = cursors[len(cursors) // 2]
    assert list(run.logs(after=middle)) == [line for line in run.logs() if line.cursor > middle]


def test_replay_repeats_no_line_after_a_restart(server: LiveServer, acme: Tenant) -> None:
    run = _talk(acme, "restart")
    before = list(run.logs())
    server.kill()
    server.start()
    run = server.platform().tenant("acme").instance("restart")
    assert list(run.logs()) == before
    run.send_event("go", "kim")
    run.result(timeout=30)
    assert list(run.logs())[: len(before)] == before
    assert _facts(run.logs()) == _expected(BEGIN + END, "restart")


def test_each_attempt_has_its_own_lines(acme: Tenant) -> None:
    run = acme.start("Tries")
    run.result(timeout=30)
    assert [(line.step, line.attempt, line.text) for line in run.logs()] == [
        ("shaky#1", number, f"attempt {number}") for number in (1, 2, 3)
    ]


def test_lines_of_steps_at_once_belong_to_their_steps(acme: Tenant) -> None:
    run = acme.start("Side")
    run.result(timeout=30)
    lines = list(run.logs())
    for side in ("left", "right"):
        assert [line.text for line in lines if line.step == f"{side}#1"] == [f"{side} {number}" for number in range(20)]
    assert len(lines) == 40


def test_followers_see_lines_as_they_come_and_the_end(server: LiveServer, acme: Tenant) -> None:
    run = _talk(acme, "followed")
    count = len(run.logs())
    followed = iter(run.logs(follow=True))
    url = "/api/v1/tenants/acme/instances/followed/logs/stream"
    with server.http().stream("GET", url) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = _events(answer.iter_lines())
        by_python = [next(followed) for _ in range(count)]
        by_stream = [next(events) for _ in range(count)]
        # Both have told all that there is, and wait; only then does the instance go on.
        run.send_event("go", "kim")
        by_python += [next(followed) for _ in range(len(END))]
        by_stream += [next(events) for _ in range(len(END))]
        assert next(followed, None) is None
        kind, _, status = next(events)
        assert (kind, status["state"]) == ("end", "complete")
        assert next(events, None) is None
    assert by_python == list(run.logs())
    assert [(kind, position) for kind, position, _ in by_stream] == [("log", line.cursor) for line in by_python]
    assert [data for _, _, data in by_stream] == [_as_json(line) for line in by_python]


def test_a_stream_is_resumed_behind_the_last_event_seen(server: LiveServer, acme: Tenant) -> None:
    run = _talk(acme, "resumed")
    run.send_event("go", "kim")
    run.result(timeout=30)
    lines = list(run.logs())
    url = "/api/v1/tenants/acme/instances/resumed/logs/stream"
    for index in (0, 4, len(lines) - 1):
        answer = server.http().get(url, headers={"Last-Event-ID": str(lines[index].cursor)})
        events = list(_events(answer.text.split("\n")))
        assert [position for kind, position, _ in events if kind == "log"] == [
            line.cursor for line in lines[index + 1 :]
        ]
        assert [kind for kind, _, _ in events][-1] == "end"
    refused = server.http().get(url, headers={"Last-Event-ID": "-1"})
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")


def test_a_follower_is_told_the_end_of_a_terminated_instance(acme: Tenant) -> None:
    run = _talk(acme, "terminated")
    followed = iter(run.logs(follow=True))
    for _ in range(len(run.logs())):
        next(followed)
    run.terminate()
    assert next(followed, None) is None


def test_garbage_and_endless_lines_harm_nobody(server: LiveServer, acme: Tenant) -> None:
    run = acme.start("Garbage", id="garbage")
    run.result(timeout=30)
    lines = list(run.logs())
    texts = [line.text for line in lines]
    bound = LINE_BYTES_MAX + 64
    assert all(len(text.encode()) <= bound for text in texts)
    # A line without end is told in pieces of bounded size, each with a notice of what it lost.
    assert texts[0].startswith("x" * LINE_BYTES_MAX + " [line cut: ")
    latin = "".join(line for line in texts if "ÿ" in line)
    assert latin.endswith("þÿ")
    assert any(text.startswith("\\ud800 half a pair \x1b[31mred\x1b[0m \u202eturned") for text in texts)
    assert any("bad format" in text for text in texts)
    assert "shop: a" in texts
    assert "b" in texts
    assert "pq" in texts
    assert "r" in texts
    assert "z" * LINE_BYTES_MAX not in texts
    assert not any("past the capture" in text for text in texts)
    # Over HTTP it is JSON in UTF-8, on a terminal no control character is left.
    answer = server.http().get("/api/v1/tenants/acme/instances/garbage/logs")
    assert answer.json() == [_as_json(line) for line in lines]
    told = server.cli("instances", "logs", "garbage", "--tenant", "acme")
    assert told.code == 0
    assert not {character for character in told.out if ord(character) < 32 and character != "\n"}
    assert "\x85" not in told.out
    assert "\u202e" not in told.out


def test_an_instance_keeps_a_bounded_output_and_says_so(server: LiveServer, acme: Tenant) -> None:
    run = acme.start("Flood", id="flood")
    assert run.result(timeout=30) == "dry"
    lines = list(run.logs())
    assert lines[0].text == "before the flood"
    assert [line.text for line in lines[1:4]] == [f"0 {number:05} " + "w" * 90 for number in range(3)]
    assert sum(len(line.text) for line in lines) <= INSTANCE_BYTES_MAX
    assert lines[-1].text == f"output is cut here: an instance keeps {INSTANCE_BYTES_MAX} bytes of it"
    assert (lines[-1].stream, lines[-1].level) == ("log", "WARNING")
    assert len([line for line in lines if "cut here" in line.text]) == 1
    # Another instance of the same code still has room.
    other = _talk(acme, "beside")
    assert _facts(other.logs()) == _expected(BEGIN, "beside")
    assert "Traceback" not in server.log_text()


def test_what_tenants_print_is_not_in_the_servers_log(server: LiveServer, acme: Tenant) -> None:
    run = _talk(acme, "private")
    wait_status(run, lambda status: status.state == "waiting")
    text = server.log_text()
    for said in ("run begins", "past the capture", "at import", "between the steps", "w" * 90):
        assert said not in text


def _events(lines: Iterator[str] | list[str]) -> Iterator[tuple[str, int | None, Any]]:
    """Server-sent events as (name, id, data). Source: WHATWG HTML, section 9.2."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if not line:
            if "data" in fields:
                position = int(fields["id"]) if "id" in fields else None
                yield fields.get("event", "message"), position, json.loads(fields["data"])
            fields = {}
            continue
        name, _, value = line.partition(": ")
        fields[name] = value


def _as_json(line: LogLine) -> Any:
    return json.loads(wire.encode(line))
