"""Deleting many and much: one append, out of sight at once, erased a little at a time; ended instances expire."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from facets import Limits, NotFound, OutputLine, StateStore, delta
from facets.erasure import PORTION_BYTES
from facets.fold import ERASE_WAL_BYTES
from tests.facets.faulty_vfs import FaultyVFS
from tests.facets.making import names, record

MIB = 1024 * 1024


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    with StateStore.open(tmp_path / "state", fold="manual") as opened:
        yield opened


def append_large(store: StateStore, name: str, *, tenant: str = "acme", entries: int = 40) -> bytes:
    """An instance with a long journal and a facet; returns the bytes of its last entry."""
    image, entry = b"", b""
    for sequence in range(1, entries + 1):
        entry, changed = os.urandom(20_000), os.urandom(20_000)
        store.append([record(name, sequence, entry, tenant=tenant, delta=delta.between(image, changed), wake=5)])
        image = changed
    return entry


def test_many_deletions_are_one_fsync_and_tell_how_many_there_were(tmp_path: Path) -> None:
    vfs = FaultyVFS()
    with StateStore.open(tmp_path / "state", fold="manual", vfs=vfs.name) as store:
        store.append([record(f"i{number}", 1) for number in range(100)])
        store.fold()
        store.append([record("in the tail", 1)])
        vfs.syncs.clear()
        wanted = [("acme", f"i{number}") for number in range(50)]
        assert store.delete_many([*wanted, ("acme", "in the tail"), ("acme", "nobody"), wanted[0]]) == 51
        assert vfs.syncs == ["log.db-wal"]
        assert store.delete_many(wanted) == 0
        assert store.count("acme") == {"waiting": 50}
        store.fold()
        assert store.count("acme") == {"waiting": 50}
        assert store.check() == []


def test_write_ahead_file_stays_small_while_much_is_erased(store: StateStore) -> None:
    for number in range(4):
        append_large(store, f"i{number}")
    store.fold()
    assert (store.path / "state.db").stat().st_size > 5 * MIB
    store.delete_many([("acme", f"i{number}") for number in range(4)])
    store._fold.fold()
    while store._fold.erase(bytes_max=1):
        size = (store.path / "state.db-wal").stat().st_size
        assert size < 2 * (ERASE_WAL_BYTES + PORTION_BYTES) + MIB, size
    assert store.check() == []


@pytest.mark.parametrize("portions", [0, 1, 3])
@pytest.mark.parametrize("of_tenant", [False, True])
def test_erasing_that_was_cut_off_is_out_of_sight_and_goes_on_at_the_next_start(
    store: StateStore, tmp_path: Path, portions: int, of_tenant: bool
) -> None:
    entry = append_large(store, "gone", tenant="secret-tenant")
    store.append_output([OutputLine("secret-tenant", "gone", 1, 0, 1, "stdout", "", "s", 1, "secret-output")])
    store.append([record("kept", 1, wake=9)])
    store.fold()
    if of_tenant:
        assert store.delete_tenant("secret-tenant") is True
    else:
        assert store.delete("secret-tenant", "gone") is True
    store._fold.fold()
    for _ in range(portions):
        store._fold.erase(bytes_max=1)
    copy = Path(shutil.copytree(store.path, tmp_path / "copy"))
    with StateStore.open(copy, fold="manual") as again:
        for _ in range(2):
            assert again.row("secret-tenant", "gone") is None
            assert again.list("secret-tenant") == ([], None)
            assert again.count("secret-tenant") == {}
            assert again.commits("secret-tenant") == set()
            assert again.next_wake_ms() == 9
            assert names(again.due(100, limit=5)) == ["kept"]
            assert names(again.in_states(["waiting"], limit=5)) == ["kept"]
            assert again.check() == []
            again.fold()
        for path in copy.iterdir():
            content = path.read_bytes()
            for secret in (entry[:40], entry[-40:], b"secret-tenant", b"secret-output"):
                assert secret not in content, path.name


def test_tenant_that_begins_anew_while_it_is_erased_has_only_what_is_new(store: StateStore) -> None:
    store.append([record(f"i{number}", 1, tenant="acme", wake=number) for number in range(1200)])
    store.fold()
    store.delete_tenant("acme")
    store.append([record("i7", 1, b"new", tenant="acme", wake=5000)])
    store._fold.fold()
    while True:
        assert names(store.list("acme")[0]) == ["i7"]
        assert store.count("acme") == {"waiting": 1}
        assert [entry.entry for entry in store.journal("acme", "i7")] == [b"new"]
        assert store.next_wake_ms() == 5000
        assert store.due(4000, limit=5) == []
        if not store._fold.erase(bytes_max=1):
            break
    assert store.check() == []
    with store._readers.snapshot() as snapshot:
        assert snapshot.connection.execute("SELECT count(*) FROM instance").get == 1
        assert snapshot.connection.execute("SELECT count(*) FROM tenant").get == 1


def test_names_that_nobody_needs_are_gone(store: StateStore) -> None:
    store.append([record("a", 1, workflow="SecretWorkflow", commit="secretcommit"), record("b", 1)])
    store.fold()
    store.delete("acme", "a")
    store.fold()
    content = b"".join(path.read_bytes() for path in store.path.iterdir())
    assert b"SecretWorkflow" not in content
    assert b"secretcommit" not in content
    assert store.commits("acme") != set()


# --- expiry


def test_ended_instances_expire_by_state_and_time_in_portions_and_others_stay(store: StateStore) -> None:
    for number in range(30):
        state = ["complete", "failed", "waiting"][number % 3]
        store.append([record(f"i{number:02}", 1, state=state, at=number)])
    store.fold()
    store.append([record("i00", 0, state="queued", at=50)])  # begun again since
    gone: list[str] = []
    after: int | None = 0
    while after is not None:
        found, after = store.expire({"complete": 12, "failed": 21}, after=after, scan=7)
        assert len(found) <= 7
        gone += [instance for _, instance in found]
    assert gone == ["i01", "i03", "i04", "i06", "i07", "i09", "i10", "i13", "i16", "i19"]
    assert store.count("acme") == {"complete": 6, "failed": 3, "waiting": 10, "queued": 1}
    assert store.expire({"complete": 12, "failed": 21}) == ([], None)
    store.fold()
    assert store.check() == []


def test_ended_instance_that_something_is_to_wake_does_not_expire(store: StateStore) -> None:
    store.append([record("a", 1, state="complete", at=1), record("b", 1, state="complete", at=1, wake=0)])
    store.fold()
    assert store.expire({"complete": 2}) == ([("acme", "a")], None)
    store.append([record("b", 0, state="complete", at=1)])
    store.fold()
    assert store.expire({"complete": 2}) == ([("acme", "b")], None)


def test_nothing_expires_from_an_empty_store(store: StateStore) -> None:
    assert store.expire({"complete": 1 << 50}) == ([], None)


# --- what is bounded


def test_facet_history_is_bounded_and_says_where_it_ends(tmp_path: Path) -> None:
    limits = Limits(facet_history_bytes_max=100_000)
    with StateStore.open(tmp_path, fold="manual", limits=limits) as store:
        images = [b""]
        for sequence in range(1, 61):
            image = os.urandom(6000)
            store.append([record("a", sequence, delta=delta.between(images[-1], image))])
            images.append(image)
            store._fold.fold()
        with store._readers.snapshot() as snapshot:
            stored = snapshot.connection.execute("SELECT sum(length(content)) FROM delta").get
            oldest = snapshot.connection.execute("SELECT oldest FROM history").get
        assert 0 < oldest < 60
        assert stored < 200_000
        for sequence in range(61):
            if sequence >= oldest:
                assert store.image("acme", "a", at=sequence) == images[sequence]
            else:
                with pytest.raises(NotFound, match=rf"record {sequence} is not kept any more") as caught:
                    store.image("acme", "a", at=sequence)
                assert caught.value.code == "record_not_kept"
        assert store.check() == []


def test_base_images_are_deflated_better_in_quiet_moments(store: StateStore) -> None:
    image = b"".join(os.urandom(8) + b"the same words again and again, " * 40 for _ in range(60))
    store.append([record("a", 1, delta=delta.between(b"", image + bytes(1000)))])
    more = os.urandom(30_000)
    store.append([record("a", 2, delta=delta.between(image + bytes(1000), image + more))])
    store.fold()

    def base() -> tuple[int, int]:
        with store._readers.snapshot() as snapshot:
            found = snapshot.connection.execute("SELECT length(content), is_packed FROM base").fetchone()
            assert found is not None
            return found

    quick, is_packed = base()
    assert is_packed == 0
    assert store._fold.tidy() is False
    better, is_packed = base()
    assert (is_packed, better < quick) == (1, True)
    assert store._fold.tidy() is False
    assert store.image("acme", "a") == image + more
    assert store.check() == []
