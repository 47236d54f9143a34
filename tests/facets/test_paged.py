"""Large facets in the store: chunks, the deltas behind them, and what the fold does; the host never opens an image."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import apsw
import pytest

from facets import Limits, StateStore, delta, paged, pages, restore
from facets.errors import Corrupt, NotFound
from facets.facet import Facet
from facets.paged_fold import PAGED_REBASE_COUNT
from facets.pages import CHUNK_BYTES, PageCache, chunk_count, unpack_chunk
from tests.facets.making import record

LIMITS = Limits(facet_bytes_max=64 * 1024 * 1024, paged_bytes_min=128 * 1024)
SCHEMA = "create table note(id integer primary key, body text); create index note_body on note(body)"
NAME = ("acme", "i-1")


class Writer:
    """One instance whose facet is written through its pages, as a sandbox does, and its history as whole images."""

    def __init__(self, store: StateStore) -> None:
        self.store = store
        self.images = [b""]
        self.open()

    def open(self) -> None:
        begun = self.store.facet(*NAME)
        self.facet = Facet(
            begun, self.store.limits, fetch=lambda *asked: self.store.pages(*NAME, *asked), cache=PageCache(2**20)
        )

    def step(self, *statements: tuple[str, tuple[object, ...]] | str) -> bytes:
        self.facet.begin_step()
        for statement in statements:
            sql, values = (statement, ()) if isinstance(statement, str) else statement
            self.facet.execute(sql, values)
        change = self.facet.commit_step()
        self.append(change)
        return change

    def append(self, change: bytes) -> None:
        number = len(self.images)
        self.store.append([record(NAME[1], number, delta=change)])
        self.images.append(delta.apply(self.images[-1], change, bytes_max=LIMITS.facet_bytes_max))

    def fill(self, rows: int = 1000) -> None:
        self.step(SCHEMA)
        series = "with recursive n(i) as (select 1 union all select i + 1 from n where i < ?) "
        self.step((series + "insert into note select i, printf('%d %.*c', i * 7919 % 10007, 200, 'x') from n", (rows,)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    with StateStore.open(tmp_path / "store", limits=LIMITS, fold="manual") as opened:
        yield opened


@pytest.fixture
def writer(store: StateStore) -> Writer:
    made = Writer(store)
    made.fill()
    return made


def scalar(store: StateStore, sql: str, *values: object) -> int:
    found: int = store._writer.execute(sql, values).get
    return found


def test_a_facet_over_the_threshold_is_stored_in_chunks(store: StateStore, writer: Writer) -> None:
    assert len(writer.images[-1]) > LIMITS.paged_bytes_min
    assert store.image(*NAME) == writer.images[-1], "from the tail"
    store.fold()
    assert scalar(store, "SELECT count(*) FROM base") == 0
    assert scalar(store, "SELECT size FROM paged") == len(writer.images[-1])
    assert 0 < scalar(store, "SELECT count(*) FROM paged_chunk") <= chunk_count(len(writer.images[-1]))
    assert store.image(*NAME) == writer.images[-1]
    assert store.check() == []


@pytest.mark.parametrize("folds", [0, 1])
def test_pages_are_those_of_the_last_record(store: StateStore, writer: Writer, folds: int) -> None:
    for number in range(5):
        writer.step(("update note set body = ? where id % 50 = ?", (f"changed {number}", number)))
        if folds:
            store.fold()
        image = writer.images[-1]
        count = chunk_count(len(image))
        found = store.pages(*NAME, 0, count + 3)
        assert found.stamp == delta.stamp_of(image)
        assert len(found.chunks) == count
        assert b"".join(map(unpack_chunk, found.chunks))[: len(image)] == image
        assert store.pages(*NAME, count, 1).chunks == []
        assert store.pages(*NAME, 0, 0) == (delta.stamp_of(image), 0, [])


def test_a_facet_is_opened_by_its_first_pages(store: StateStore, writer: Writer) -> None:
    store.fold()
    begun = store.facet(*NAME)
    assert not isinstance(begun, bytes)
    assert len(begun.chunks) == 1
    writer.open()
    writer.step("delete from note where id = 500")
    assert store.image(*NAME) == writer.images[-1]
    assert store.facet("acme", "nobody") == b""
    with pytest.raises(NotFound):
        store.pages("acme", "nobody", 0, 1)


def test_every_record_can_be_read_back(store: StateStore, writer: Writer) -> None:
    for number in range(PAGED_REBASE_COUNT + 5):
        writer.step(("update note set body = ? where id = ?", (f"changed {number}", number * 13 + 1)))
        if number % 20 == 0:
            store.fold()
    store.fold()
    assert scalar(store, "SELECT sequence FROM paged") > 40
    for at, image in enumerate(writer.images):
        if at:
            assert store.image(*NAME, at=at) == image


def test_a_base_moves_on_by_the_chunks_that_changed(store: StateStore, writer: Writer) -> None:
    store.fold()
    before = dict(store._writer.execute("SELECT id, content FROM paged_chunk"))
    for number in range(PAGED_REBASE_COUNT):
        writer.step(("update note set body = ? where id = ?", (f"same {number:3}", 700 + number % 3)))
    store.fold()
    after = dict(store._writer.execute("SELECT id, content FROM paged_chunk"))
    assert scalar(store, "SELECT sequence FROM paged") == len(writer.images) - 1
    changed = [key for key in before | after if before.get(key) != after.get(key)]
    assert 0 < len(changed) < len(after) / 2
    assert store.image(*NAME) == writer.images[-1]


def test_work_of_many_steps_grows_with_their_number_only(store: StateStore, writer: Writer) -> None:
    """No step costs more because there were many before it: chunks packed are counted, not seconds."""
    counts = []
    with mock.patch("facets.paged_fold.pack_chunk", side_effect=pages.pack_chunk) as packing:
        for _ in range(4):
            for number in range(2 * PAGED_REBASE_COUNT):
                writer.step(("update note set body = ? where id = ?", (f"{len(counts)} {number}", number % 100 + 1)))
                store._fold.fold()
            counts.append(packing.call_count - sum(counts))
    assert 0 < max(counts[1:]) <= 1.5 * counts[0]
    assert max(counts) < 2 * PAGED_REBASE_COUNT


def test_a_facet_may_shrink_and_grow_again(store: StateStore, writer: Writer) -> None:
    store.fold()
    image = sqlite3.connect(":memory:")
    image.deserialize(writer.images[-1])
    image.execute("delete from note where id > 20")
    image.commit()
    image.execute("vacuum")
    small = image.serialize()
    assert len(small) < LIMITS.paged_bytes_min
    large = writer.images[-1]
    for target in (small, large, small[: len(small) - 1024 * 5], b"", large):
        writer.append(delta.between(writer.images[-1], target))
        store.fold()
        with mock.patch("facets.paged_fold.PAGED_REBASE_COUNT", 1):
            writer.append(delta.between(target, target + b"\0" * 1024))
            writer.append(delta.between(target + b"\0" * 1024, target))
            store.fold()
        assert scalar(store, "SELECT size FROM paged") == len(target)
        assert scalar(store, "SELECT count(*) FROM paged_chunk") <= chunk_count(len(target))
        assert store.image(*NAME) == target
        assert store.check() == []
    for at, image_at in enumerate(writer.images):
        if at:
            assert store.image(*NAME, at=at) == image_at


def test_a_restart_changes_nothing(tmp_path: Path, store: StateStore, writer: Writer) -> None:
    store.fold()
    writer.step("update note set body = 'late' where id = 3")
    store.close()
    with StateStore.open(tmp_path / "store", limits=LIMITS, fold="manual") as again:
        assert again.image(*NAME) == writer.images[-1]
        reader = Facet.read_only(again.image(*NAME), LIMITS)
        assert reader.execute("select body from note where id = 3") == [("late",)]


def test_deleting_leaves_no_chunk(store: StateStore, writer: Writer) -> None:
    store.fold()
    store.delete(*NAME)
    store.fold()
    assert scalar(store, "SELECT count(*) FROM paged") == 0
    assert scalar(store, "SELECT count(*) FROM paged_chunk") == 0
    writer.images = [b""]
    writer.open()
    writer.fill(10)
    assert store.image(*NAME) == writer.images[-1]


def test_export_backup_and_restore_have_it_whole(tmp_path: Path, store: StateStore, writer: Writer) -> None:
    store.fold()
    writer.step("update note set body = 'late' where id = 3")
    store.export_facet(*NAME, tmp_path / "facet.db")
    assert (tmp_path / "facet.db").read_bytes() == writer.images[-1]
    store.backup(tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "restored")
    with StateStore.open(tmp_path / "restored", limits=LIMITS) as again:
        assert again.image(*NAME) == writer.images[-1]
        assert again.check() == []


def test_streaming_holds_no_more_than_a_window(store: StateStore, writer: Writer) -> None:
    store.fold()
    for number in range(3):
        writer.step(("update note set body = ? where id % 2 = ?", (f"{number}", number % 2)))
    with mock.patch.multiple(paged, COMPOSED_BYTES_MAX=1, WINDOW_CHUNKS=2):
        parts = list(store.image_parts(*NAME))
        assert b"".join(parts) == writer.images[-1]
        assert max(map(len, parts)) <= CHUNK_BYTES
        assert store.image(*NAME, at=2) == writer.images[2]
        found = store.pages(*NAME, 1, 3)
        assert b"".join(map(unpack_chunk, found.chunks)) == writer.images[-1][CHUNK_BYTES : 4 * CHUNK_BYTES]


# --- what is damaged or forged


def forged(change: bytes, **parts: delta.Stamp) -> bytes:
    header = delta.read_header(change, bytes_max=LIMITS.facet_bytes_max)
    assert header is not None
    head = delta._head(
        parts.get("before", header.before),
        parts.get("after", header.after),
        header.block_count,
        header.body_bytes,
        is_deflated=header.is_deflated,
    )
    return head + change[header.body_offset :]


@pytest.mark.parametrize("kind", ["false checksum", "another base", "bytes beyond the end"])
def test_a_forged_delta_spoils_its_own_facet_from_there_on(store: StateStore, writer: Writer, kind: str) -> None:
    store.fold()
    good, number = writer.images[-1], len(writer.images)
    stamp = delta.stamp_of(good)
    change = delta.between(good, good[:-1] + b"\x77")
    if kind == "false checksum":
        change = forged(change, after=delta.Stamp(stamp.size, 1))
    elif kind == "another base":
        change = forged(change, before=delta.Stamp(stamp.size, 1))
    else:
        cut = delta.advance(stamp, stamp.size - 4096, [])
        change = forged(delta.between(good, good[:5000] + b"\x77" + good[5001:]), after=cut)
        header = delta.read_header(change, bytes_max=LIMITS.facet_bytes_max)
        assert header is not None
        honest = delta.stamp_of(good[:5000] + b"\x77" + good[5001:])
        change = forged(change, after=delta.advance(honest, cut.size, []))
    store.append([record(NAME[1], number, delta=change), record("other", 1)])
    with mock.patch("facets.paged_fold.PAGED_REBASE_COUNT", 1):
        store.fold()
    assert scalar(store, "SELECT broken_at FROM paged") == number
    for read in (lambda: store.image(*NAME), lambda: store.pages(*NAME, 0, 1), lambda: store.facet(*NAME)):
        with pytest.raises(Corrupt):
            read()
    assert store.image(*NAME, at=number - 1) == good, "what was there before can still be read"
    assert len(store.check()) == 1
    assert store.row("acme", "other") is not None


def test_a_damaged_chunk_is_found(store: StateStore, writer: Writer) -> None:
    store.fold()
    found = apsw.Connection(str(store.path / "state.db"))
    found.execute("UPDATE paged_chunk SET content = CAST(substr(content, 1, 40) || x'ff' AS BLOB)")
    found.close()
    with pytest.raises(Corrupt) as caught:
        store.pages(*NAME, 1, 1)
    assert caught.value.code == "facet_chunk_corrupt"
    assert any("chunk" in problem for problem in store.check())


def test_a_lost_chunk_is_found_by_the_check(store: StateStore, writer: Writer) -> None:
    store.fold()
    found = apsw.Connection(str(store.path / "state.db"))
    found.execute("DELETE FROM paged_chunk WHERE id = (SELECT max(id) FROM paged_chunk)")
    found.close()
    assert any("another image" in problem for problem in store.check())
