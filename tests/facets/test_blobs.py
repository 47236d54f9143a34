"""Blobs of instances: written part by part, swept, erased, copied and moved with their instance."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from facets import Corrupt, Limits, NotFound, Refused, StateStore, StorageFull, StoreFailed, restore, shards
from facets.blobs import BlobStore
from tests.facets.faulty_vfs import FaultyVFS
from tests.facets.making import record

KIB = 1024
PART = os.urandom(64 * KIB)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    with StateStore.open(tmp_path / "state", fold="manual") as opened:
        opened.append([record("a", 1), record("b", 1)])
        yield opened


def put(store: StateStore, instance: str, id: int, first: int = 0, *parts: bytes, keep: tuple[int, ...] = ()) -> None:
    store.blobs.put("acme", instance, id, first, parts or (PART,), keep=keep)


def parts(store: StateStore, instance: str, id: int) -> list[bytes]:
    found: list[bytes] = []
    while (part := store.blobs.part("acme", instance, id, len(found))) is not None:
        found.append(part)
    return found


def size(store: StateStore) -> int:
    """Bytes of the file, with all that is gone erased."""
    store.fold()
    assert (store.path / "blobs.db-wal").stat().st_size == 0
    return (store.path / "blobs.db").stat().st_size


def test_there_is_no_file_before_the_first_blob(store: StateStore) -> None:
    assert not (store.path / "blobs.db").exists()
    assert store.blobs.part("acme", "a", 7, 0) is None
    assert store.blobs.sizes("acme", "a") == {}
    store.blobs.sweep(1, ())
    store.fold()
    assert store.check() == []
    assert not (store.path / "blobs.db").exists()


def test_parts_are_read_as_they_were_written_also_after_a_start(tmp_path: Path) -> None:
    first, second = [os.urandom(KIB * number) for number in (3, 2, 9)], [b"x"]
    with StateStore.open(tmp_path, fold="manual") as store:
        store.append([record("a", 1), record("b", 1)])
        put(store, "a", 7, 0, *first[:2])
        put(store, "b", 7, 0, *second)
        put(store, "a", 7, 2, first[2])
    with StateStore.open(tmp_path, fold="manual") as store:
        assert parts(store, "a", 7) == first
        assert parts(store, "b", 7) == second
        assert parts(store, "a", 8) == []
        assert store.blobs.sizes("acme", "a") == {7: 14 * KIB}
        assert store.check() == []


def test_every_put_is_durable_when_it_returns(tmp_path: Path) -> None:
    vfs = FaultyVFS()
    with StateStore.open(tmp_path, fold="manual", vfs=vfs.name) as store:
        store.append([record("a", 1)])
        for first in range(3):
            vfs.syncs.clear()
            put(store, "a", 7, first)
            assert "blobs.db-wal" in vfs.syncs
            assert "log.db-wal" not in vfs.syncs


@pytest.mark.parametrize("first", [0, 1, 3])
def test_a_part_out_of_order_is_refused_and_changes_nothing(store: StateStore, first: int) -> None:
    put(store, "a", 7, 0, b"0", b"1")
    put(store, "a", 8, 0, b"other", keep=(7,))
    with pytest.raises(Refused, match=f"Part {first or 2} of a blob came where part") as caught:
        put(store, "a", 7 if first else 9, first or 2, b"x", keep=(7, 8))
    assert caught.value.code == "blob_out_of_order"
    assert (parts(store, "a", 7), parts(store, "a", 8)) == ([b"0", b"1"], [b"other"])


def test_blobs_of_an_instance_are_bounded_together(tmp_path: Path) -> None:
    with StateStore.open(tmp_path, fold="manual", limits=Limits(blobs_bytes_max=100)) as store:
        store.append([record("a", 1), record("b", 1)])
        put(store, "a", 1, 0, bytes(60))
        put(store, "a", 2, 0, bytes(40), keep=(1,))
        put(store, "b", 1, 0, bytes(100))
        with pytest.raises(Refused, match="would have 101 bytes, the limit is 100") as caught:
            put(store, "a", 2, 1, bytes(1))
        assert caught.value.code == "blobs_too_large"
        with pytest.raises(Refused):
            put(store, "a", 3, 0, bytes(101), keep=())
        assert store.blobs.sizes("acme", "a") == {1: 60, 2: 40}, "what was refused has swept nothing"
        put(store, "a", 3, 0, bytes(100), keep=())
        assert store.blobs.sizes("acme", "a") == {3: 100}


def test_a_sweep_spares_what_is_named(store: StateStore) -> None:
    for blob in (1, 2, 3):
        put(store, "a", blob, keep=(1, 2, 3))
    put(store, "b", 1)
    store.blobs.sweep(1, (2,))
    assert set(store.blobs.sizes("acme", "a")) == {2}
    assert store.blobs.part("acme", "a", 1, 0) is None
    assert set(store.blobs.sizes("acme", "b")) == {1}
    assert (store.blobs.may_have(1), store.blobs.may_have(2), store.blobs.may_have(3)) == (True, True, False)
    store.blobs.sweep(1, ())
    assert not store.blobs.may_have(1)


def test_what_is_swept_gives_its_room_back(store: StateStore) -> None:
    put(store, "a", 1, 0, b"stays")
    before = size(store)
    for number in range(8):
        put(store, "a", 2, number * 16, *[PART] * 16, keep=(1,))
    assert size(store) > 8 * KIB * KIB
    store.blobs.sweep(1, (1,))
    assert size(store) == before
    assert parts(store, "a", 1) == [b"stays"]
    assert store.check() == []


def test_what_was_swept_is_not_in_the_file_any_more(store: StateStore) -> None:
    secret = b"a secret that is gone" * 50
    put(store, "a", 1, 0, b"stays", secret)
    put(store, "a", 2, 0, b"stays", keep=())
    size(store)
    assert secret[:21] not in (store.path / "blobs.db").read_bytes()


@pytest.mark.parametrize("how", ["instance", "tenant"])
def test_a_deletion_takes_the_blobs_along(store: StateStore, how: str) -> None:
    store.append([record("other", 1, tenant="globex")])
    store.blobs.put("globex", "other", 1, 0, [b"kept"], keep=())
    put(store, "a", 1)
    assert store.delete("acme", "a") if how == "instance" else store.delete_tenant("acme")
    with pytest.raises(NotFound):
        store.blobs.part("acme", "a", 1, 0)
    store.fold()
    store.append([record("a", 1)])
    assert store.blobs.sizes("acme", "a") == {}
    assert store.blobs.part("globex", "other", 1, 0) == b"kept"
    numbers = apsw.Connection(str(store.path / "blobs.db")).execute("SELECT count(*) FROM blob").get
    assert numbers == 1
    assert store.check() == []


def test_a_blob_written_while_its_instance_is_deleted_is_gone(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = BlobStore.put

    def deleted_meanwhile(self: BlobStore, *args: object) -> None:
        store.delete("acme", "a")
        store.fold()
        written(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(BlobStore, "put", deleted_meanwhile)
    with pytest.raises(NotFound):
        put(store, "a", 1)
    assert not store._blobs.may_have(1)
    assert store.check() == []


def test_a_blob_of_an_instance_that_is_gone_is_swept_at_the_start(tmp_path: Path) -> None:
    with StateStore.open(tmp_path, fold="manual") as store:
        store.append([record("a", 1)])
        put(store, "a", 1)
        store._blobs.put(99, 1, 0, [PART], ())
        assert store.check() == ["blobs.db: blob 2 belongs to no instance"]
    with StateStore.open(tmp_path, fold="manual") as store:
        assert store.check() == []
        assert parts(store, "a", 1) == [PART]


def test_erasing_goes_on_after_a_start(tmp_path: Path) -> None:
    with StateStore.open(tmp_path, fold="manual") as store:
        store.append([record("a", 1)])
        put(store, "a", 1, 0, *[PART] * 30)
        store._blobs.sweep(1, ())
        assert store._blobs.erase_some() > 0
        store._blobs.close()  # as if it had been killed here
    with StateStore.open(tmp_path, fold="manual") as store:
        assert size(store) < 100 * KIB


def test_a_failed_fsync_makes_the_store_unusable(tmp_path: Path) -> None:
    vfs = FaultyVFS()
    with StateStore.open(tmp_path, fold="manual", vfs=vfs.name) as store:
        store.append([record("a", 1)])
        put(store, "a", 1)
        vfs.failing_sync = "blobs.db"
        with pytest.raises(StoreFailed):
            put(store, "a", 1, 1)
        vfs.failing_sync = None
        with pytest.raises(StoreFailed):
            put(store, "a", 1, 1)
        with pytest.raises(StoreFailed):
            store.append([record("a", 2)])


def test_a_full_disk_refuses_and_the_same_call_works_later(tmp_path: Path) -> None:
    vfs = FaultyVFS()
    with StateStore.open(tmp_path, fold="manual", vfs=vfs.name) as store:
        store.append([record("a", 1)])
        put(store, "a", 1)
        vfs.full = "blobs.db"
        with pytest.raises(StorageFull):
            put(store, "a", 1, 1, *[PART] * 4)
        assert len(parts(store, "a", 1)) == 1
        vfs.full = None
        put(store, "a", 1, 1, *[PART] * 4)
        assert len(parts(store, "a", 1)) == 5


def test_a_changed_byte_is_found(store: StateStore) -> None:
    put(store, "a", 1)
    store._blobs._ready().execute("UPDATE part SET content = zeroblob(length(content))")
    with pytest.raises(Corrupt, match="Part 0 of a blob does not have its checksum"):
        store.blobs.part("acme", "a", 1, 0)
    assert store.check() == ["blobs.db: blob 1 has not all of its parts as they were written"]


def test_a_backup_has_the_blobs_that_its_journals_name(store: StateStore, tmp_path: Path) -> None:
    put(store, "a", 1)
    copied = store._blobs.copy_to

    def swept_meanwhile(target: Path) -> None:
        store.blobs.sweep(1, ())
        put(store, "b", 2)
        copied(target)

    store._blobs.copy_to = swept_meanwhile  # type: ignore[method-assign]
    store.backup(tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "again")
    with StateStore.open(tmp_path / "again", fold="manual") as again:
        assert parts(again, "a", 1) == parts(again, "b", 2) == [PART]
        assert again.check() == []
    (tmp_path / "backup" / "blobs.db").unlink()
    with pytest.raises(Corrupt, match=r"blobs\.db is missing"):
        restore(tmp_path / "backup", tmp_path / "third")


def test_blobs_move_with_their_instances(tmp_path: Path) -> None:
    chance = random.Random(7)
    wanted: dict[str, list[bytes]] = {}
    shards.arrange(tmp_path, 1)
    with StateStore.open(tmp_path / "state", fold="manual") as store:
        for number in range(12):
            name = f"i{number}"
            store.append([record(name, 1)])
            if number % 3:
                wanted[name] = [chance.randbytes(chance.randrange(1, 5_000)) for _ in range(chance.randrange(1, 4))]
                put(store, name, 5, 0, *wanted[name])
        store.delete("acme", "i1")
        del wanted["i1"]
    for count in (3, 2, 1):
        layout = shards.arrange(tmp_path, count)
        found: dict[str, list[bytes]] = {}
        for place in layout.places:
            with StateStore.open(tmp_path / place, fold="manual") as store:
                assert store.check() == []
                names = [row.instance for row in store.list("acme")[0]]
                found |= {name: parts(store, name, 5) for name in names if parts(store, name, 5)}
        assert found == wanted
