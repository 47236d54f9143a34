"""Replay, pure: requests against entries."""

from __future__ import annotations

import pytest

from executor.core.entries import (
    AttemptFailed,
    Cancelled,
    ChildEnded,
    ChildRequested,
    ChildStarted,
    EventReceived,
    GroupEnded,
    GroupStarted,
    Paused,
    Resumed,
    SleepEnded,
    SleepStarted,
    Started,
    StepFailed,
    StepSucceeded,
    WaitEnded,
    WaitStarted,
)
from executor.core.errors import Corrupt
from executor.core.failure import ErrorFact
from executor.core.replay import Divergence, Replay, TimedOut, asked

VERDICT = (
    "Commit and journal are the same as then, so the code is not deterministic: run() decided differently on equal "
    "facts (order of a set, a global variable, the environment, a file?). Resume the instance to try again, or "
    "terminate it and start another on code where that is a step."
)
ASKED = asked("step", "a", 1)


def started() -> Replay:
    replay = Replay()
    assert replay.accept(1, Started(0, "W", "c", b"", b"")) is None
    return replay


def succeeded(path: str, digest: bytes = ASKED, where: str = "w.py:1") -> StepSucceeded:
    return StepSucceeded(0, path, digest, where, 1, 0, b"value")


def test_occurrences_number_the_uses_of_a_name() -> None:
    replay = started()
    assert [replay.request("step", name, b"", "").path for name in ("a", "b", "a")] == ["a#1", "b#1", "a#2"]


def test_result_resolves_its_request() -> None:
    replay = started()
    request = replay.request("step", "a", ASKED, "w.py:9")
    entry = succeeded("a#1")
    resolution = replay.accept(2, entry)
    assert (resolution.request, resolution.outcome) == (request, entry)
    assert replay.find("a#1") is None


def test_request_without_an_entry_is_no_divergence() -> None:
    replay = started()
    replay.request("step", "new", b"", "")
    replay.request("step", "a", ASKED, "")
    assert not isinstance(replay.accept(2, succeeded("a#1")), Divergence)
    assert [request.path for request in replay.waiting()] == ["new#1"]


def test_entries_that_resolve_nothing() -> None:
    replay = started()
    sleep = replay.request("sleep", "s", ASKED, "")
    step = replay.request("step", "a", ASKED, "")
    failed = AttemptFailed(0, "a#1", ASKED, "", 1, 0, ErrorFact("E", "m"), 9, 5)
    for sequence, entry in enumerate(
        [SleepStarted(0, "s#1", ASKED, "", 9), failed, EventReceived(0, "e", "t", b"", 1), Paused(0), Resumed(0)],
        start=2,
    ):
        assert replay.accept(sequence, entry) is None
    assert (sleep.recorded, step.recorded, step.attempts_failed) == (True, True, 1)


def test_wait_gets_the_event_that_its_entry_names() -> None:
    replay = started()
    replay.request("wait", "w", ASKED, "")
    event = EventReceived(0, "e", "t", b"payload", 1)
    replay.accept(2, event)
    replay.accept(3, WaitStarted(0, "w#1", ASKED, "", "t", None))
    assert replay.accept(4, WaitEnded(0, "w#1", 1)).outcome is event


def test_wait_without_event_timed_out() -> None:
    replay = started()
    replay.request("wait", "w", ASKED, "")
    replay.accept(2, WaitStarted(0, "w#1", ASKED, "", "t", 5))
    assert replay.accept(3, WaitEnded(0, "w#1", None)).outcome == TimedOut()


def test_event_given_to_a_wait_that_was_given_up_stays_for_another() -> None:
    replay = started()
    first = replay.request("wait", "w", ASKED, "")
    replay.accept(2, WaitStarted(0, "w#1", ASKED, "", "t", None))
    replay.accept(3, EventReceived(0, "e", "t", b"", 1))
    replay.give_up(first)
    assert replay.accept(4, WaitEnded(0, "w#1", 1)) is None
    assert first.event_unseen
    assert replay.accept(5, Cancelled(0, "w#1")) is None
    assert first.cancel_recorded
    replay.request("wait", "w", ASKED, "")
    replay.accept(6, WaitStarted(0, "w#2", ASKED, "", "t", None))
    assert replay.accept(7, WaitEnded(0, "w#2", 1)).outcome.id == "e"


def test_outcome_of_a_request_that_was_given_up_resolves_nothing() -> None:
    replay = started()
    replay.give_up(replay.request("step", "a", ASKED, ""))
    assert replay.accept(2, succeeded("a#1")) is None


def test_entry_that_was_never_requested_names_both_sides() -> None:
    replay = started()
    replay.request("step", "b", ASKED, "w.py:3")
    replay.request("sleep", "s", ASKED, "w.py:4")
    divergence = replay.accept(2, succeeded("a#1"))
    assert divergence.message == (
        'the journal records step "a#1" (w.py:1) (entry 2), but here the code asks for step "b#1" (w.py:3), '
        f'sleep "s#1" (w.py:4). {VERDICT}'
    )
    assert (divergence.recorded.path, divergence.requested.path, divergence.sequence) == ("a#1", "b#1", 2)


def test_entry_after_the_end_of_run_is_a_divergence() -> None:
    replay = started()
    replay.end()
    divergence = replay.accept(2, succeeded("a#1"))
    assert divergence.message == (
        f'the journal records step "a#1" (w.py:1) (entry 2), but here run() ended without asking for it. {VERDICT}'
    )
    assert divergence.requested is None


def test_other_arguments_are_a_divergence() -> None:
    replay = started()
    replay.request("step", "a", asked("step", "a", 2), "w.py:5")
    assert replay.accept(2, succeeded("a#1")).message == (
        'the journal records step "a#1" (w.py:1) (entry 2), but here the code asks for it with other arguments '
        f"(w.py:5). {VERDICT}"
    )


def test_another_kind_is_a_divergence() -> None:
    replay = started()
    replay.request("wait", "a", asked("wait", "a", 1), "w.py:5")
    assert "but here the code asks for it as a wait (w.py:5)" in replay.accept(2, succeeded("a#1")).message


def test_place_in_the_file_is_never_compared() -> None:
    replay = started()
    replay.request("step", "a", ASKED, "elsewhere.py:99")
    assert not isinstance(replay.accept(2, succeeded("a#1")), Divergence)


def test_recorded_cancellation_that_this_run_did_not_make_is_a_divergence() -> None:
    replay = started()
    replay.request("sleep", "s", ASKED, "w.py:4")
    replay.accept(2, SleepStarted(0, "s#1", ASKED, "w.py:4", 9))
    divergence = replay.accept(3, Cancelled(0, "s#1"))
    assert divergence.message == (
        'the journal records (entry 3) that the code gave up sleep "s#1" (w.py:4), but here it still waits for it. '
        + VERDICT
    )


def test_cancellation_that_crossed_with_the_outcome_is_none() -> None:
    replay = started()
    replay.request("sleep", "s", ASKED, "")
    replay.accept(2, SleepStarted(0, "s#1", ASKED, "", 9))
    replay.accept(3, SleepEnded(0, "s#1"))
    assert replay.accept(4, Cancelled(0, "s#1")) is None


def test_second_outcome_is_corrupt() -> None:
    replay = started()
    replay.request("step", "a", ASKED, "")
    replay.accept(2, succeeded("a#1"))
    with pytest.raises(Corrupt, match='journal entry 3 answers step "a#1" a second time'):
        replay.accept(3, StepFailed(0, "a#1", ASKED, "", 1, 0, ErrorFact("E", "m")))


def test_gap_in_the_journal_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="journal entry 3 came after entry 1"):
        started().accept(3, Paused(0))


def test_asked_tells_kind_name_and_arguments_apart() -> None:
    digests = {
        asked("step", "a", (1,), {}),
        asked("step", "a", (2,), {}),
        asked("step", "a", (), {"x": 1}),
        asked("step", "b", (1,), {}),
        asked("sleep", "a", (1,), {}),
        asked("step", "a", (object(),), {}),
    }
    assert len(digests) == 6
    assert {len(digest) for digest in digests} == {16}
    assert asked("step", "a", (object(),), {"x": 1, "y": 2}) == asked("step", "a", (object(),), {"y": 2, "x": 1})


# --- scopes, groups, children, undo


def test_occurrences_are_counted_in_their_scope() -> None:
    replay = started()
    asked_for = [("", "a"), ("g#1", "a"), ("g#1", "a"), ("", "g#1/a")]
    paths = [replay.request("step", name, b"", "", scope).path for scope, name in asked_for]
    assert paths == ["a#1", "g#1/a#1", "g#1/a#2", "g#1/a#3"]


def test_skipped_entries_count_as_seen() -> None:
    replay = started()
    replay.request("step", "a", ASKED, "")
    replay.skip_to(5)
    replay.skip_to(3)
    assert replay.seen == 5
    assert replay.accept(6, succeeded("a#1")).outcome == succeeded("a#1")


def test_group_is_recorded_and_nobody_waits_for_it() -> None:
    replay = started()
    group = replay.request("group", "g", ASKED, "")
    assert replay.waiting() == []
    assert replay.accept(2, GroupStarted(0, "g#1", ASKED, "")) is None
    leave = replay.request_leave("g#1", "")
    assert replay.accept(3, GroupEnded(0, "g#1")) is None
    assert (group.recorded, leave.recorded, replay.find("g#1")) == (True, True, None)


def test_group_that_is_not_left_here_is_a_divergence() -> None:
    replay = started()
    replay.request("group", "g", ASKED, "")
    replay.accept(2, GroupStarted(0, "g#1", ASKED, ""))
    assert replay.accept(3, GroupEnded(0, "g#1")).message == (
        f'the journal records (entry 3) that the code left group "g#1", but here it has not. {VERDICT}'
    )
    assert replay.accept(4, GroupEnded(0, "other#1")).message.startswith(
        'the journal records group "other#1" (entry 4)'
    )


def child(path: str, *, is_awaited: bool) -> ChildRequested:
    return ChildRequested(0, path, ASKED, "", "child-1", "W", "c", None, b"", "terminate", is_awaited)


def test_awaited_child_resolves_with_its_end_and_another_with_its_start() -> None:
    for is_awaited in (True, False):
        replay = started()
        request = replay.request("child", "r", ASKED, "")
        assert replay.accept(2, child("r#1", is_awaited=is_awaited)) is None
        assert request.child == "child-1"
        begun, ended = ChildStarted(0, "r#1", "c"), ChildEnded(0, "r#1", "complete", b"v", None)
        found = [replay.accept(3, begun), replay.accept(4, ended)]
        outcomes = [None if each is None else each.outcome for each in found]
        assert outcomes == ([None, ended] if is_awaited else [begun, None])


def test_end_of_a_child_that_was_never_requested_is_a_divergence() -> None:
    message = started().accept(2, ChildEnded(0, "r#1", "complete", b"v", None)).message
    assert message == f'the journal records child "r#1" (entry 2), but here the code asks for nothing. {VERDICT}'


def test_undo_is_a_step_at_its_own_path_also_after_the_end() -> None:
    replay = started()
    replay.end()
    request = replay.request_undo("g#1/a#1", "w.py:1")
    assert (request.kind, request.path) == ("undo", "undo/g#1/a#1")
    entry = succeeded("undo/g#1/a#1", request.asked)
    assert replay.accept(2, entry).outcome is entry
    assert "here run() ended without asking for it" in replay.accept(3, succeeded("undo/b#1")).message
