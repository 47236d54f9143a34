"""Forgetting takes what it may and nothing else, in whatever order records, hints, folds and crashes come.

The model: for each instance its entries, which of them no hint has needed, and a second way to say which chunks go. A
crash is the files as they are, opened again without a farewell.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from facets import JournalRecord, StateStore, delta, forgetting
from facets.chunks import decode_chunk, row_ids, sequence_of
from tests.facets.making import record

QUICK = settings.default.max_examples if settings.default is not None else 50
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # fsyncs tell nothing here
NAMES = ["a", "b"]
# Small ones gather in tails, large ones make a chunk each. Digits, so that chunks differ in size.
sizes = st.sampled_from([1, 300, 800, 1600, 5000])
backs = st.integers(0, 12)
places = st.lists(st.integers(0, 30), max_size=3)
keeps = st.sampled_from([0, 1, 100, 3000, 1 << 30])


class Chunk(NamedTuple):
    first: int
    last: int
    size: int


class Hint(NamedTuple):
    before: int
    but: tuple[int, ...]
    keep_bytes: int


@dataclass
class Instance:
    """`missing`: what the model says is gone; `may`: what some hint said may go."""

    entries: list[JournalRecord] = field(default_factory=list)
    may: set[int] = field(default_factory=set)
    missing: set[int] = field(default_factory=set)
    hints: list[Hint] = field(default_factory=list)  # the first that waits, and the last
    passed: int = 1
    counted: int = 1

    def carry_out(self, chunks: list[Chunk]) -> None:
        """What the hints make of these chunks, all of the instance's."""
        for hint in self.hints:
            self._carry_out(hint, [chunk for chunk in chunks if chunk.first not in self.missing])
        self.hints.clear()

    def _carry_out(self, hint: Hint, chunks: list[Chunk]) -> None:
        if hint.before < self.counted:
            return
        wanted = {1, *hint.but}
        needless = [chunk for chunk in chunks if not any(chunk.first <= each <= chunk.last for each in wanted)]
        window = [chunk for chunk in chunks if chunk.first >= self.passed and chunk.last < hint.before]
        if window:
            self.counted = window[-1].last + 1
        gone = [chunk for chunk in needless if chunk.first < self.passed]
        while window and sum(chunk.size for chunk in window[1:]) >= hint.keep_bytes:
            chunk = window.pop(0)
            self.passed = chunk.last + 1
            gone += [chunk] if chunk in needless else []
        for chunk in gone:
            self.missing |= set(range(chunk.first, chunk.last + 1))


class Forgetful(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=MEMORY))
        self.openings = 0
        self.number = 0
        self.patch = pytest.MonkeyPatch()
        self.model = {name: Instance() for name in NAMES}

    @initialize(
        portion=st.sampled_from([1, 700, 5000, 1 << 20]),
        look=st.sampled_from([1, 64, 2000]),
        sizes=st.lists(sizes, min_size=8, max_size=20),
    )
    def begin(self, portion: int, look: int, sizes: list[int]) -> None:
        """Portions of every size come to the same."""
        self.patch.setattr(forgetting, "PORTION_BYTES", portion + look)
        self.patch.setattr(forgetting, "LOOK_BYTES", look)
        self.store = StateStore.open(self.root / "0", fold="manual")
        for name in NAMES:
            self.append_and_fold_each(name, sizes)

    def teardown(self) -> None:
        self.store.close()
        self.patch.undo()
        shutil.rmtree(self.root)

    # --- rules

    @rule(name=st.sampled_from(NAMES), sizes=st.lists(sizes, min_size=1, max_size=6), changes=st.booleans())
    def append(self, name: str, sizes: list[int], changes: bool) -> None:
        entries = self.model[name].entries
        batch = []
        for size in sizes:
            self.number += 1
            entry = (b"%d," % self.number * size)[:size]
            change = delta.between(b"", b"") if changes and not batch else None
            entries.append(JournalRecord(len(entries) + 1, entry, bool(change)))
            batch.append(record(name, len(entries), entry, delta=change))
        self.store.append(batch)

    @rule(name=st.sampled_from(NAMES), sizes=st.lists(sizes, min_size=4, max_size=9))
    def append_and_fold_each(self, name: str, sizes: list[int]) -> None:
        for size in sizes:
            self.append(name, [size], changes=False)
            self.store._fold.fold()

    @rule(name=st.sampled_from(NAMES), back=backs, places=places, keep=keeps)
    def forget(self, name: str, back: int, places: list[int], keep: int) -> None:
        known = self.model[name]
        before = len(known.entries) - back
        there = [each.sequence for each in known.entries if each.sequence not in known.may]
        but = tuple(there[-1 - place] for place in places if place < len(there))
        self.store.forget("acme", name, before=before, but=but, keep_bytes=keep)
        known.hints = [*known.hints[:1], Hint(before, but, keep)]
        known.may |= set(range(2, before)) - set(but)

    @rule()
    def fold(self) -> None:
        self.store._fold.fold()

    @rule(name=st.sampled_from(NAMES), back=backs, places=places, keep=keeps)
    def forget_all(self, name: str, back: int, places: list[int], keep: int) -> None:
        self.forget(name, back, places, keep)
        self.store._fold.fold()
        for each in NAMES:
            self.model[each].carry_out(self._chunks(each))
        self.store._fold.forget()
        assert self.store.check() == []

    @rule(name=st.sampled_from(NAMES), back=backs, places=places, keep=keeps)
    def forget_a_little(self, name: str, back: int, places: list[int], keep: int) -> None:
        """One portion, of which it is only said what it may take; then the rest, and of all together it is known."""
        self.forget(name, back, places, keep)
        self.store._fold.fold()
        before = {each: self._present(each) for each in NAMES}
        chunks = {each: self._chunks(each) for each in NAMES}
        self.store._fold.forget(bytes_max=1)
        for each, known in self.model.items():
            now = self._present(each)
            assert set(now) <= set(before[each])
            assert set(before[each]) - set(now) <= known.may
            known.carry_out(chunks[each])
        self.store._fold.forget()

    @rule(compact=st.booleans())
    def trim(self, compact: bool) -> None:
        self.store._fold.trim(compact=compact)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self._open(self.store.path)

    @precondition(lambda self: self.openings < 6)
    @rule(
        name=st.sampled_from(NAMES),
        back=backs,
        places=places,
        keep=keeps,
        portions=st.integers(0, 3),
        power_cut=st.booleans(),
    )
    def crash(self, name: str, back: int, places: list[int], keep: int, portions: int, power_cut: bool) -> None:
        """Also between two portions."""
        if portions:
            self.forget(name, back, places, keep)
            self.store._fold.fold()
        for _ in range(portions):
            self.store._fold.forget(bytes_max=1)
        self.openings += 1
        copy = self.root / str(self.openings)
        shutil.copytree(self.store.path, copy)
        if power_cut:  # folds and portions since the last checkpoint never were
            for path in copy.glob("state.db-*"):
                path.unlink()
        self.store.close()
        self._open(copy, power_cut=power_cut)
        assert self.store.check() == []

    def _open(self, path: Path, *, power_cut: bool = False) -> None:
        """What was under way is not known to the model: from the table it is."""
        self.store = StateStore.open(path, fold="manual")
        for name, known in self.model.items():
            known.hints.clear()
            missing = {each.sequence for each in known.entries} - set(self._present(name))
            assert missing <= known.may
            assert known.missing <= missing or power_cut
            known.missing = missing
            with self.store._readers.snapshot() as snapshot:
                found = snapshot.connection.execute(
                    "SELECT reached, counted FROM forgotten JOIN instance USING (key) WHERE instance = ?", (name,)
                ).fetchone()
            known.passed, known.counted = found or (1, 1)

    # --- what holds

    @invariant()
    def reads_tell_what_is_there(self) -> None:
        if not hasattr(self, "store"):
            return
        for name, known in self.model.items():
            expected = [each for each in known.entries if each.sequence not in known.missing]
            assert known.missing <= known.may
            assert self.store.journal("acme", name) == expected
            for after in {0, 1, *(each.sequence for each in expected[1:4]), len(known.entries) // 2}:
                for limit in (1, 3):
                    behind = [each for each in expected if each.sequence > after]
                    assert self.store.journal("acme", name, after=after, limit=limit) == behind[:limit]
            with self.store.at_once() as moment:
                every = [each.sequence for each in known.entries]
                assert moment.entries("acme", name, every) == expected

    def _present(self, name: str) -> list[int]:
        return [each.sequence for each in self.store.journal("acme", name)]

    def _chunks(self, name: str) -> list[Chunk]:
        row = self.store.row("acme", name)
        if row is None:
            return []
        with self.store._readers.snapshot() as snapshot:
            found = list(
                snapshot.connection.execute(
                    "SELECT id, content FROM chunk WHERE id BETWEEN ? AND ? ORDER BY id", row_ids(row.generation)
                )
            )
        first_of: Callable[[int], int] = sequence_of
        return [
            Chunk(first_of(number), decode_chunk(first_of(number), content)[-1].sequence, len(content))
            for number, content in found
        ]


TestForgetting = Forgetful.TestCase
TestForgetting.settings = settings(max_examples=max(QUICK * 2 // 5, 10), stateful_step_count=15)
