"""Where an instance goes back to, by its entries alone."""

from __future__ import annotations

import pytest

from executor.core import rewind
from executor.core.entries import (
    AnyEntry,
    AttemptFailed,
    ChildEnded,
    ChildRequested,
    Failed,
    Restarted,
    Started,
    StepFailed,
    StepStarted,
    StepSucceeded,
    Undoing,
)
from executor.core.errors import Conflict, NotFound
from executor.core.failure import ErrorFact
from executor.core.folding import fold

ERROR = ErrorFact("ValueError", "no", "")
ASKED = b"q" * 16


def begun(path: str) -> AnyEntry:
    return StepStarted(1, path, "w.py:1", 1)


def done(path: str) -> AnyEntry:
    return StepSucceeded(1, path, ASKED, "w.py:1", 1, 1, b"\xc0")


def failed(path: str) -> AnyEntry:
    return StepFailed(1, path, ASKED, "w.py:1", 2, 1, ERROR)


def tried(path: str) -> AnyEntry:
    return AttemptFailed(1, path, ASKED, "w.py:1", 1, 1, ERROR, 5, 1)


def asked(path: str) -> AnyEntry:
    return ChildRequested(1, path, ASKED, "w.py:1", "kid", "W", None, None, b"\xc0", "terminate", True)


def ended(path: str, state: str) -> AnyEntry:
    return ChildEnded(1, path, state, b"\xc0", None)  # type: ignore[arg-type]


def recorded(*entries: AnyEntry) -> list[tuple[int, AnyEntry]]:
    journal = [Started(1, "W", "c", b"\xc0", b"seed"), *entries]
    instance = fold(journal)
    counted = rewind.sequences(instance.begin_at, instance.sequence, instance.cuts)
    return [(sequence, journal[sequence - 1]) for sequence in counted]


@pytest.mark.parametrize(
    ("entries", "after"),
    [
        ([failed("a#1")], 1),
        ([begun("a#1"), done("a#1"), begun("b#1"), tried("b#1"), failed("b#1"), Failed(1, ERROR)], 3),
        # A failure that run() caught, and then another.
        ([failed("a#1"), done("b#1"), failed("c#1")], 3),
        # Of two that were executing at once, the first that failed is not the last.
        ([begun("a#1"), begun("b#1"), failed("b#1"), failed("a#1")], 1),
        ([done("a#1"), asked("kid#1"), ended("kid#1", "failed")], 2),
        ([failed("a#1"), asked("kid#1"), ended("kid#1", "complete")], 1),
        ([failed("a#1"), failed("update/u-1/b#1")], 1),
        # What an earlier restart left behind is not looked at.
        ([failed("a#1"), Failed(1, ERROR), Restarted(1, 1, True), done("a#1"), failed("b#1")], 5),
    ],
)
def test_a_retry_begins_with_the_step_that_failed_last(entries: list[AnyEntry], after: int) -> None:
    assert rewind.before_failure(recorded(*entries), id="i") == after


@pytest.mark.parametrize(
    "entries",
    [[], [done("a#1")], [failed("update/u-1/b#1")], [failed("a#1"), Failed(1, ERROR), Restarted(1, 1, False)]],
)
def test_where_no_step_failed_a_retry_says_to_restart(entries: list[AnyEntry]) -> None:
    with pytest.raises(Conflict) as caught:
        rewind.before_failure(recorded(*entries), id="i")
    assert caught.value.code == "invalid_state"
    assert caught.value.message == 'no step of instance "i" failed: run() raised by itself, and would again'
    assert caught.value.hint == "Restart it, from its beginning or from a step."


UNDONE = [
    done("a#1"),
    done("b#1"),
    done("c#1"),
    failed("d#1"),
    Undoing(1, ERROR),
    begun("undo/c#1"),
    failed("undo/c#1"),
    done("undo/b#1"),
    Failed(1, ERROR),
]


def test_a_retry_keeps_no_result_of_a_step_that_was_undone() -> None:
    with pytest.raises(Conflict) as caught:
        rewind.before_failure(recorded(*UNDONE), id="i")
    assert caught.value.code == "invalid_state"
    assert caught.value.message == 'instance "i" cannot begin again with "d#1": "b#1" before it has been undone'
    assert caught.value.hint == 'Restart it from its beginning, or from "b#1".'


@pytest.mark.parametrize(("path", "after"), [("a#1", 1), ("b#1", 2), ("c#1", None), ("d#1", None), ("undo/b#1", None)])
def test_what_was_undone_is_never_kept(path: str, after: int | None) -> None:
    """A step whose undoing failed, too: nobody knows what is left of it."""
    if after is not None:
        assert rewind.before_step(recorded(*UNDONE), path, id="i") == after
        return
    with pytest.raises(Conflict) as caught:
        rewind.before_step(recorded(*UNDONE), path, id="i")
    assert caught.value.code == "invalid_state"


def test_a_step_whose_undoing_only_began_is_not_kept_either() -> None:
    with pytest.raises(Conflict):
        rewind.before_step(recorded(done("a#1"), done("b#1"), Undoing(1, None), begun("undo/a#1")), "b#1", id="i")


def test_undoing_nothing_that_is_kept_takes_nothing_away() -> None:
    entries = [done("a#1"), begun("b#1"), failed("c#1"), done("b#1"), Undoing(1, ERROR), done("undo/b#1")]
    assert rewind.before_failure(recorded(*entries), id="i") == 3


def test_what_was_undone_before_a_restart_from_the_beginning_does_not_count() -> None:
    entries = [*UNDONE, Restarted(1, 1, False), done("a#1"), done("b#1"), failed("c#1")]
    assert rewind.before_failure(recorded(*entries), id="i") == len(UNDONE) + 4


def test_an_unknown_step_is_told_with_the_latest_ones() -> None:
    with pytest.raises(NotFound) as caught:
        rewind.before_step(recorded(), "a#1", id="i")
    assert (caught.value.code, caught.value.hint) == ("step_not_found", "It has not begun a step.")
    with pytest.raises(NotFound) as caught:
        rewind.before_step(recorded(done("a#1"), done("b#1")), "c#1", id="i")
    assert caught.value.hint == 'Its latest are "a#1", "b#1".'
