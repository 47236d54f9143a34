"""The fold: what an instance is after the entries of its journal."""

from executor.core import attributes
from executor.core.entries import (
    AttemptFailed,
    AttributesSet,
    Emitted,
    EventReceived,
    Paused,
    Restarted,
    Resumed,
    SleepStarted,
    StatusSet,
    WaitEnded,
    WaitStarted,
)
from executor.core.failure import ErrorFact
from executor.core.folding import fold
from tests.executor.core.strategies import ASKED, started

WHERE = "w.py:1"


def test_pause_shifts_deadlines_and_retries_and_leaves_dates():
    instance = fold(
        [
            started(),
            SleepStarted(2_000, "nap#1", ASKED, WHERE, 5_000),
            SleepStarted(2_000, "date#1", ASKED, WHERE, 5_000, True),
            WaitStarted(2_000, "paid#1", ASKED, WHERE, "paid", 6_000),
            WaitStarted(2_000, "ever#1", ASKED, WHERE, "paid", None),
            AttemptFailed(2_000, "pay#1", ASKED, WHERE, 1, 1_500, ErrorFact("ValueError", "no"), 7_000, 5),
            Paused(3_000),
            Resumed(13_000),
        ]
    )
    assert instance.sleeps == {"nap#1": 15_000, "date#1": 5_000}
    assert [wait.deadline_ms for wait in instance.waits.values()] == [16_000, None]
    assert instance.retries["pay#1"].retry_at_ms == 17_000


def test_type_whose_events_are_all_consumed_leaves_nothing():
    """A new execution takes along the events that wait: what it begins with must be what the whole journal makes."""
    instance = fold(
        [
            started(),
            WaitStarted(2_000, "w#1", ASKED, WHERE, "go", None),
            EventReceived(2_000, "e", "go", b"\xc0", 1),
            WaitEnded(2_000, "w#1", 1),
        ]
    )
    assert instance.buffered == {}


def test_restart_keeps_attributes_and_offsets_of_streams():
    """They were seen outside: a reader's offset stays right. The status is the run's own, and goes back with it."""
    instance = fold(
        [
            started(),
            AttributesSet(2_000, 1, attributes.encode({"customer": "acme"})),
            Emitted(2_000, "words", 0, [b"\x01", b"\x02"], "", 0, 2),
            StatusSet(2_000, 1, b"\x07"),
            Restarted(3_000, 1, False),
        ]
    )
    assert attributes.decode(instance.attributes) == {"customer": "acme"}
    assert instance.emitted == {"words": 2}
    assert instance.status == b""
