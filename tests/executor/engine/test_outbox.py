"""What is posted to a sandbox and not taken: in order, in messages of bounded size, journals by reference."""

from __future__ import annotations

from executor.core.instance import Instance
from executor.core.journal import Journal
from executor.engine.outbox import MESSAGE_BYTES, Outbox
from executor.sandbox.protocol import CHUNK_BYTES, Attempt, Drop, Entries, FacetImage

WHOLE = Instance()


def taken(outbox: Outbox) -> list[list]:
    messages = []
    while outbox:
        messages.append(outbox.take())
    return messages


def test_what_was_posted_together_goes_in_one_message_in_its_order() -> None:
    outbox = Outbox()
    stored = Journal([b"1", b"2", b"3"])
    outbox.post_journal(7, stored, 1, 2, WHOLE)
    outbox.post(Attempt(7, "a#1", 2))
    outbox.post_journal(7, stored, 3, 3, WHOLE)
    outbox.post(Drop(7))
    assert taken(outbox) == [[Entries(7, 1, [b"1", b"2"]), Attempt(7, "a#1", 2), Entries(7, 3, [b"3"]), Drop(7)]]
    assert outbox.take() == []


def test_long_journal_is_cut_into_chunks_only_while_it_is_taken() -> None:
    """Weakness: memory of the host. A sandbox that takes nothing, whatever its runs' journals, costs a reference each."""
    outbox = Outbox()
    stored = Journal([bytes(1000)] * 100_000)
    for run in range(1000):
        outbox.post_journal(run, stored, 1, len(stored), WHOLE)
    assert outbox.posted_bytes == 0
    message = outbox.take()
    assert sum(len(data) for frame in message for data in frame.entries) < MESSAGE_BYTES + CHUNK_BYTES
    sequence = 1 + len(message[0].entries)
    for _ in range(3):
        (frame,) = outbox.take()
        assert (frame.run, frame.first) == (0, sequence)
        sequence += len(frame.entries)


def test_entries_appended_after_the_posting_are_not_sent_with_it() -> None:
    outbox = Outbox()
    stored = Journal([b"1"])
    outbox.post_journal(1, stored, 1, 1, WHOLE)
    stored.append(b"not durable yet")
    assert taken(outbox) == [[Entries(1, 1, [b"1"])]]


def test_posted_bytes_count_until_they_are_taken() -> None:
    outbox = Outbox()
    for offset in range(0, 4 * MESSAGE_BYTES, CHUNK_BYTES):
        outbox.post(FacetImage(1, offset, 4 * MESSAGE_BYTES, bytes(CHUNK_BYTES)))
    before = outbox.posted_bytes
    assert before >= 4 * MESSAGE_BYTES
    outbox.take()
    assert outbox.posted_bytes <= before - MESSAGE_BYTES
    taken(outbox)
    assert outbox.posted_bytes == 0
    outbox.post(Drop(1))
    outbox.clear()
    assert (len(outbox), outbox.posted_bytes) == (0, 0)


def test_taking_a_journal_costs_its_length_once() -> None:
    outbox = Outbox()
    stored = Counted([bytes(500)] * 50_000)
    outbox.post_journal(1, stored, 1, len(stored), WHOLE)
    assert sum(len(frame.entries) for message in taken(outbox) for frame in message) == 50_000
    assert stored.looked_at == 50_000


def test_what_is_not_needed_any_more_is_skipped_as_one_however_much_it_is() -> None:
    outbox = Outbox()
    stored = Counted([b"continued", b"next"], first=9_000_000, earlier={1: b"started", 7_000_000: b"unread"})
    instance = Instance(cuts=((1, 8_999_999),), carried={7_000_000})
    outbox.post_journal(1, stored, 1, len(stored), instance)
    assert taken(outbox) == [[Entries(1, 1, [6_999_999, b"unread", 1_999_999, b"continued", b"next"])]]
    assert stored.looked_at < 10


class Counted(Journal):
    """Counts what is looked at."""

    looked_at = 0

    def get(self, sequence):
        self.looked_at += 1
        return super().get(sequence)
