"""A backup at any moment restores to a state that a crash at that moment could have left.

Appends, deletions and folds go on before, between and after the copies of the single files. The copy must be the store
as of one moment between the beginning of the backup and its end: not older, not newer, not a mixture.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from facets import Limits, Record, RowUpdate, StateStore, delta, restore
from facets import backup as backups

MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # fsyncs tell nothing here
NAMES = [("acme", "a"), ("acme", "b"), ("birch", "c")]
STATES = {"running", "waiting"}


class Story:
    """Writes on one store. `pictures[n]`: everything that can be asked, after the n-th write."""

    def __init__(self, store: StateStore, random: Random) -> None:
        self.store = store
        self.random = random
        self.heads: dict[tuple[str, str], int] = {}
        self.images: dict[tuple[str, str], bytes] = {}
        self.pictures = [picture(store)]

    def write(self, count: int) -> None:
        for _ in range(count):
            self._write_one()
            self.pictures.append(picture(self.store))

    def _write_one(self) -> None:
        random = self.random
        name = random.choice(NAMES)
        if name in self.heads and random.random() < 0.2:
            self.store.delete(*name)
            del self.heads[name]
            self.images.pop(name, None)
            return
        records = []
        for name in random.sample(NAMES, random.randint(1, 3)):
            sequence = self.heads[name] = self.heads.get(name, 0) + 1
            change = None
            if random.random() < 0.5:
                old, new = self.images.get(name, b""), random.randbytes(random.choice([100, 3_000]))
                change, self.images[name] = delta.between(old, new), new
            wake = random.choice([None, random.randint(0, 99)])
            row = RowUpdate(random.choice(sorted(STATES)), wake, "W", "c" * 40, 1, sequence, random.randbytes(3))
            records.append(Record(*name, sequence, random.randbytes(random.choice([5, 400])), change, row))
        self.store.append(records)


def picture(store: StateStore) -> Any:
    """All that the store knows."""
    rows = store.in_states(STATES, limit=100)
    return (
        sorted(
            (row.tenant, row.instance, row.sequence, row.state, row.wake_at_ms, row.summary, row.facet_bytes)
            for row in rows
        ),
        {(row.tenant, row.instance): store.journal(row.tenant, row.instance) for row in rows},
        {(row.tenant, row.instance): store.image(row.tenant, row.instance) for row in rows},
        [(row.instance, row.wake_at_ms) for row in store.due(1_000, limit=100)],
        {tenant: store.count(tenant) for tenant in ("acme", "birch")},
    )


@given(
    seed=st.integers(0, 1 << 32),
    before=st.lists(st.integers(1, 4), max_size=4),
    between=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    is_paged=st.booleans(),
)
def test_backup_at_any_moment_is_the_store_as_of_one_moment(
    seed: int, before: list[int], between: list[int], is_paged: bool
) -> None:
    limits = Limits(paged_bytes_min=2_000) if is_paged else Limits()
    copy_store = backups.copy_store
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder)
        with StateStore.open(path / "state", fold="manual", limits=limits) as store:
            story = Story(store, Random(seed))
            for count in before:
                story.write(count)
                store.fold()
            story.write(between[0])
            begun = len(story.pictures) - 1

            def interrupted(target: Path, copies: Mapping[str, Callable[[Path], Any]]) -> Any:
                def between_files(copy: Callable[[Path], Any], count: int) -> Callable[[Path], Any]:
                    def both(target: Path) -> Any:
                        copied = copy(target)
                        story.write(count)
                        return copied

                    return both

                counts = iter([*between[1:], *[1] * len(copies)])
                return copy_store(target, {name: between_files(copy, next(counts)) for name, copy in copies.items()})

            with mock.patch.object(backups, "copy_store", interrupted):
                store.backup(path / "backup")
            ended = len(story.pictures) - 1
            assert ended >= begun + sum(between[1:])
            restore(path / "backup", path / "restored")
            with StateStore.open(path / "restored", fold="manual", limits=limits) as restored:
                found = picture(restored)
                assert restored.check() == []
                moments = [number for number in range(begun, ended + 1) if story.pictures[number] == found]
                assert moments, f"the copy is not the store of any moment {begun} … {ended}"
                restored.append([Record("acme", "after", 1, b"x", None, RowUpdate("running", 1, "W", "c", 1, 1, b""))])
                restored.fold()
                assert restored.check() == []
