"""After a deletion, once folded, no byte of an instance is in any file; its id begins anew.

Each instance has marks of its own: incompressible bytes in its entries, its row, its facet and its output. The files are
searched for any sixteen bytes of them: before, so that the search is known to find, and after.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from facets import Limits, OutputLine, Record, RowUpdate, StateStore, delta

WINDOW = 16
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # fsyncs tell nothing here


class Marked:
    """An instance and what it left in the store."""

    def __init__(self, random: Random, tenant: str, instance: str) -> None:
        self.random = random
        self.name = (tenant, instance)
        self.sequence = 0
        self.image = b""
        self.marks: list[bytes] = []

    def mark(self, size: int) -> bytes:
        made = self.random.randbytes(size)
        self.marks.append(made)
        return made

    def step(self, store: StateStore) -> None:
        self.sequence += 1
        random, change = self.random, None
        if random.random() < 0.6:
            image = (self.image + self.mark(random.choice([512, 2_048])))[-6_000:]
            change, self.image = delta.between(self.image, image), image
        found = b""
        if random.random() < 0.5:
            # As text, so that it is in the index too; the name is the instance's own mark as well.
            name, value = self.mark(24).hex(), self.mark(60).hex()
            self.marks += [name.encode(), value.encode()]
            found = msgspec.msgpack.encode({name: value})
        row = RowUpdate("complete", random.choice([None, 5]), "W", "c" * 40, 1, 1, self.mark(48), found)
        store.append([Record(*self.name, self.sequence, self.mark(random.choice([64, 600])), change, row)])
        if random.random() < 0.4:
            text = self.mark(30).hex()
            self.marks.append(text.encode())
            store.append_output([OutputLine(*self.name, self.sequence, 0, 1, "stdout", "", "s", 1, text)])


def windows(marks: list[bytes]) -> set[bytes]:
    return {mark[at : at + WINDOW] for mark in marks for at in range(0, len(mark) - WINDOW + 1, WINDOW)}


def found_in(folder: Path, marks: list[bytes]) -> dict[str, int]:
    """Where how many windows of the marks are."""
    wanted = windows(marks)
    found: dict[str, int] = {}
    for path in folder.iterdir():
        content = path.read_bytes()
        count = sum(window in content for window in wanted)
        if count:
            found[path.name] = count
    return found


@given(
    seed=st.integers(0, 1 << 32),
    steps=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "", "fold", "reopen"])), min_size=4, max_size=14),
    is_paged=st.booleans(),
    how=st.sampled_from(["one", "tenant", "twice"]),
)
def test_no_byte_of_a_deleted_instance_is_left_and_its_id_begins_anew(
    seed: int, steps: list[tuple[int, str]], is_paged: bool, how: str
) -> None:
    random = Random(seed)
    limits = Limits(paged_bytes_min=2_000) if is_paged else Limits()
    folder = Path(tempfile.mkdtemp(prefix="nothing-left-", dir=MEMORY))
    store = StateStore.open(folder, fold="manual", limits=limits)
    try:
        marked = [Marked(random, "acme" if number < 2 else "birch", f"i{number}") for number in range(4)]
        gone = marked[0]
        for number, then in [(0, ""), *steps]:
            marked[number].step(store)
            if then == "fold":
                store.fold()
            elif then == "reopen":
                store.close()
                store = StateStore.open(folder, fold="manual", limits=limits)
        assert found_in(folder, gone.marks), "the search finds nothing: it would never fail"
        generation = store.row(*gone.name).generation  # type: ignore[union-attr]
        if how == "tenant":
            store.delete_tenant("acme")
        else:
            store.delete(*gone.name)
        if how == "twice":  # and once more, with a life in between
            marks, gone = gone.marks, Marked(random, *gone.name)
            gone.step(store)
            store.delete(*gone.name)
            gone.marks += marks
        others = [
            other
            for other in marked
            if other.name != gone.name and other.sequence and (how != "tenant" or other.name[0] != "acme")
        ]
        for other in others:
            other.step(store)
        store.fold()
        assert found_in(folder, gone.marks) == {}
        assert store.row(*gone.name) is None
        assert store.journal(*gone.name) == []
        for other in others:
            assert [entry.sequence for entry in store.journal(*other.name)] == list(range(1, other.sequence + 1))
            assert store.image(*other.name) == other.image

        again = Marked(random, *gone.name)
        again.step(store)
        row = store.row(*gone.name)
        assert row is not None
        assert row.generation > generation
        assert len(store.journal(*gone.name)) == 1
        assert store.image(*gone.name) == again.image
        assert len(store.output(*gone.name)) <= 1
        assert store.check() == []
    finally:
        store.close()
        shutil.rmtree(folder)
