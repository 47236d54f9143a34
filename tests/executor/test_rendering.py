"""What callers are shown of stored rows and entries."""

from __future__ import annotations

import typing
from typing import Any

import pytest

from executor import wire
from executor.core import attributes, codec, summary, values
from executor.core import entries as e
from executor.core.bounds import Bounds
from executor.core.entries import UNSHOWN, Trace
from executor.core.folding import fold
from executor.core.instance import Instance
from executor.ports import Row, StoredRow
from executor.rendering import instance_view, journal_item, status_view
from executor.views import SENSITIVE, Executing, JournalItem, ParentView, Queued
from tests.executor.every_entry import ASKED, COMMIT, ERROR, EVERY, OPTIONS, VALUE, WHERE


def _item(entry: e.AnyEntry) -> JournalItem:
    return journal_item(7, codec.encode(entry, b"\1" * 16))


def _row(journal: list[e.AnyEntry], **changes: Any) -> StoredRow:
    instance = fold(journal)
    row = Row("running", None, "W", COMMIT, 1, instance.updated_at_ms, summary.encode(instance), **changes)
    return StoredRow("acme", "i", 1, instance.sequence, row)


START = e.Started(1, "W", COMMIT, VALUE, b"seed")


def test_there_is_an_example_of_every_kind_of_entry() -> None:
    assert {type(entry) for entry in EVERY} == set(typing.get_args(e.AnyEntry))


@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: type(entry).__name__)
def test_every_entry_is_shown_with_all_its_fields_and_crosses_the_wire(entry: e.AnyEntry) -> None:
    item = _item(entry)
    assert set(item.fields) == set(entry.__struct_fields__) - UNSHOWN
    assert (item.sequence, item.at_ms, item.chain) == (7, entry.at_ms, "" if isinstance(entry, Trace) else "01" * 16)
    assert wire.decode(wire.encode([item]), list[JournalItem]) == [item]


def test_values_are_shown_decoded_and_digests_in_hexadecimal() -> None:
    item = _item(e.StepSucceeded(2, "a#1", ASKED, WHERE, 2, 1, VALUE))
    assert item.kind == "step_succeeded"
    assert item.fields == {
        "path": "a#1",
        "asked": ASKED.hex(),
        "where": WHERE,
        "attempt": 2,
        "started_at_ms": 1,
        "value": {"n": 1},
        "form": "value",
    }
    assert _item(e.EventReceived(9, "evt-1", "t", VALUE, 1)).fields["payload"] == {"n": 1}
    assert _item(e.WaitStarted(7, "w#1", ASKED, WHERE, "t", None, VALUE)).fields["match"] == {"n": 1}
    assert _item(e.WaitStarted(7, "w#1", ASKED, WHERE, "t", None)).fields["match"] is None
    assert _item(e.ChildEnded(27, "c#1", "terminated", None, None)).fields["value"] is None
    assert _item(e.StepHeartbeat(21, "a#1", 2, values.encode(50))).fields["details"] == 50
    assert _item(e.Emitted(24, "s", 0, [VALUE], "", 0, 1)).fields["items"] == [{"n": 1}]
    changed = e.AttributesSet(23, 1, attributes.encode({"customer": "acme"}))
    assert _item(changed).fields["attributes"] == {"customer": "acme"}


def test_the_options_of_a_start_are_shown() -> None:
    assert _item(e.Started(1, "W", COMMIT, VALUE, b"seed", OPTIONS)).fields["options"] == {
        "start_at_ms": 9_000,
        "attributes": {"customer": "acme"},
        "priority": 3,
        "limits": [{"name": "per customer", "key": "acme", "count": 5}],
        "unload": "every-wait",
        "retain_complete_ms": None,
        "retain_failed_ms": 60_000,
        "parent": {"instance": "order-1", "path": "ship#1", "is_awaited": True},
        "schedule": "nightly",
        "scheduled_ms": 8_000,
        "debounce": "k",
        "depth": 2,
    }
    assert _item(START).fields["options"] is None


def test_a_value_that_cannot_be_read_is_shown_as_such() -> None:
    assert _item(e.Completed(2, b"\xc1\xc1")).fields["value"] == {"unreadable_bytes": 2}


def test_the_output_of_a_sensitive_step_is_never_shown() -> None:
    item = _item(e.StepSucceeded(2, "card#1", ASKED, WHERE, 1, 1, values.encode("card of nobody else"), "sensitive"))
    assert item.fields["value"] is SENSITIVE
    assert b'"value":{"$sensitive":true}' in wire.encode(item)
    for entry in (
        e.StepHeartbeat(2, "card#1", 1, values.encode("card of nobody else"), True),
        e.AttemptFailed(2, "card#1", ASKED, WHERE, 1, 1, ERROR, 9, 1, values.encode("card of nobody else"), True),
    ):
        assert b'"details":{"$sensitive":true}' in wire.encode(_item(entry))
    assert _item(e.StepHeartbeat(2, "card#1", 1, b"", True)).fields["details"] is None
    assert b"card of nobody else" not in wire.encode(item)


def test_a_value_that_looks_like_a_hidden_one_is_shown_as_it_is() -> None:
    item = _item(e.Completed(2, values.encode({"$sensitive": True})))
    assert b'"value":{"$$sensitive":true}' in wire.encode(item)
    assert wire.decode(wire.encode(item), JournalItem) == item


def test_a_byte_stream_is_shown_by_its_description() -> None:
    described = values.encode({"size": 9, "sha256": "ab"})
    item = _item(e.StepSucceeded(2, "video#1", ASKED, WHERE, 1, 1, described, "stream"))
    assert (item.fields["form"], item.fields["value"]) == ("stream", {"size": 9, "sha256": "ab"})


@pytest.mark.parametrize(
    ("entry", "attempt", "parent"),
    [
        (e.StepStarted(1, "hash#1", WHERE, 1), 1, None),
        (e.StepStarted(1, "audit#1/hash#3", WHERE, 2), 2, "audit#1"),
        (e.StepFailed(1, "a#2/b#1/hash#3", ASKED, WHERE, 6, 1, ERROR), 6, "a#2/b#1"),
        (e.StepStarted(1, "read a/b#1", WHERE, 1), 1, None),
        (e.StepStarted(1, "audit#1/read a/b#1", WHERE, 1), 1, "audit#1"),
        (e.StepStarted(1, "undo/audit#1/hash#3", WHERE, 1), 1, "audit#1/hash#3"),
        (e.StepStarted(1, "update/add/u1/hash#1", WHERE, 1), 1, "update/add/u1"),
        (e.StepStarted(1, "update/add/u1/audit#1/hash#1", WHERE, 1), 1, "update/add/u1/audit#1"),
        (e.GroupStarted(1, "a#1/b#1", ASKED, WHERE), None, "a#1"),
        (e.ChildStarted(1, "audit#1/ship#1", COMMIT), None, "audit#1"),
        (e.Emitted(1, "tokens", 0, [VALUE], "audit#1/write#1", 2, 0), 2, "audit#1/write#1"),
        (e.Emitted(1, "tokens", 0, [VALUE], "", 0, 1), None, None),
        (e.Activated(1, 3), None, None),
    ],
)
def test_an_item_names_its_attempt_and_what_it_belongs_to(
    entry: e.AnyEntry, attempt: int | None, parent: str | None
) -> None:
    item = _item(entry)
    assert (item.attempt, item.parent) == (attempt, parent)


def test_an_instance_of_which_there_is_nothing_to_tell_has_the_empty_summary() -> None:
    nothing = summary.encode(Instance())
    assert summary.encode(fold([START, e.StepSucceeded(2, "a#1", ASKED, WHERE, 1, 1, VALUE)])) == nothing
    assert summary.decode(nothing) == summary.Summary()


def test_the_status_shows_what_the_run_shows() -> None:
    journal = [START, e.StatusSet(2, 1, values.encode({"stage": "packing"}))]
    assert status_view(_row(journal), None).status == {"stage": "packing"}
    assert instance_view(_row(journal)).status == {"stage": "packing"}
    assert status_view(_row([START]), None).status is None
    ended = status_view(_row([*journal, e.Completed(3, VALUE)]), {"n": 1})
    assert (ended.status, ended.output) == ({"stage": "packing"}, {"n": 1})


def test_the_status_shows_the_attributes_and_the_parent() -> None:
    row = _row([EVERY[0]], attributes=attributes.encode({"customer": "acme"}))
    for view in (status_view(row, None), instance_view(row)):
        assert view.attributes == {"customer": "acme"}
        assert view.parent == ParentView(id="order-1", path="ship#1")


def test_the_status_shows_attempts_under_way_until_they_report() -> None:
    journal: list[e.AnyEntry] = [START, e.StepStarted(5, "a#1", WHERE, 1), e.StepStarted(6, "b#1", WHERE, 1)]
    assert status_view(_row(journal), None).executing == [
        Executing(path="a#1", attempt=1, since_ms=5),
        Executing(path="b#1", attempt=1, since_ms=6),
    ]
    journal.append(e.StepSucceeded(7, "a#1", ASKED, WHERE, 1, 5, VALUE))
    assert status_view(_row(journal), None).executing == [Executing(path="b#1", attempt=1, since_ms=6)]


def _waits(*journal: e.AnyEntry) -> list[str]:
    return [str(wait) for wait in status_view(_row([START, *journal]), None).waits]


def test_each_kind_of_wait_is_told() -> None:
    at = "1970-01-01T00:00:09.000Z"
    child = e.ChildRequested(2, "ship#1", ASKED, WHERE, "i.ship", "Ship", None, "live", VALUE, "abandon", True)
    assert _waits(e.SleepStarted(2, "nap#1", ASKED, WHERE, 9_000)) == [f"sleep nap until {at}"]
    assert _waits(e.WaitStarted(2, "go#1", ASKED, WHERE, "paid", 9_000)) == [f'event "paid" (go) until {at}']
    assert _waits(e.AttemptFailed(2, "a#1/pay#1", ASKED, WHERE, 1, 1, ERROR, 9_000, 5)) == [
        f"retry 1 of 5 of a#1/pay at {at}: ValueError: no"
    ]
    assert _waits(child) == ['child "i.ship" (ship)']
    assert _waits(child, e.ChildStarted(3, "ship#1", COMMIT)) == ['child "i.ship" (ship)']
    assert _waits(child, e.ChildEnded(3, "ship#1", "complete", VALUE, None)) == []
    assert _waits(e.Paused(9_000, "token t1")) == [f"resume, paused by token t1 since {at}"]
    assert _waits(e.Held(9_000, "sandbox_killed", "it died", None, None)) == [f"help, held since {at}: it died"]
    assert _waits(e.Undoing(9_000, ERROR)) == [f"the undoing of its steps since {at}: ValueError: no"]
    assert _waits(e.Undoing(9_000, None, "admin")) == [f"the undoing of its steps by admin since {at}"]
    delayed = e.Started(1, "W", COMMIT, VALUE, b"seed", e.StartOptions(start_at_ms=9_000))
    assert [str(wait) for wait in status_view(_row([delayed]), None).waits] == [f"its start at {at}"]


def test_what_stops_an_instance_as_a_whole_comes_before_what_it_waits_for() -> None:
    nap = e.SleepStarted(2, "nap#1", ASKED, WHERE, 9_000)
    view = status_view(_row([START, nap, e.Paused(3, "kim")]), None, Queued(limit="tenant", position=4))
    assert [wait.kind for wait in view.waits] == ["queued", "paused", "sleep"]
    assert str(view.waiting_for) == "its turn, number 4 behind tenant"
    assert view.queued == Queued(limit="tenant", position=4)


def test_a_retry_that_is_being_made_is_not_waited_for() -> None:
    failed = e.AttemptFailed(2, "pay#1", ASKED, WHERE, 1, 1, ERROR, 9_000, 5)
    view = status_view(_row([START, failed, e.StepStarted(9_000, "pay#1", WHERE, 2)]), None)
    assert view.waits == []
    assert view.executing == [Executing(path="pay#1", attempt=2, since_ms=9_000)]


def test_the_status_warns_before_a_limit_of_the_history_is_reached() -> None:
    def warnings(instance: Instance, bounds: Bounds, journal_bytes: int = 0) -> list[str]:
        return summary.decode(summary.encode(instance, bounds, journal_bytes=journal_bytes)).warnings

    remedy = "self.continue_as_new(payload) begins another"
    steps: list[e.AnyEntry] = [e.StepSucceeded(2, f"a#{number}", ASKED, WHERE, 1, 1, VALUE) for number in range(8)]
    instance = fold([START, *steps])
    assert warnings(fold([START, *steps[:7]]), Bounds(steps=10)) == []
    assert warnings(instance, Bounds(steps=10)) == [f"this execution has 8 steps of at most 10; {remedy}"]
    assert warnings(instance, Bounds(journal_entries=10)) == [
        f"this execution has 8 journal entries of at most 10; {remedy}"
    ]
    assert warnings(instance, Bounds(journal_bytes=10), 7) == []
    assert warnings(instance, Bounds(journal_bytes=10), 8) == [
        f"this execution has 8 bytes of journal of at most 10; {remedy}"
    ]
    assert warnings(instance, Bounds()) == []
