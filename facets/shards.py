"""Layout: which stores a data directory has, which shards live in which, and moving them all to another number.

    DIR/layout.json      {"format": 1, "number": n, "places": [path, …], "owners": [index of a place, for each shard]}
    DIR/state            the only store, if there is one
    DIR/shards/<n>/<i>   store i of layout n, if there are several

Invariants:
- The manifest says which stores are the truth; it is replaced by one atomic rename. Whatever else lies in DIR is what a
  move left behind, on either side of that rename, and is removed at the next start. So a shard has exactly one owner,
  wherever a move was interrupted.
- A move makes new stores and never changes the old ones but for folding them. It takes as much room again meanwhile; if
  there is none, the old layout stays.
- Instances get new keys in the order of their creation over all stores, for a listing is in the order of keys. (Moving
  only the shards that change hands would put each moved instance in front of all that the target has.)
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw

from facets.attributes import index_again
from facets.backup import sync_directory
from facets.blobs import PART_BITS, BlobStore
from facets.database import connect, transaction
from facets.dictionary import NEW_IDS, copy_names, count_again
from facets.errors import Corrupt, StorageFull, Unavailable
from facets.lock import OwnerLock
from facets.shard import SHARD_COUNT
from facets.store import StateStore

MANIFEST = "layout.json"
FORMAT = 1
SINGLE = "state"
SEVERAL = "shards"

KEYS = {
    "instance": ("key", 0),
    "chunk": ("id", 24),
    "delta": ("id", 24),
    "base": ("key", 0),
    "history": ("key", 0),
    "forgotten": ("key", 0),
    "attribute_set": ("key", 0),
    "paged": ("key", 0),
    "paged_chunk": ("id", 20),
    "line": ("key", 0),
    "usage": ("key", 0),
    "blob": ("key", 0),
    "part": ("id", PART_BITS),
}
"""Tables whose rows belong to an instance: the column with its key (`part`: with its blob's number), and how far that
is shifted there. Each table of state.db, output.db and blobs.db is here but `progress` and those that
`facets.dictionary` copies (a test looks)."""
STATE_TABLES = (
    "instance",
    "chunk",
    "forgotten",
    "delta",
    "base",
    "history",
    "paged",
    "paged_chunk",
    "attribute_set",
)


@dataclass(frozen=True, slots=True)
class Layout:
    """`places`: directories of stores, below the data directory; `owners[shard]`: index of the place that has it."""

    number: int
    places: tuple[str, ...]
    owners: tuple[int, ...]

    @classmethod
    def of(cls, count: int, number: int) -> Layout:
        """`count` stores with a like share each."""
        places = (SINGLE,) if count == 1 else tuple(f"{SEVERAL}/{number}/{index}" for index in range(count))
        return cls(number, places, tuple(shard % count for shard in range(SHARD_COUNT)))


def own(data_dir: Path) -> OwnerLock:
    """Become the one process that has this data directory, until `release` or death. Raises DataInUse, Unavailable."""
    return OwnerLock(data_dir / "owner.lock")


def current(data_dir: Path) -> Layout | None:
    """The layout of what is in the data directory; None: there is nothing yet. Raises Corrupt (`layout_corrupt`)."""
    path = data_dir / MANIFEST
    try:
        found = json.loads(path.read_text())
        layout = Layout(found["number"], tuple(found["places"]), tuple(found["owners"]))
        is_known = found["format"] == FORMAT and len(layout.owners) == SHARD_COUNT
    except FileNotFoundError:
        if (data_dir / SINGLE).exists():
            return Layout.of(1, 0)
        if (data_dir / SEVERAL).exists():
            raise Corrupt(
                f"{data_dir} has stores, but {MANIFEST}, which says which shards they have, is missing.",
                code="layout_corrupt",
                hint="Restore it from the same backup.",
            ) from None
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{path} cannot be read: {error}.", code="layout_corrupt") from error
    if not is_known or {0 <= owner < len(layout.places) for owner in layout.owners} != {True}:
        raise Corrupt(f"{path} is of another format.", code="layout_corrupt")
    return layout


def arrange(data_dir: Path, count: int) -> Layout:
    """The layout with `count` stores: the present one, or a new one into which everything is moved first. Durable.

    Only the owner of the data directory may call it. Raises StorageFull (nothing changed), Corrupt, and what opening a
    store raises.
    """
    layout = current(data_dir)
    if layout is not None:
        _tidy(data_dir, layout)
        if len(layout.places) == count:
            return layout
    fresh = Layout.of(count, 0 if layout is None else layout.number + 1)
    if layout is not None:
        try:
            _move(data_dir, layout, fresh)
        except BaseException:
            _tidy(data_dir, layout)
            raise
    if layout is not None or count > 1:
        _write_manifest(data_dir, fresh)
        _tidy(data_dir, fresh)
    return fresh


def _tidy(data_dir: Path, layout: Layout) -> None:
    """Remove what is not of this layout."""
    kept = {data_dir / place for place in layout.places}
    if data_dir / SINGLE not in kept:
        shutil.rmtree(data_dir / SINGLE, ignore_errors=True)
    several = data_dir / SEVERAL
    for number in several.iterdir() if several.exists() else ():
        if not any(number in place.parents for place in kept):
            shutil.rmtree(number, ignore_errors=True)


def _write_manifest(data_dir: Path, layout: Layout) -> None:
    content = {"format": FORMAT, "number": layout.number, "places": layout.places, "owners": layout.owners}
    path = data_dir / MANIFEST
    partial = path.with_suffix(".new")
    try:
        with partial.open("w") as file:
            file.write(json.dumps(content) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
        sync_directory(data_dir)
    except OSError as error:
        kind = StorageFull if error.errno in {28, 122} else Unavailable  # ENOSPC, EDQUOT
        raise kind(f"{path} cannot be written: {error.strerror}.") from error


def _move(data_dir: Path, old: Layout, new: Layout) -> None:
    sources = [data_dir / place for place in old.places]
    for source in sources:
        # Opening reads the log, closing folds it: then state.db is all there is.
        with StateStore.open(source, fold="manual") as store:
            store.fold()
    for index, place in enumerate(new.places):
        target = data_dir / place
        StateStore.open(target, fold="manual").close()
        _fill(target, sources, [shard for shard, owner in enumerate(new.owners) if owner == index])
        for directory in (target, *target.parents):
            sync_directory(directory)
            if directory == data_dir:
                break


def _fill(target: Path, sources: Iterable[Path], shards: Iterable[int]) -> None:
    """Copy the instances of `shards` from the sources into the empty store `target`."""
    sources = list(sources)
    wanted = ",".join(map(str, shards))
    path = target / "state.db"
    state = connect(path, synchronous="FULL")
    try:
        state.execute("CREATE TEMP TABLE found(source INTEGER, old INTEGER, at INTEGER)")
        for number, source in enumerate(sources):
            with _attached(state, source / "state.db"), transaction(state, path):
                # The order in one store is that of its keys, whatever a clock that was set back says.
                state.execute(
                    "INSERT INTO found SELECT ?, key, max(created_at_ms) OVER (ORDER BY key) "  # noqa: S608
                    f"FROM source.instance WHERE shard IN ({wanted}) "
                    # What is deleted and not erased yet (erasure.py) stays behind.
                    "AND tenant IN (SELECT id FROM source.tenant WHERE name >= char(1))",
                    (number,),
                )
        state.execute(
            "CREATE TEMP TABLE renamed(source INTEGER, old INTEGER, new INTEGER, PRIMARY KEY(source, old)) "
            "WITHOUT ROWID"
        )
        state.execute("INSERT INTO renamed SELECT source, old, row_number() OVER (ORDER BY at, source, old) FROM found")
        for number, source in enumerate(sources):
            with _attached(state, source / "state.db"), transaction(state, path):
                copy_names(state, "source")
                for table in STATE_TABLES:
                    _copy(state, f"main.{table}", number)
        with transaction(state, path):
            count_again(state)
            index_again(state)
            state.execute("UPDATE progress SET next_key = 1 + (SELECT count(*) FROM found)")
        _fill_output(state, target, sources)
        _fill_blobs(state, target, sources)
        state.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    finally:
        state.close()


def _fill_output(state: apsw.Connection, target: Path, sources: list[Path]) -> None:
    path = target / "output.db"
    with _attached(state, path, "target"):
        state.execute("PRAGMA target.synchronous = FULL")
        last = 0
        for source in sources:
            with _attached(state, source / "output.db"):
                last = max(last, state.execute("SELECT max(seq) FROM source.sqlite_sequence").get or 0)
        with transaction(state, path):
            # A reader's cursor is a line's id: behind all old ones, nobody who goes on reading misses a line.
            state.execute("INSERT INTO target.sqlite_sequence VALUES('line', ?)", (last,))
        for number, source in enumerate(sources):
            with _attached(state, source / "output.db"), transaction(state, path):
                _copy(state, "target.line", number, without="id", order="o.id")
                _copy(state, "target.usage", number)
        state.wal_checkpoint("target", mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def _fill_blobs(state: apsw.Connection, target: Path, sources: list[Path]) -> None:
    path = target / "blobs.db"
    for number, source in enumerate(sources):
        if not (source / "blobs.db").exists():
            continue
        if not path.exists():
            BlobStore(path, bytes_max=0).make()
        with _attached(state, path, "target"), _attached(state, source / "blobs.db"):
            state.execute("PRAGMA target.synchronous = FULL")
            shift: int = state.execute("SELECT coalesce(max(number), 0) FROM target.blob").get
            moved = "JOIN renamed ON renamed.source = ? AND renamed.old = o.key"
            with transaction(state, path):
                state.execute(
                    "INSERT INTO target.blob(number, key, id, size, parts) "  # noqa: S608 - own text
                    f"SELECT o.number + ?, renamed.new, o.id, o.size, o.parts FROM source.blob AS o {moved}",
                    (shift, number),
                )
                state.execute(
                    f"INSERT INTO target.part(id, checksum, content) SELECT p.id + (? << {PART_BITS}), "  # noqa: S608
                    f"p.checksum, p.content FROM source.blob AS o {moved} JOIN source.part AS p ON p.id "
                    f"BETWEEN o.number << {PART_BITS} AND (o.number + 1 << {PART_BITS}) - 1 ORDER BY p.id",
                    (shift, number),
                )
            state.wal_checkpoint("target", mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def _copy(state: apsw.Connection, place: str, number: int, *, without: str = "", order: str = "renamed.new") -> None:
    """Rows of the attached source that belong to a renamed instance, under its new key, into `place` (schema.table)."""
    schema, _, table = place.partition(".")
    column, shift = KEYS[table]
    columns = [name for _, name, *_ in state.pragma("table_info", table, schema=schema) if name != without]
    low = f'(o."{column}" & {(1 << shift) - 1})'
    values = [
        f"renamed.new << {shift} | {low}"
        if name == column
        else NEW_IDS[name].format(id=f'o."{name}"', source="source")
        if table == "instance" and name in NEW_IDS
        else f'o."{name}"'
        for name in columns
    ]
    names = ", ".join(f'"{name}"' for name in columns)
    state.execute(
        f"INSERT INTO {place}({names}) SELECT {', '.join(values)} FROM source.{table} AS o "  # noqa: S608
        f'JOIN renamed ON renamed.source = ? AND renamed.old = o."{column}" >> {shift} ORDER BY {order}',
        (number,),
    )


@contextmanager
def _attached(state: apsw.Connection, path: Path, name: str = "source") -> Iterator[None]:
    state.execute(f"ATTACH ? AS {name}", (str(path),))
    try:
        yield
    finally:
        state.execute(f"DETACH {name}")
