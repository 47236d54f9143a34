"""Laws of moving shards between stores: everything arrives, in its order, and every crash leaves one owner."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from facets import Condition, Corrupt, DataInUse, OutputLine, Query, StateStore, StorageFull, delta, shard_of, shards
from facets.blobs import BlobStore
from facets.database import storage_full
from tests.facets.making import record

TENANTS = ("acme", "globex")


def line(tenant: str, instance: str, number: int) -> OutputLine:
    return OutputLine(tenant, instance, 1, number, 1000, "stdout", "", "", 0, f"{instance} says {number}")


def fill(store: StateStore, names: list[str], *, first_ms: int) -> None:
    for number, name in enumerate(names):
        tenant = TENANTS[number % 2]
        at = first_ms + number
        image = (name.encode() * 1000)[:2048]
        update = record(name, 1, tenant=tenant, delta=delta.between(b"", image), wake=at if number % 3 else None)
        found = msgspec.msgpack.encode({"number": number, "name": name}) if number % 5 else b""
        row = type(update.row)("waiting", at if number % 3 else None, f"W{number % 4}", "c" * 40, at, at, b"s", found)
        store.append([type(update)(tenant, name, 1, update.entry, update.delta, row)])
        store.append([type(update)(tenant, name, 2, b"second of " + name.encode(), None, row)])
        store.append_output([line(tenant, name, 1), line(tenant, name, 2)])


def content(path: Path) -> dict[tuple[str, str], Any]:
    """Everything that can be read of the instances of one store."""
    with StateStore.open(path, fold="manual") as store:
        assert store.check() == []
        found: dict[tuple[str, str], Any] = {}
        for tenant in TENANTS:
            rows, _ = store.list(tenant, limit=10_000)
            having = [row.instance for row in rows if row.attributes]
            by_name = Query(where=(Condition("name", "exists", (True,)),))
            assert [row.instance for row in store.list(tenant, by_name, limit=10_000)[0]] == having
            assert store.count(tenant) == ({"waiting": len(rows)} if rows else {})
            for row in rows:
                found[tenant, row.instance] = (
                    row.sequence,
                    row.state,
                    row.wake_at_ms,
                    row.workflow,
                    row.commit,
                    row.created_at_ms,
                    row.summary,
                    row.attributes,
                    row.facet_bytes,
                    [(item.sequence, item.entry) for item in store.journal(tenant, row.instance)],
                    store.image(tenant, row.instance),
                    store.image(tenant, row.instance, at=0),
                    [item.text for _, item in store.output(tenant, row.instance)],
                )
        return found


def whole(data_dir: Path) -> dict[tuple[str, str], Any]:
    """The content of all stores; each instance is in the one that owns its shard, and in no other."""
    layout = shards.current(data_dir)
    assert layout is not None
    found: dict[tuple[str, str], Any] = {}
    for index, place in enumerate(layout.places):
        part = content(data_dir / place)
        for tenant, instance in part:
            assert layout.owners[shard_of(tenant, instance)] == index
        assert not part.keys() & found.keys()
        found |= part
    return found


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    with StateStore.open(tmp_path / "state", fold="manual") as store:
        fill(store, [f"i{number}" for number in range(40)], first_ms=5000)
        store.delete("acme", "i2")
    return tmp_path


def test_everything_arrives_through_one_two_four_and_one(data_dir: Path) -> None:
    before = whole(data_dir)
    assert len(before) == 39
    for count in (2, 4, 1):
        layout = shards.arrange(data_dir, count)
        assert len(layout.places) == count
        assert whole(data_dir) == before
        stores = {path.parent.relative_to(data_dir).as_posix() for path in data_dir.rglob("state.db")}
        assert stores == set(layout.places)
    assert shards.current(data_dir) == shards.Layout.of(1, 3)


def test_listing_is_newest_first_after_stores_were_joined(data_dir: Path) -> None:
    shards.arrange(data_dir, 2)
    layout = shards.arrange(data_dir, 1)
    with StateStore.open(data_dir / layout.places[0], fold="manual") as store:
        for tenant in TENANTS:
            rows, _ = store.list(tenant, limit=100)
            assert [row.created_at_ms for row in rows] == sorted((row.created_at_ms for row in rows), reverse=True)
        fill(store, ["new"], first_ms=1)  # a clock that was set back
        assert store.list("acme", limit=1)[0][0].instance == "new"


def test_order_of_one_store_survives_a_clock_that_was_set_back(tmp_path: Path) -> None:
    with StateStore.open(tmp_path / "state", fold="manual") as store:
        fill(store, ["a1", "a2"], first_ms=9000)
        fill(store, ["b1", "b2"], first_ms=1000)
        order = [row.instance for row in store.list("acme", limit=10)[0]]
    shards.arrange(tmp_path, 2)
    layout = shards.arrange(tmp_path, 1)
    with StateStore.open(tmp_path / layout.places[0], fold="manual") as store:
        assert [row.instance for row in store.list("acme", limit=10)[0]] == order == ["b1", "a1"]


def test_reader_of_output_misses_nothing_when_shards_move(data_dir: Path) -> None:
    with StateStore.open(data_dir / "state", fold="manual") as store:
        last = max(cursor for cursor, _ in store.output("acme", "i4"))
    layout = shards.arrange(data_dir, 2)
    with StateStore.open(data_dir / layout.places[layout.owners[shard_of("acme", "i4")]], fold="manual") as store:
        store.append_output([line("acme", "i4", 3)])
        assert [item.number for _, item in store.output("acme", "i4", after=last)][-1] == 3


class Killed(BaseException):
    """The process is gone: nothing of it runs on."""


@contextmanager
def killed_at(point: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Die before step `point` of a move, and do nothing any more; the steps that were reached."""
    reached: list[str] = []

    def counted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            reached.append(name)
            if len(reached) >= point:
                raise Killed
            return work(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(shards, "_fill", counted("fill", shards._fill))
        patched.setattr(shards, "_fill_output", counted("output", shards._fill_output))
        patched.setattr(shards.json, "dumps", counted("manifest", shards.json.dumps))
        patched.setattr(Path, "rename", counted("rename", Path.rename))
        patched.setattr(shutil, "rmtree", counted("remove", shutil.rmtree))
        yield reached


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_move_killed_at_any_step_leaves_one_owner_and_goes_on(
    before: int, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "template"
    with StateStore.open(template / "state", fold="manual") as store:
        fill(store, [f"i{number}" for number in range(3)], first_ms=5000)
    shards.arrange(template, before)
    expected = whole(template)
    point = 1
    reached: list[str] = []
    while True:
        data_dir = tmp_path / str(point)
        shutil.copytree(template, data_dir)
        try:
            with killed_at(point, monkeypatch) as reached:
                shards.arrange(data_dir, after)
        except Killed:
            layout = shards.current(data_dir)
            assert layout is not None
            assert len(layout.places) in {before, after}
            assert ("rename" in reached[:-1]) == (len(layout.places) == after)
            assert whole(data_dir) == expected  # of its one owner, before anything is tidied
        else:
            break
        shards.arrange(data_dir, after)
        assert whole(data_dir) == expected
        layout = shards.current(data_dir)
        assert layout is not None
        assert {path.parent for path in data_dir.rglob("state.db")} == {data_dir / place for place in layout.places}
        shutil.rmtree(data_dir)
        point += 1
    assert point > 6, reached


def test_move_without_room_changes_nothing(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = whole(data_dir)

    def full(*_: Any, **__: Any) -> None:
        raise storage_full(data_dir, apsw.FullError("database or disk is full"))

    monkeypatch.setattr(shards, "_fill_output", full)
    with pytest.raises(StorageFull):
        shards.arrange(data_dir, 2)
    assert not list((data_dir / "shards").glob("*"))
    assert whole(data_dir) == before


def test_stores_without_their_manifest_are_refused_and_kept(data_dir: Path) -> None:
    shards.arrange(data_dir, 2)
    (data_dir / shards.MANIFEST).unlink()
    with pytest.raises(Corrupt) as corrupt:
        shards.arrange(data_dir, 1)
    assert corrupt.value.code == "layout_corrupt"
    assert len(list(data_dir.rglob("state.db"))) == 2


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2, "number": 0, "places": ["state"], "owners": []}', "[]"])
def test_manifest_that_cannot_be_read_is_refused(data_dir: Path, text: str) -> None:
    (data_dir / shards.MANIFEST).write_text(text)
    with pytest.raises(Corrupt):
        shards.current(data_dir)
    with pytest.raises(Corrupt):
        shards.arrange(data_dir, 2)
    assert (data_dir / "state" / "state.db").exists()


def test_second_owner_of_a_data_directory_is_refused(tmp_path: Path) -> None:
    lock = shards.own(tmp_path)
    with pytest.raises(DataInUse, match="in use by process"):
        shards.own(tmp_path)
    lock.release()
    shards.own(tmp_path).release()


def test_every_table_moves_or_is_made_anew(tmp_path: Path) -> None:
    StateStore.open(tmp_path / "state", fold="manual").close()
    made_anew = {"progress", "state", "tenant", "version", "tally", "doomed", "attribute", "sqlite_sequence"}
    BlobStore(tmp_path / "state" / "blobs.db", bytes_max=0).make()
    for name in ("state.db", "output.db", "blobs.db"):
        connection = apsw.Connection(str(tmp_path / "state" / name))
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        connection.close()
        assert tables - made_anew <= set(shards.KEYS), f"how does a new table of {name} move with its instances?"
