"""Which byte streams a journal names: those of the steps that count."""

from __future__ import annotations

from executor.core import blobs, values
from executor.core.entries import AnyEntry, Continued, Restarted, Started, StepSucceeded
from executor.core.folding import fold

START = Started(1, "W", "c" * 40, b"\xc0", b"seed")


def gave(path: str, blob: int) -> StepSucceeded:
    value = blobs.encoded(blobs.Described(blob, 5, "ab"))
    return StepSucceeded(2, path, bytes(16), "w.py:1", 1, 1, value, "stream")


def named(*journal: AnyEntry) -> dict[str, int]:
    return dict(fold([START, *journal]).blobs)


def test_streams_of_steps_that_count_are_named() -> None:
    assert named(gave("a#1", 7), gave("b#1", 8)) == {"a#1": 7, "b#1": 8}


def test_a_result_that_is_no_stream_is_not_named_whatever_it_looks_like() -> None:
    value = values.encode({"id": 7, "size": 5, "sha256": "ab"})
    assert named(StepSucceeded(2, "a#1", bytes(16), "w.py:1", 1, 1, value)) == {}


def test_bytes_that_describe_no_stream_name_the_one_that_nobody_has() -> None:
    for value in (b"", b"\xc1", values.encode(7), values.encode({"id": -1, "size": 5, "sha256": "ab"})):
        assert blobs.named(value) == 0


def test_a_restart_names_what_is_before_the_step_it_goes_back_to() -> None:
    journal = [gave("a#1", 7), gave("b#1", 8)]
    assert named(*journal, Restarted(3, 2, keeps_events=True)) == {"a#1": 7}
    assert named(*journal, Restarted(3, 2, keeps_events=True), gave("b#1", 9)) == {"a#1": 7, "b#1": 9}
    assert named(*journal, Restarted(3, 1, keeps_events=False)) == {}


def test_a_new_execution_names_none_of_the_one_before() -> None:
    assert named(gave("a#1", 7), Continued(3, "W", "c" * 40, b"\xc0", b"seed 2"), gave("c#1", 9)) == {"c#1": 9}
