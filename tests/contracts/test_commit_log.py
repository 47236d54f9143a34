"""What every commit log must do: one suite over the real one and the fake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from facets import CommitLog, Corrupt, Fenced, Head, Log, PositionConflict, StoreFailed
from tests.contracts.fake_log import Disk, FakeLog

Opener = Callable[[], Log]


@pytest.fixture(params=["real", "fake"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the same log again and again, as different processes would."""
    disk, opened = Disk(), list[Log]()

    def open_log() -> Log:
        log: Log = FakeLog(disk) if request.param == "fake" else CommitLog(tmp_path / "log.db")
        opened.append(log)
        return log

    yield open_log
    for log in opened:
        log.close()


def test_new_log_is_at_position_zero_and_first_claim_is_epoch_one(opener: Opener) -> None:
    log = opener()
    assert log.head() == Head(0, 0)
    assert log.claim() == Head(0, 1)
    assert list(log.read_from(1)) == []


def test_appends_get_the_positions_1_2_3_and_are_read_back_in_order(opener: Opener) -> None:
    log = opener()
    epoch = log.claim().epoch
    assert [log.append(head, epoch, b"%d" % head) for head in range(200)] == list(range(1, 201))
    assert list(log.read_from(1)) == [(number, b"%d" % (number - 1)) for number in range(1, 201)]
    assert list(log.read_from(199)) == [(199, b"198"), (200, b"199")]


def test_another_opening_sees_what_was_appended(opener: Opener) -> None:
    first = opener()
    first.append(0, first.claim().epoch, b"one")
    assert list(opener().read_from(1)) == [(1, b"one")]


def test_append_at_another_head_changes_nothing_and_tells_the_head(opener: Opener) -> None:
    log = opener()
    epoch = log.claim().epoch
    log.append(0, epoch, b"one")
    for wrong in (0, 2):
        with pytest.raises(PositionConflict) as caught:
            log.append(wrong, epoch, b"no")
        assert caught.value.details == {"expected": wrong, "found": 1}
    assert list(log.read_from(1)) == [(1, b"one")]


def test_stale_owner_is_fenced_for_ever_once_another_has_claimed(opener: Opener) -> None:
    stale, owner = opener(), opener()
    old = stale.claim().epoch
    new = owner.claim().epoch
    assert new == old + 1
    for _ in range(2):
        with pytest.raises(Fenced) as caught:
            stale.append(0, old, b"late")
        assert caught.value.details == {"epoch": old, "found": new}
    assert owner.append(0, new, b"mine") == 1
    assert list(owner.read_from(1)) == [(1, b"mine")]


def test_stale_owner_is_fenced_even_where_the_new_owner_has_trimmed(opener: Opener) -> None:
    """The trap of a fence by "this position is free": after trimming, the stale owner's position is free again."""
    stale, owner = opener(), opener()
    old = stale.claim().epoch
    stale.append(0, old, b"one")
    new = owner.claim().epoch
    head = owner.append(owner.append(1, new, b"two"), new, b"three")
    owner.trim(head + 1)
    with pytest.raises(Fenced):
        stale.append(1, old, b"two, again")
    assert owner.head() == Head(3, new)
    assert owner.append(3, new, b"four") == 4


def test_trim_forgets_what_is_below_and_nothing_else(opener: Opener) -> None:
    log = opener()
    epoch = log.claim().epoch
    for head in range(5):
        log.append(head, epoch, b"%d" % head)
    assert log.trim(3) is True
    assert list(log.read_from(3)) == [(3, b"2"), (4, b"3"), (5, b"4")]
    assert log.trim(3) is True
    assert log.trim(6, erase=True) is True
    assert log.head() == Head(5, epoch)
    assert list(log.read_from(6)) == []
    assert log.append(5, epoch, b"5") == 6


def test_reading_what_was_trimmed_says_that_it_is_gone(opener: Opener) -> None:
    log = opener()
    epoch = log.claim().epoch
    for head in range(3):
        log.append(head, epoch, b"x")
    log.trim(3)
    with pytest.raises(Corrupt) as caught:
        list(log.read_from(2))
    assert caught.value.code == "log_gap"
    assert "no position 2, but its head is 3" in caught.value.message


def test_claim_and_head_survive_closing(opener: Opener) -> None:
    log = opener()
    log.append(0, log.claim().epoch, b"one")
    log.trim(2)
    log.close()
    again = opener()
    assert again.head() == Head(1, 1)
    assert again.claim() == Head(1, 2)


def test_closed_log_refuses_to_write(opener: Opener) -> None:
    log = opener()
    epoch = log.claim().epoch
    log.close()
    with pytest.raises(StoreFailed, match="is closed"):
        log.append(0, epoch, b"x")
