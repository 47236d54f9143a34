"""Channels by hand: rollback, undo, moves under a condition; pins."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitstore import ChannelMoved, GitStore, LimitExceeded, NotFound, Refused, TenantNotFound, VersionNotFound
from tests.gitstore.stores import MAIN, NOW_MS, Clock, open_store, push, write_commit

TENANT = "acme"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[GitStore]:
    with open_store(tmp_path / "git", clock=clock) as store:
        store.create_tenant(TENANT)
        yield store


def versions(store: GitStore, letters: str) -> list[str]:
    """Push one commit per letter onto main; equal letters are equal commits."""
    made = [write_commit(store, TENANT, {"workflows.py": letter.encode()}, message=letter) for letter in letters]
    for commit in made:
        push(store, TENANT, commit)
    return made


def live(store: GitStore) -> str:
    channel = store.channel(TENANT)
    assert channel is not None
    return channel.commit


def history(store: GitStore) -> list[tuple[str, str]]:
    """Kind and commit of every move, oldest first."""
    return [(move.kind, move.to_commit) for move in reversed(store.channel_history(TENANT))]


# -- rollback --------------------------------------------------------------------------------------------------------


def test_a_rollback_is_a_new_row_that_moves_the_channel_and_nothing_else(store: GitStore, clock: Clock) -> None:
    a, b = versions(store, "ab")
    before = store.channel_history(TENANT)
    clock.now_ms += 7
    move = store.rollback(TENANT, who="kim", why="b is broken")
    assert (move.kind, move.from_commit, move.to_commit, move.who, move.why) == ("rollback", b, a, "kim", "b is broken")
    assert move.at_ms == NOW_MS + 7
    assert store.channel_history(TENANT) == [move, *before]
    assert live(store) == a
    assert store.refs(TENANT) == {MAIN: b.encode()}, "the branch stays where it was"
    channel = store.channel(TENANT)
    assert channel is not None
    assert channel.deployment_id == store.deployment(TENANT, a).id


def test_rolling_back_twice_goes_back_two_versions(store: GitStore) -> None:
    a, b, _ = versions(store, "abc")
    assert store.rollback(TENANT, who="kim").to_commit == b
    assert store.rollback(TENANT, who="kim").to_commit == a


def test_previous_forgets_what_was_rolled_back(store: GitStore) -> None:
    _, b, _ = versions(store, "abc")
    store.rollback(TENANT, who="kim")
    (d,) = versions(store, "d")
    assert live(store) == d
    assert store.rollback(TENANT, who="kim").to_commit == b, "and not c, which was found bad before"


def test_a_rollback_to_a_named_version_also_forgets_what_was_above_it(store: GitStore) -> None:
    a, b, _, _ = versions(store, "abcd")
    assert store.rollback(TENANT, to=b, who="kim").to_commit == b
    assert store.rollback(TENANT, who="kim").to_commit == a


def test_a_version_that_came_back_by_a_push_has_its_predecessor_in_time(store: GitStore) -> None:
    _, b, _ = versions(store, "aba")
    assert store.rollback(TENANT, who="kim").to_commit == b


def test_a_rollback_takes_a_unique_prefix(store: GitStore) -> None:
    a, _ = versions(store, "ab")
    assert store.rollback(TENANT, to=a[:7], who="kim").to_commit == a


def test_a_rollback_to_a_version_outside_the_stack_puts_it_on_top(store: GitStore) -> None:
    _, b, c = versions(store, "abc")
    store.rollback(TENANT, who="kim")
    assert live(store) == b
    assert store.rollback(TENANT, to=c, who="kim").to_commit == c, "forward again, by name"
    assert store.rollback(TENANT, who="kim").to_commit == b


def test_a_rollback_to_the_present_version_changes_nothing(store: GitStore) -> None:
    _, b = versions(store, "ab")
    before = store.channel_history(TENANT)
    assert store.rollback(TENANT, to=b, who="kim") == before[0]
    assert store.channel_history(TENANT) == before


def test_the_first_version_has_none_before_it(store: GitStore) -> None:
    a, _ = versions(store, "ab")
    store.rollback(TENANT, who="kim")
    with pytest.raises(Refused) as caught:
        store.rollback(TENANT, who="kim")
    assert caught.value.code == "no_previous_version"
    assert str(caught.value) == (
        f"Channel 'live' of tenant 'acme' has no version before {a[:12]}. Name a version to go to."
    )


def test_a_rollback_of_nothing_names_the_channel(store: GitStore) -> None:
    with pytest.raises(NotFound) as caught:
        store.rollback(TENANT, who="kim", channel="production")
    assert caught.value.code == "channel_not_found"
    assert caught.value.message == "Tenant 'acme' has no channel 'production'."
    with pytest.raises(TenantNotFound):
        store.rollback("nobody", who="kim")


def test_a_rollback_to_an_unknown_version_is_refused(store: GitStore) -> None:
    versions(store, "ab")
    undeployed = write_commit(store, TENANT, {"x": b"never deployed"})
    push(store, TENANT, undeployed, ref=b"refs/heads/side", deploy=False)
    for to in ("f" * 40, undeployed):
        with pytest.raises(VersionNotFound) as caught:
            store.rollback(TENANT, to=to, who="kim")
        assert caught.value.code == "version_not_found"
    assert len(store.channel_history(TENANT)) == 2


def test_a_rollback_to_a_collected_version_is_refused(tmp_path: Path) -> None:
    from gitstore import Limits

    with open_store(tmp_path / "git", limits=Limits(channel_history_kept=1)) as store:
        store.create_tenant(TENANT)
        a, b, c = versions(store, "abc")
        store.collect_garbage(TENANT, keep=[])
        with pytest.raises(
            VersionNotFound, match=f"Commit {a[:12]} of tenant 'acme' is not in its repository"
        ) as caught:
            store.rollback(TENANT, to=a, who="kim")
        assert caught.value.hint == "It was never pushed, or garbage collection removed it; push it again."
        assert live(store) == c
        assert store.rollback(TENANT, who="kim").to_commit == b, "what the last move came from is kept"


def test_two_operators_do_not_roll_back_twice_by_accident(store: GitStore) -> None:
    a, b, c = versions(store, "abc")
    store.rollback(TENANT, who="kim", expected=c)
    with pytest.raises(ChannelMoved) as caught:
        store.rollback(TENANT, who="lee", expected=c)
    assert caught.value.code == "channel_moved"
    assert caught.value.message == f"Channel 'live' is at {b[:12]}, not at {c[:12]}."
    assert caught.value.details == {"channel": "live", "expected": c, "found": b}
    assert live(store) == b
    assert a != b


# -- undo ------------------------------------------------------------------------------------------------------------


def test_an_undo_brings_back_the_channel_and_its_previous(store: GitStore) -> None:
    a, b, c = versions(store, "abc")
    rollback = store.rollback(TENANT, to=a, who="kim")
    undo = store.undo(TENANT, rollback.id, who="lee", why="wrong tenant")
    assert (undo.kind, undo.from_commit, undo.to_commit, undo.who, undo.why) == ("undo", a, c, "lee", "wrong tenant")
    assert live(store) == c
    assert store.rollback(TENANT, who="kim").to_commit == b


def test_undoing_an_undo_brings_the_move_back(store: GitStore) -> None:
    a, b = versions(store, "ab")
    rollback = store.rollback(TENANT, who="kim")
    undo = store.undo(TENANT, rollback.id, who="kim")
    assert live(store) == b
    store.undo(TENANT, undo.id, who="kim")
    assert live(store) == a
    assert [kind for kind, _ in history(store)] == ["push", "push", "rollback", "undo", "undo"]


def test_a_push_can_be_undone(store: GitStore) -> None:
    a, b = versions(store, "ab")
    store.undo(TENANT, store.channel_history(TENANT)[0].id, who="kim")
    assert live(store) == a
    assert store.refs(TENANT) == {MAIN: b.encode()}


def test_only_the_latest_move_can_be_undone(store: GitStore) -> None:
    versions(store, "abc")
    latest, second, _ = store.channel_history(TENANT)
    with pytest.raises(ChannelMoved) as caught:
        store.undo(TENANT, second.id, who="kim")
    assert caught.value.message == (
        f"Move {second.id} of channel 'live' cannot be undone: move {latest.id} came after."
    )


def test_the_first_move_and_foreign_moves_cannot_be_undone(store: GitStore) -> None:
    versions(store, "a")
    (first,) = store.channel_history(TENANT)
    with pytest.raises(Refused) as caught:
        store.undo(TENANT, first.id, who="kim")
    assert caught.value.code == "no_previous_version"
    store.create_tenant("other")
    with pytest.raises(NotFound) as foreign:
        store.undo("other", first.id, who="kim")
    assert foreign.value.code == "move_not_found"


# -- moves -----------------------------------------------------------------------------------------------------------


def test_a_channel_is_made_by_its_first_move(store: GitStore) -> None:
    a, b = versions(store, "ab")
    move = store.move_channel(TENANT, "production", to=a, who="kim", why="tested")
    assert (move.channel, move.from_commit, move.to_commit, move.kind) == ("production", None, a, "deploy")
    assert [(channel.name, channel.commit) for channel in store.channels(TENANT)] == [("live", b), ("production", a)]


def test_of_concurrent_moves_from_one_place_exactly_one_happens(store: GitStore) -> None:
    made = versions(store, "abcdef")
    start = made[-1]
    barrier = threading.Barrier(5)
    outcomes: list[str] = []

    def mover(to: str) -> None:
        barrier.wait()
        try:
            store.move_channel(TENANT, "live", to=to, who="kim", why="", expected=start)
            outcomes.append("moved")
        except ChannelMoved:
            outcomes.append("lost")

    threads = [threading.Thread(target=mover, args=(to,)) for to in made[:-1]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost"] * 4 + ["moved"]
    assert len(history(store)) == 7


def test_channels_of_tenants_are_apart(store: GitStore) -> None:
    versions(store, "ab")
    store.create_tenant("other")
    assert store.channel("other") is None
    assert store.channel_history("other") == []


# -- pinned channels -------------------------------------------------------------------------------------------------


def test_a_push_deploys_but_does_not_move_a_pinned_channel(store: GitStore) -> None:
    a, b = versions(store, "ab")
    channel = store.pin_channel(TENANT, a, who="kim", why="freeze")
    assert (channel.commit, channel.is_pinned, channel.who) == (a, True, "kim")
    c = write_commit(store, TENANT, {"workflows.py": b"c"})
    done = push(store, TENANT, c)
    assert done.move is None
    assert done.pinned == channel
    assert done.deployment is not None
    assert done.deployment.channel == "", "it moved none"
    assert live(store) == a
    assert store.refs(TENANT) == {MAIN: c.encode()}
    assert b != c


def test_after_unpinning_the_next_push_moves_the_channel(store: GitStore) -> None:
    a, _ = versions(store, "ab")
    store.pin_channel(TENANT, a, who="kim", why="freeze")
    channel = store.unpin_channel(TENANT, who="lee", why="thaw")
    assert (channel.commit, channel.is_pinned, channel.who) == (a, False, "lee")
    (c,) = versions(store, "c")
    assert live(store) == c
    assert store.rollback(TENANT, who="kim").to_commit == a
    assert [kind for kind, _ in history(store)] == ["push", "push", "pin", "unpin", "push", "rollback"]


def test_pinning_and_unpinning_twice_changes_nothing(store: GitStore) -> None:
    (a,) = versions(store, "a")
    for act in (
        lambda: store.pin_channel(TENANT, a, who="kim", why=""),
        lambda: store.unpin_channel(TENANT, who="kim", why=""),
    ):
        first = act()
        moves = store.channel_history(TENANT)
        assert act() == first
        assert store.channel_history(TENANT) == moves


def test_pinning_where_the_channel_is_hides_no_version(store: GitStore) -> None:
    a, b = versions(store, "ab")
    store.pin_channel(TENANT, b, who="kim", why="")
    assert store.rollback(TENANT, who="kim").to_commit == a
    channel = store.channel(TENANT)
    assert channel is not None
    assert channel.is_pinned, "a rollback moves a pinned channel and keeps it pinned"


def test_undoing_a_pin_loosens_the_channel_again(store: GitStore) -> None:
    a, b = versions(store, "ab")
    store.pin_channel(TENANT, a, who="kim", why="")
    store.undo(TENANT, store.channel_history(TENANT)[0].id, who="kim")
    channel = store.channel(TENANT)
    assert channel is not None
    assert (channel.commit, channel.is_pinned) == (b, False)
    store.pin_channel(TENANT, b, who="kim", why="")
    undo = store.undo(TENANT, store.channel_history(TENANT)[0].id, who="kim")
    assert (undo.from_commit, undo.to_commit) == (b, b)
    channel = store.channel(TENANT)
    assert channel is not None
    assert not channel.is_pinned


def test_a_channel_that_does_not_exist_cannot_be_unpinned(store: GitStore) -> None:
    with pytest.raises(NotFound) as caught:
        store.unpin_channel(TENANT, channel="production", who="kim", why="")
    assert caught.value.code == "channel_not_found"


# -- pins ------------------------------------------------------------------------------------------------------------


def test_a_pin_is_counted_once_per_reason(store: GitStore) -> None:
    (a,) = versions(store, "a")
    store.pin(TENANT, a, reason="audit")
    store.pin(TENANT, a, reason="audit")
    store.pin(TENANT, a[:9], reason="instance")
    assert [(pin.commit, pin.reason, pin.pinned_at_ms) for pin in store.pins(TENANT)] == [
        (a, "audit", NOW_MS),
        (a, "instance", NOW_MS),
    ]
    store.unpin(TENANT, a, reason="audit")
    store.unpin(TENANT, a, reason="audit")
    assert [pin.reason for pin in store.pins(TENANT)] == ["instance"]


def test_only_a_commit_of_the_tenants_repository_can_be_pinned(store: GitStore) -> None:
    (a,) = versions(store, "a")
    blob = store.repository(TENANT).files(a)[0].oid
    store.create_tenant("other")
    for tenant, oid in ((TENANT, "f" * 40), (TENANT, blob), ("other", a)):
        with pytest.raises(VersionNotFound):
            store.pin(tenant, oid, reason="audit")
        assert store.pins(tenant) == []


def test_a_reason_is_bounded(store: GitStore) -> None:
    (a,) = versions(store, "a")
    with pytest.raises(LimitExceeded, match=r"The reason \(300\) is over the limit of 256 \(label_bytes_max\)\."):
        store.pin(TENANT, a, reason="x" * 300)
