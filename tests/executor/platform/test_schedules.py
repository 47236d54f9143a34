"""Schedules over the Python API, embedded and remote: the same arguments, answers and errors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from executor import Conflict, NotFound, Refused, Unavailable
from executor.platform import Tenant
from executor.workflow import Workflow


class Echo(Workflow[object, object]):
    pass


def test_durations_and_dates_of_python_are_taken_as_their_texts_are(acme: Tenant) -> None:
    made = acme.create_schedule(
        Echo,
        {"at": datetime(2027, 1, 1, tzinfo=UTC), "raw": b"\x00"},
        name="a",
        every=timedelta(minutes=90),
        start=datetime(2027, 1, 1, tzinfo=UTC),
        end="2027-02-01T00:00Z",
        jitter=timedelta(seconds=30),
        catch_up="all",
        catch_up_window="2 hours",
    )
    assert (made.workflow, made.every_ms, made.jitter_ms, made.catch_up_window_ms) == (
        "Echo",
        5_400_000,
        30_000,
        7_200_000,
    )
    assert (made.start_ms, made.end_ms) == (1_798_761_600_000, 1_801_440_000_000)
    assert made.payload == {"at": datetime(2027, 1, 1, tzinfo=UTC), "raw": b"\x00"}
    assert acme.schedule("a") == made
    assert acme.schedules() == [made]


def test_trigger_gives_the_handle_of_its_instance(acme: Tenant) -> None:
    acme.create_schedule("Echo", "hello", name="a", cron="0 6 * * *")
    assert acme.trigger_schedule("a", id="one").result(timeout=20) == "hello"
    assert acme.schedule("a").firings[0].instance == "one"


def test_trigger_without_an_answer_says_with_which_id_it_is_the_same(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme.create_schedule("Echo", "hello", name="a", cron="0 6 * * *")
    call = Tenant._call

    def deaf(self: Tenant, operation: str, *path: str, **arguments: object) -> object:
        call(self, operation, *path, **arguments)
        raise Unavailable("no answer", code="unreachable", hint="Look.")

    with monkeypatch.context() as patched, pytest.raises(Unavailable) as lost:
        patched.setattr(Tenant, "_call", deaf)
        acme.trigger_schedule("a")
    drawn = lost.value.details["id"]
    assert lost.value.hint == f"Look. Asked again with the id {drawn} it is the same firing."
    assert acme.trigger_schedule("a", id=drawn).result(timeout=20) == "hello"
    assert [firing.instance for firing in acme.schedule("a").firings] == [drawn]


def test_pause_and_resume_say_what_is_then(acme: Tenant) -> None:
    acme.create_schedule("Echo", name="a", cron="0 6 * * *")
    assert (acme.pause_schedule("a").paused, acme.pause_schedule("a").next_ms) == (True, [])
    assert acme.resume_schedule("a").paused is False
    acme.delete_schedule("a")
    with pytest.raises(NotFound) as missing:
        acme.schedule("a")
    assert missing.value.code == "schedule_not_found"


def test_what_is_wrong_is_refused_the_same_way(acme: Tenant) -> None:
    acme.create_schedule("Echo", name="a", cron="0 6 * * *")
    with pytest.raises(Conflict) as conflict:
        acme.create_schedule("Echo", name="a", cron="0 7 * * *")
    assert conflict.value.code == "schedule_exists"
    with pytest.raises(Refused) as refused:
        acme.create_schedule("Echo", cron="0 0 31 2 *")
    assert (refused.value.code, refused.value.message) == (
        "bad_request",
        'the schedule has cron "0 0 31 2 *": Bad day-of-month',
    )
    with pytest.raises(Refused) as wrong:
        acme.create_schedule("Echo", cron="0 0 * * *", overlap="both")  # type: ignore[arg-type]
    assert (
        wrong.value.message == "The arguments of create_schedule are wrong: Invalid enum value 'both' - at `$.overlap`."
    )
