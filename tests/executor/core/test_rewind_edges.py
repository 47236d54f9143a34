"""What going back looks at, and what not: other executions, what a restart left behind, steps of update handlers."""

from __future__ import annotations

import pytest

from executor.core import rewind
from executor.core.entries import AnyEntry, Continued, Failed, Restarted
from executor.core.errors import Conflict, NotFound
from tests.executor.core.test_rewind import ERROR, asked, done, ended, failed, recorded

CONTINUED = Continued(1, "W", "c", b"\xc0", b"again")


@pytest.mark.parametrize("state", ["failed", "terminated", "refused"])
def test_called_child_that_ended_badly_counts_as_a_failed_step(state: str) -> None:
    assert rewind.before_failure(recorded(failed("a#1"), asked("kid#1"), ended("kid#1", state)), id="i") == 2


@pytest.mark.parametrize("entry", [failed("update/u-1/b#1"), ended("update/u-1/b#1", "failed"), failed("undo/a#1")])
def test_what_fails_in_an_update_or_an_undo_is_not_what_failed_the_instance(entry: AnyEntry) -> None:
    with pytest.raises(Conflict):
        rewind.before_failure(recorded(done("a#1"), entry, Failed(1, ERROR)), id="i")


def test_steps_of_earlier_executions_are_not_those_of_this_one() -> None:
    entries = recorded(done("a#1"), failed("b#1"), CONTINUED, done("a#1"))
    assert rewind.before_step(entries, "a#1", id="i") == 4
    with pytest.raises(NotFound):
        rewind.before_step(entries, "b#1", id="i")
    with pytest.raises(Conflict):
        rewind.before_failure(entries, id="i")


def test_what_a_restart_left_behind_is_there_no_more() -> None:
    entries = [done("a#1"), done("b#1"), failed("c#1"), Restarted(1, 2, True)]
    assert rewind.before_step(recorded(*entries), "a#1", id="i") == 1
    for path in ("b#1", "c#1"):
        with pytest.raises(NotFound) as caught:
            rewind.before_step(recorded(*entries), path, id="i")
        assert caught.value.hint == 'Its latest are "a#1".'
    assert rewind.before_step(recorded(*entries, done("b#1")), "b#1", id="i") == 5


def test_of_many_steps_the_latest_ten_are_told() -> None:
    with pytest.raises(NotFound) as caught:
        rewind.before_step(recorded(*(done(f"a#{number}") for number in range(1, 13))), "b#1", id="i")
    told = ", ".join(f'"a#{number}"' for number in range(3, 13))
    assert caught.value.hint == f"Its latest are {told}."


def test_step_that_was_undone_after_the_one_to_begin_with_is_no_obstacle() -> None:
    undone = [done("a#1"), done("b#1"), Failed(1, ERROR), done("undo/b#1"), done("undo/a#1")]
    assert rewind.before_step(recorded(*undone), "a#1", id="i") == 1
    with pytest.raises(Conflict) as caught:
        rewind.before_step(recorded(*undone), "b#1", id="i")
    assert caught.value.message == 'instance "i" cannot begin again with "b#1": "a#1" before it has been undone'


@pytest.mark.parametrize(
    ("name", "occurrence", "after"),
    [("a", 1, 1), ("a", 2, 2), ("a#2", 1, 2), ("a#3", 1, 3), ("g#1/b", 1, 5), ("g#1/b#1", 1, 5)],
)
def test_step_is_named_by_name_and_occurrence_or_by_its_whole_path(name: str, occurrence: int, after: int) -> None:
    """What a name says goes first: a step may be called "a#3"."""
    entries = recorded(done("a#1"), done("a#2"), done("a#3#1"), done("a#3"), done("g#1/b#1"))
    assert rewind.before_named(entries, name, occurrence, id="i") == after


@pytest.mark.parametrize(("name", "occurrence"), [("a#1", 2), ("b", 1), ("", 1)])
def test_step_that_is_not_there_is_told_as_it_was_asked_for(name: str, occurrence: int) -> None:
    with pytest.raises(NotFound) as caught:
        rewind.before_named(recorded(done("a#1")), name, occurrence, id="i")
    assert caught.value.message == f'instance "i" has no step "{name}#{occurrence}" in its journal'
