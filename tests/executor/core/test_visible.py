"""Which entries a run is sent: not how it was executed, and of what it left behind only the events."""

from __future__ import annotations

import pytest

from executor.core import codec
from executor.core.entries import (
    HIDDEN,
    HIDDEN_TAGS,
    Activated,
    AttributesSet,
    ChildClosed,
    Emitted,
    Entry,
    Released,
    StatusSet,
    StepHeartbeat,
    StepStarted,
    StepSucceeded,
)
from executor.core.visible import is_visible

STEP = codec.encode(StepSucceeded(1, "a#1", b"q" * 16, "w.py:1", 1, 1, b"v"), bytes(16))


@pytest.mark.parametrize(
    "entry",
    [Activated(1, 1), Released(1, "waits"), StepStarted(1, "a#1", "w.py:1", 1), ChildClosed(1, "kid")],
    ids=lambda entry: type(entry).__name__,
)
def test_how_it_was_executed_is_not_sent_to_the_run(entry: Entry) -> None:
    assert not is_visible(codec.encode(entry, bytes(16)), 2, (), ())


@pytest.mark.parametrize(
    "entry",
    [
        StatusSet(1, 1, b"\xc0"),
        AttributesSet(1, 1, b"\x80"),
        Emitted(1, "s", 0, [b"\xc0"], "", 0, 1),
        StepHeartbeat(1, "a#1", 1, b"\xc0"),
    ],
    ids=lambda entry: type(entry).__name__,
)
def test_traces_of_what_it_shows_are_sent_so_that_it_shows_nothing_twice(entry: Entry) -> None:
    assert is_visible(codec.encode(entry, bytes(16)), 2, (), ())


def test_of_what_was_left_behind_only_what_is_carried_is_sent() -> None:
    shown = [at for at in range(1, 13) if is_visible(STEP, at, ((2, 5), (9, 11)), {4, 10})]
    assert shown == [1, 4, 6, 7, 8, 10, 12]


def test_what_is_hidden_stays_so_also_where_it_would_be_carried() -> None:
    assert not is_visible(codec.encode(Activated(1, 1), bytes(16)), 3, ((2, 5),), {3})


def test_tags_are_those_of_the_kinds() -> None:
    assert {kind.__struct_config__.tag for kind in HIDDEN} == HIDDEN_TAGS
