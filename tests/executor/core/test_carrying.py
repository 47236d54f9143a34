"""What an execution takes along makes the same instance as the whole journal, whatever was in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.core import bounds, carrying, codec, decide
from executor.core import entries as e
from executor.core.errors import Corrupt
from executor.core.folding import fold, restarted
from executor.core.instance import Instance
from executor.core.journal import Journal

ASKED, NIL, SEED = b"q" * 16, b"\xc0", b"s" * 16
STARTED = e.Started(1, "W", "c" * 40, NIL, SEED, None)


class Story:
    """An instance that is written as the engine does it, with its whole journal and the one that it needs."""

    def __init__(self) -> None:
        self.instance = Instance()
        self.stored: list[bytes] = []
        self.needed = Journal()
        self.number = 0
        self.add(STARTED)

    def add(self, *entries: e.AnyEntry) -> None:
        for raw in entries:
            entry = carrying.complete(self.instance, raw)
            if isinstance(entry, e.Restarted):
                past = carrying.load(self.needed.upto(entry.after))
                self.instance = restarted(self.instance, past, entry)
            else:
                self.instance.apply(entry)
            data = codec.encode(entry, self.instance.chain)
            self.stored.append(data)
            self.needed.append(data)
            if isinstance(entry, e.Continued):
                self.needed = self.needed.without_past(self.instance.sequence, carrying.needed(entry))

    def do(self, what: str, which: int) -> None:
        self.number += 1
        now, path, instance = self.number, f"{what}#{self.number}", self.instance
        match what:
            case "event":
                self.add(
                    *decide.on_event(
                        instance, id=f"e{self.number}", type="ab"[which % 2], payload=NIL, now_ms=now
                    ).entries
                )
            case "read":
                kind = "ab"[which % 2]
                queue = instance.buffered.get(kind)
                waits = e.WaitStarted(now, path, ASKED, "w:1", kind, None)
                self.add(waits, *([e.WaitEnded(now, path, queue[0])] if queue else []))
            case "step":
                self.add(e.StepSucceeded(now, path, ASKED, "w:1", 1, now, NIL))
            case "sleep":
                self.add(e.SleepStarted(now, path, ASKED, "w:1", now + 5))
            case "status":
                self.add(e.StatusSet(now, instance.status_number + 1, bytes([0x40 + which % 9])))
            case "attributes":
                self.add(e.AttributesSet(now, instance.attributes_number + 1, b"\x81\xa1a" + bytes([which % 9])))
            case "emit":
                stream = "xy"[which % 2]
                self.add(e.Emitted(now, stream, instance.emitted.get(stream, 0), [NIL] * (1 + which % 3), "", 0, now))
            case "update":
                accepted = e.UpdateAccepted(now, f"u{self.number}", "set", NIL)
                self.add(accepted, *([e.UpdateEnded(now, accepted.id, NIL, None)] if which % 4 else []))
            case "child":
                self.add(
                    e.ChildRequested(
                        now, path, ASKED, "w:1", f"child{self.number}", "W", "c" * 40, None, NIL, "terminate", True
                    )
                )
            case "closed" if instance.to_close:
                self.add(e.ChildClosed(now, min(instance.to_close)))
            case "continue":
                self.add(e.Continued(now, "W", "c" * 40, NIL, SEED))
            case "restart":
                span = instance.sequence - instance.begin_at + 1
                cut = {at for first, last in instance.cuts for at in range(first, last + 1)}
                after = instance.begin_at + which % span
                if after not in cut:
                    self.add(e.Restarted(now, after, keeps_events=which % 3 > 0))
            case "pause":
                self.add(e.Resumed(now) if instance.is_paused else e.Paused(now))
            case _:
                pass


WHAT = ["event", "event", "read", "step", "sleep", "status", "attributes", "emit", "update", "child", "closed", "pause"]
DONE = st.tuples(st.sampled_from([*WHAT, "continue", "restart"]), st.integers(0, 50))


@given(st.lists(DONE, max_size=30))
def test_an_instance_is_the_same_from_its_execution_on_as_from_its_whole_journal(done: list[tuple[str, int]]) -> None:
    story = Story()
    for what, which in done:
        story.do(what, which)
        whole = fold(codec.decode_journal(story.stored))
        assert whole == story.instance
        assert carrying.load(story.needed) == whole
        first = story.needed.first
        assert [story.needed.get(at) for at in range(first, len(story.stored) + 1)] == story.stored[first - 1 :]


def continued(*done: str) -> Story:
    story = Story()
    for what in (*done, "continue"):
        story.do(what, 1)
    return story


def test_of_before_only_the_start_and_unread_events_are_needed() -> None:
    story = continued("step", "event", "read", "event", "step", "sleep")
    assert story.instance.begin_at == 9
    assert list(story.needed.earlier()) == [1, 6]
    assert story.needed.kept == 3
    assert len(story.needed) == 9


def test_ids_of_events_of_before_are_known_as_far_as_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.core.instance.EVENT_IDS_KEPT_MAX", 3)
    story = Story()
    story.do("event", 0)  # of another type: nobody reads it
    for _ in range(5):
        story.do("event", 1)
        story.do("read", 1)
    story.do("continue", 0)
    assert list(story.instance.event_ids) == ["e1", "e8", "e10"]
    assert decide.on_event(story.instance, id="e10", type="b", payload=NIL, now_ms=99).entries == ()
    assert bounds.EVENT_IDS_KEPT_MAX == 10_000


def test_answers_to_updates_are_known_as_far_as_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.core.instance.UPDATES_CARRIED_MAX", 2)
    story = continued("update", "update", "update")
    assert list(story.instance.updates) == ["u2", "u3"]
    assert list(story.instance.update_digests) == ["u2", "u3"]
    story = Story()
    story.do("update", 0)  # it has not ended, and never will
    story.do("continue", 0)
    assert (story.instance.updates, story.instance.updates_open) == ({}, 0)


@pytest.mark.parametrize("at", [20, 40, 60, -1])
def test_a_changed_byte_of_what_was_taken_along_is_found(at: int) -> None:
    story = continued("event", "update", "status")
    data = bytearray(story.needed.recent()[0])
    data[at] ^= 1
    with pytest.raises(Corrupt):
        carrying.load(Journal([bytes(data)], first=story.needed.first, earlier=story.needed.earlier()))


def test_another_event_in_the_place_of_an_unread_one_is_found() -> None:
    story = continued("event")
    other = codec.encode(e.EventReceived(1, "e1", "b", b"\xc3", 1), b"c" * 16)
    journal = Journal(story.needed.recent(), first=3, earlier={**story.needed.earlier(), 2: other})
    with pytest.raises(Corrupt, match="entry 2 is not the event that the execution took along"):
        carrying.load(journal)


def test_a_payload_that_was_replaced_before_the_beginning_is_still_the_start() -> None:
    story = Story()
    story.add(e.Rescheduled(2, b"\xc3", 50), e.StartDue(50), e.Continued(60, "W", "c" * 40, NIL, SEED))
    assert story.instance.start.payload == b"\xc3"
    assert carrying.load(story.needed) == story.instance


def test_what_is_taken_along_does_not_grow_with_what_was_before() -> None:
    sizes = []
    story = Story()
    for _ in range(3):
        for _ in range(50):
            story.do("step", 0)
        story.do("continue", 0)
        sizes.append(len(story.needed.recent()[0]))
    assert max(sizes) - min(sizes) <= 8
    assert story.needed.kept == 2
