"""The fold at its edges: children, paths, what the run shows, and what a new execution or a restart leaves behind."""

from collections import deque

import msgspec
import pytest

from executor.core import attributes, decide, ids, values
from executor.core.commands import (
    AcceptUpdate,
    Beat,
    Cancel,
    Child,
    Complete,
    Continue,
    Emit,
    EndUpdate,
    Fail,
    GroupBegin,
    GroupEnd,
    SetAttributes,
    SetStatus,
    StepBegun,
    StepDone,
)
from executor.core.entries import (
    AttributesSet,
    Cancelled,
    ChildClosed,
    ChildEnded,
    ChildStarted,
    Continued,
    Failed,
    Released,
    Rescheduled,
    Restarted,
    StartDue,
    StartOptions,
    Terminated,
    Undoing,
)
from executor.core.folding import fold
from executor.core.instance import Instance
from tests.executor.core.strategies import ASKED, begin, started
from tests.executor.core.test_decide_edges import ERROR, child, do, failing, sleep, wait


def asks(path, *, close, is_awaited):
    return Child(path, ASKED, "w.py:3", "W", b"\xc0", None, None, close, is_awaited)


def children_of(instance):
    return sorted(instance.children), sorted(instance.to_start), sorted(instance.to_close)


def test_delayed_start_is_due_at_its_time_and_not_before():
    instance = Instance()
    instance.apply(msgspec.structs.replace(started(), options=StartOptions(start_at_ms=5_000)))
    assert decide.on_clock(instance, 4_999).entries == ()
    assert decide.on_clock(instance, 5_000).entries == (StartDue(5_000),)


def test_child_has_the_parents_commit_or_a_channel_and_the_id_that_was_given():
    instance = begin()
    [plain] = do(instance, child("p#1"))
    [named] = do(instance, child("q#1", channel="beta", id="mine"))
    assert (plain.child, plain.commit, plain.channel) == (ids.child_id("boss", "p#1", 0), "c" * 40, None)
    assert (named.child, named.commit, named.channel) == ("mine", None, "beta")
    do(instance, Continue(b"\xc0"))
    [later] = do(instance, child("p#1"))
    assert later.child == ids.child_id("boss", "p#1", 1) != plain.child


def test_what_the_run_shows_counts_once_by_its_number():
    instance = begin()
    changes = values.encode({"n": 1})
    shown = [SetStatus(2, b"\x01"), SetAttributes(2, changes), Emit("s", [b"\x01", b"\x02"], "", 0, 2)]
    for command in shown:
        assert len(do(instance, command)) == 1
        assert do(instance, command) == []
    for later in (SetStatus(3, b"\x01"), SetAttributes(3, changes), Emit("s", [b"\x03"], "", 0, 3)):
        [entry] = do(instance, later)
        assert entry.number == 3
    assert (entry.first, instance.emitted) == (2, {"s": 3})


def test_items_of_steps_all_count_and_stand_among_those_of_the_run():
    instance = begin()
    do(instance, Emit("s", [b"\x01"], "", 0, 5))
    for attempt in (1, 1, 2):
        [entry] = do(instance, Emit("s", [b"\x02", b"\x03"], "a#1", attempt, 4))
        assert (entry.path, entry.attempt, entry.number) == ("a#1", attempt, 0)
    [entry] = do(instance, Emit("s", [b"\x04"], "", 0, 6))
    assert (entry.first, instance.emitted) == (7, {"s": 8})


def test_attributes_that_are_too_many_with_those_from_outside_stay_as_they_were():
    instance = begin()
    full = attributes.encode({f"a{number}": number for number in range(attributes.COUNT_MAX)})
    instance.apply(AttributesSet(1_900, 0, full))
    [entry] = do(instance, SetAttributes(1, values.encode({"one_more": 1})))
    assert entry.attributes == full
    [entry] = do(instance, SetAttributes(2, values.encode({"a0": None, "one_more": 1})))
    assert attributes.decode(entry.attributes)["one_more"] == 1


def test_update_is_accepted_once_ends_once_and_not_while_it_is_undone():
    instance = begin()
    accept, end = AcceptUpdate("u", "add", b"\xc0"), EndUpdate("u", b"\xc0", None)
    assert do(instance, end) == []
    assert [len(do(instance, command)) for command in (accept, accept, end, end, accept)] == [1, 0, 1, 0, 0]
    instance.apply(Undoing(1_900, None))
    assert do(instance, AcceptUpdate("late", "add", b"\xc0")) == []


def test_child_that_is_given_up_is_told():
    instance = begin()
    do(instance, child("p#1"))
    assert do(instance, Cancel("p#1")) == [Cancelled(2_000, "p#1")]


def test_path_stays_taken_when_what_had_it_has_ended():
    instance = begin()
    do(instance, sleep("s#1", 0))
    do(instance, wait("t#1", timeout_ms=0))
    for entry in decide.on_clock(instance, 2_000).entries:
        instance.apply(entry)
    do(instance, wait("w#1"))
    for entry in decide.on_event(instance, id="e1", type="approved", payload=b"p", now_ms=2_000).entries:
        instance.apply(entry)
    do(instance, GroupBegin("g#1", ASKED, "w.py:1"))
    do(instance, GroupEnd("g#1"))
    do(instance, child("c#1"))
    instance.apply(ChildEnded(2_000, "c#1", "complete", b"\xc0", None))
    do(instance, sleep("x#1", 100))
    do(instance, Cancel("x#1"))
    for path in ("s#1", "t#1", "w#1", "g#1", "c#1", "x#1"):
        with pytest.raises(decide.Violation, match=f"{path} is already journaled"):
            do(instance, sleep(path, 1))
    assert instance.open_count == 0


def test_new_execution_knows_nothing_of_the_paths_and_events_of_the_one_before():
    instance = begin()
    do(instance, wait("w#1"))
    for entry in decide.on_event(instance, id="e1", type="approved", payload=b"p", now_ms=2_000).entries:
        instance.apply(entry)
    for command in (failing("a#1"), sleep("s#1", 100), wait("t#1", timeout_ms=100), GroupBegin("g#1", ASKED, "w.py:1")):
        do(instance, command)
    do(instance, Continue(b"\xc0"))
    assert (instance.next_wake_ms(), instance.open_count) == (None, 0)
    assert (decide.on_clock(instance, 10**9).entries, decide.due_retries(instance, 10**9)) == ((), [])
    assert do(instance, GroupEnd("g#1")) == []
    assert do(instance, Cancel("w#1")) == []
    assert instance.buffered.get("approved") in (None, deque())
    [again] = do(instance, failing("a#1"))
    assert again.attempt == 1
    assert len(do(instance, wait("w#1"))) == 1


@pytest.mark.parametrize(
    "end",
    [
        StepDone("a#1", ASKED, "w.py:1", 1, 0, b"v"),
        failing("a#1"),
        failing("a#1", limit=0),
        Cancel("a#1"),
        Continue(b"\xc0"),
    ],
    ids=["succeeded", "to be retried", "failed", "given up", "left behind"],
)
def test_attempt_that_has_ended_executes_no_more(end):
    instance = begin()
    do(instance, StepBegun("a#1", "w.py:1", 1, 0))
    do(instance, Beat("a#1", 1, b"\xc0"))
    assert (list(instance.executing), list(instance.heartbeats), instance.open_count) == (["a#1"], ["a#1"], 1)
    do(instance, end)
    left = len(instance.retries)
    assert (list(instance.executing), list(instance.heartbeats), instance.open_count) == ([], [], left)


@pytest.mark.parametrize("close", ["terminate", "abandon"])
@pytest.mark.parametrize("is_awaited", [True, False])
def test_parent_has_to_do_with_a_child_as_long_as_it_waits_for_it_or_would_close_it(close, is_awaited):
    instance = begin()
    do(instance, asks("c#1", close=close, is_awaited=is_awaited))
    assert children_of(instance) == (["c#1"], ["c#1"], [])
    instance.apply(ChildStarted(2_000, "c#1", "c" * 40))
    is_kept = is_awaited or close == "terminate"
    assert children_of(instance) == (["c#1"] if is_kept else [], [], [])
    instance.apply(ChildEnded(2_000, "c#1", "complete", b"\xc0", None))
    assert children_of(instance) == ([], [], [])


@pytest.mark.parametrize("close", ["terminate", "abandon"])
@pytest.mark.parametrize(
    "end",
    [Cancel("c#1"), Continue(b"\xc0"), Complete(b"\xc0"), Fail(ERROR)],
    ids=["given up", "continued", "completed", "failed"],
)
@pytest.mark.parametrize("is_started", [True, False])
def test_child_that_is_left_behind_is_closed_if_that_is_its_policy(close, end, is_started):
    instance = begin()
    do(instance, asks("c#1", close=close, is_awaited=True))
    if is_started:
        instance.apply(ChildStarted(2_000, "c#1", "c" * 40))
    do(instance, end)
    child_id = ids.child_id("boss", "c#1", 0)
    assert children_of(instance) == ([], [], [child_id] if close == "terminate" else [])
    instance.apply(ChildClosed(2_000, child_id))
    assert children_of(instance) == ([], [], [])


def test_run_that_is_released_executes_nothing():
    instance = begin()
    do(instance, StepBegun("a#1", "w.py:1", 1, 0))
    instance.apply(Released(2_000, "sandbox died"))
    assert (list(instance.executing), instance.open_count) == ([], 0)
    assert len(do(instance, StepBegun("a#1", "w.py:1", 1, 0))) == 1


def test_delayed_start_that_was_replaced_begins_at_its_new_time():
    instance = Instance()
    instance.apply(msgspec.structs.replace(started(), options=StartOptions(start_at_ms=5_000)))
    instance.apply(Rescheduled(2_000, b"\x01", 9_000))
    assert (instance.next_wake_ms(), decide.on_clock(instance, 8_999).entries) == (9_000, ())
    assert decide.on_clock(instance, 9_000).entries == (StartDue(9_000),)


def test_how_often_an_execution_was_undone_is_known_after_its_restarts():
    journal = [started(), Undoing(1_900, ERROR), Failed(1_900, ERROR)]
    assert fold(journal).undone == 1
    journal += [Restarted(2_000, 1, False, undone=1)]
    assert fold(journal).undone == 1
    journal += [Undoing(2_000, ERROR)]
    instance = fold(journal)
    assert instance.undone == 2
    journal += [Terminated(2_000), Restarted(2_000, 1, False, undone=2), Continued(2_000, "W", "c" * 40, b"\xc0", b"s")]
    assert fold(journal).undone == 0


def test_new_execution_knows_the_newest_answers_up_to_their_size(monkeypatch):
    monkeypatch.setattr("executor.core.instance.UPDATES_CARRIED_BYTES", 10)
    instance = begin()
    for number, size in enumerate((1, 9, 6, 4)):
        do(instance, AcceptUpdate(f"u{number}", "n", b"\xc0"))
        do(instance, EndUpdate(f"u{number}", bytes(size), None))
    do(instance, Continue(b"\xc0"))
    assert list(instance.updates) == list(instance.update_digests) == ["u2", "u3"]
