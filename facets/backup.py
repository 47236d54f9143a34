"""Copies, restoring, checking, and taking one facet out.

A backup is a directory with the databases of a store and `backup.json`; opening it as a store, in place or
copied, is restoring it. Each database is copied by VACUUM INTO: one read transaction, so writers neither wait nor
disturb it (the backup API starts over whenever another connection writes). State first, then the log, with trimming
held: so the log of the copy reaches back to what its state has folded, and holds all that was appended before.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from facets import attributes, forgetting
from facets import delta as deltas
from facets.bases import stored_deltas
from facets.chunks import decode_chunk, decode_run, row_ids, sequence_of, unpack
from facets.errors import Corrupt, FacetError, NotFound, Refused, StorageFull, Unavailable
from facets.index import COLUMNS, Snapshot
from facets.log import integrity_problems
from facets.paged import CHUNK_BITS, find_base, stream
from facets.records import InstanceRow
from facets.tail import STORED_IMAGE_BYTES_MAX, View

BACKUP_FORMAT = 1
MANIFEST = "backup.json"
PROBLEMS_MAX = 1000


def copy_store(target: Path, copies: Mapping[str, Callable[[Path], None]]) -> None:
    """Make the directory `target` with these files, whole or not at all, durable on return.

    Raises Refused (`target_exists`), Unavailable.
    """
    with _appearing(target) as made:
        for name, copy in copies.items():
            copy(made / name)
            (made / name).chmod(0o600)
        manifest = {"format": BACKUP_FORMAT, "files": sorted(copies)}
        (made / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def restore(source: Path | str, target: Path | str) -> None:
    """Copy a backup to the new directory `target`, ready to be opened; whole or not at all, durable on return.

    Raises NotFound (`backup_not_found`), Corrupt (`backup_corrupt`), Refused (`target_exists`), Unavailable.
    """
    source = Path(source)
    try:
        manifest = json.loads((source / MANIFEST).read_text())
    except FileNotFoundError as error:
        raise NotFound(f"{source} holds no backup: {MANIFEST} is missing.", code="backup_not_found") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise Corrupt(f"{source / MANIFEST} cannot be read: {error}.", code="backup_corrupt") from error
    if not isinstance(manifest, dict) or manifest.get("format") != BACKUP_FORMAT:
        raise Corrupt(f"{source} is not a backup of format {BACKUP_FORMAT}.", code="backup_corrupt")
    with _appearing(Path(target)) as made:
        for name in ("state.db", "log.db", "output.db"):
            if not (source / name).is_file():
                raise Corrupt(f"{source} is not a whole backup: {name} is missing.", code="backup_corrupt")
            _copy_file(source / name, made / name)
        if (source / "blobs.db").is_file():
            _copy_file(source / "blobs.db", made / "blobs.db")
        elif "blobs.db" in manifest.get("files", ()):
            raise Corrupt(f"{source} is not a whole backup: blobs.db is missing.", code="backup_corrupt")


def _copy_file(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o600)


class _appearing:  # noqa: N801 - used as a statement, `with _appearing(target) as made`
    """A directory that is filled under another name and gets its own when it is complete and on disk."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._made = target.with_name(f"{target.name}.partial-{os.getpid()}")

    def __enter__(self) -> Path:
        if self._target.exists() or self._target.is_symlink():
            raise Refused(
                f"{self._target} already exists.", code="target_exists", hint="Name a directory that does not."
            )
        try:
            self._made.mkdir(mode=0o700)
        except OSError as error:
            raise _unavailable(self._target, error) from error
        return self._made

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _traceback: object) -> None:
        if kind is None:
            try:
                for path in self._made.iterdir():
                    _sync(path)
                sync_directory(self._made)
                self._made.rename(self._target)
                sync_directory(self._target.parent)
                return
            except OSError as failure:
                shutil.rmtree(self._made, ignore_errors=True)
                raise _unavailable(self._target, failure) from failure
        shutil.rmtree(self._made, ignore_errors=True)
        if isinstance(error, OSError):
            raise _unavailable(self._target, error) from error


def write_file(target: Path, content: Iterable[bytes]) -> None:
    """Write `target` whole or not at all, replacing what was there; durable on return.

    Raises Unavailable, and what `content` raises.
    """
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        try:
            with partial.open("wb") as file:
                file.writelines(content)
            _sync(partial)
            partial.rename(target)
            sync_directory(target.parent)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise _unavailable(target, error) from error


def sync_directory(path: Path) -> None:
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unavailable(path: Path, error: OSError) -> Unavailable:
    kind = StorageFull if error.errno in {28, 122} else Unavailable  # ENOSPC, EDQUOT
    return kind(f"{path} cannot be written: {error.strerror}.", code="target_unavailable")


def state_problems(snapshot: Snapshot, view: View, path: Path) -> list[str]:
    """What is wrong with the state database: its pages, and journals, rows, deltas and images against each other."""
    connection = snapshot.connection
    problems = integrity_problems(connection, path)
    for table, key in (
        ("chunk", "id >> 24"),
        ("delta", "id >> 24"),
        ("base", "key"),
        ("paged", "key"),
        ("forgotten", "key"),
        ("attribute_set", "key"),
        ("paged_chunk", f"id >> {CHUNK_BITS}"),
    ):
        orphans = connection.execute(
            f"SELECT count(*) FROM {table} WHERE {key} NOT IN "  # noqa: S608 - own names
            "(SELECT key FROM instance UNION ALL SELECT key FROM doomed)"
        ).get
        if orphans:
            problems.append(f"{path.name}: {orphans} rows of table {table} belong to no instance")
    counted = "SELECT version, state, count(*) FROM instance GROUP BY version, state"
    kept = "SELECT version, state, number FROM tally WHERE number <> 0"
    if set(connection.execute(counted)) != set(connection.execute(kept)):
        problems.append(f"{path.name}: the tally does not have the numbers of the instances")
    problems += [f"{path.name}: {problem}" for problem in attributes.problems(connection)]
    for found in connection.execute(f"SELECT {COLUMNS} FROM instance ORDER BY key"):  # noqa: S608 - own names
        row = InstanceRow(*found)
        try:
            problems += [
                f"{row.tenant}/{row.instance}: {problem}" for problem in _instance_problems(snapshot, view, row)
            ]
        except FacetError as error:
            problems.append(f"{row.tenant}/{row.instance}: {error}")
        if len(problems) >= PROBLEMS_MAX:
            problems.append("further problems are not listed")
            break
    return problems


def _instance_problems(snapshot: Snapshot, view: View, row: InstanceRow) -> list[str]:
    connection, key = snapshot.connection, row.generation
    problems: list[str] = []
    gaps = forgetting.gaps_of(connection, key)
    ends, met = dict(gaps), 0
    expected, with_delta = 1, set[int]()
    for identifier, content in connection.execute(
        "SELECT id, content FROM chunk WHERE id BETWEEN ? AND ? ORDER BY id", row_ids(key)
    ):
        if expected in ends:
            expected, met = ends[expected] + 1, met + 1
        if sequence_of(identifier) != expected:
            problems.append(f"the journal continues at entry {sequence_of(identifier)}, not at {expected}")
        records = decode_chunk(sequence_of(identifier), content)
        with_delta |= {record.sequence for record in records if record.has_delta}
        expected = sequence_of(identifier) + len(records)
    if expected in ends:
        expected, met = ends[expected] + 1, met + 1
    if met != len(gaps):
        problems.append(f"the journal has {met} gaps, {len(gaps)} were made on purpose")
    problems += forgetting.problems(connection, key)
    tail_first, tail = next(connection.execute("SELECT tail_first, tail FROM instance WHERE key = ?", (key,)))
    if tail_first != expected:
        problems.append(f"the journal's tail continues at entry {tail_first}, not at {expected}")
    records = decode_run(tail_first, tail)
    with_delta |= {record.sequence for record in records if record.has_delta}
    expected = tail_first + len(records)
    if expected != row.sequence + 1:
        problems.append(f"the journal has {expected - 1} entries, its row says {row.sequence}")
    stored = {
        sequence_of(identifier)
        for (identifier,) in connection.execute("SELECT id FROM delta WHERE id BETWEEN ? AND ?", row_ids(key))
    }
    oldest = connection.execute("SELECT oldest FROM history WHERE key = ?", (key,)).get or 0
    there = {sequence for sequence in stored if not forgetting.is_gone(gaps, sequence)}
    if there != {sequence for sequence in with_delta if sequence > oldest}:
        problems.append(f"facet deltas are stored for {len(stored)} records, the journal says {len(with_delta)}")
    base = connection.execute("SELECT sequence, content FROM base WHERE key = ?", (key,)).fetchone()
    if base is not None:
        image = deltas.apply_all(
            unpack(base[1]), stored_deltas(connection, key, base[0], row.sequence), bytes_max=STORED_IMAGE_BYTES_MAX
        )
        if len(image) != row.facet_bytes:
            problems.append(f"the facet has {len(image)} bytes, its row says {row.facet_bytes}")
    if find_base(connection, key) is not None:
        size = sum(len(part) for part in stream(connection, row, (), row.sequence))
        if size != row.facet_bytes:
            problems.append(f"the facet has {size} bytes, its row says {row.facet_bytes}")
    held = view.holds(row.tenant, row.instance, snapshot.folded)
    if held and held[0].key == key:
        ahead = [record.sequence for each in reversed(held) for record in each.records if record.sequence]
        if ahead != list(range(row.sequence + 1, row.sequence + 1 + len(ahead))):
            problems.append("the records in the log do not continue the journal")
    return problems
