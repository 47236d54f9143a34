"""StateStore is a dict of instances, whatever it folds, however it dies, and wherever it is asked in between.

The model: tenant and instance → its records in order, and its latest row. Rules change both; after every rule everything
that can be asked is asked of both. A crash is the files as they are at that moment, opened again without a farewell.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from facets import Condition, JournalRecord, NotFound, Query, Record, RowUpdate, SequenceConflict, StateStore, delta

TENANTS = ["acme", "globex"]
INSTANCES = ["a", "b", "ü"]
STATES = ["running", "waiting", "complete"]
WORKFLOWS = ["Audit", "Onboarding"]
COMMITS = ["c1", "c2", "c3"]
NAMES = [(tenant, instance) for tenant in TENANTS for instance in INSTANCES]

NAMES_OF_ATTRIBUTES = ["a", "b"]
VALUES: list[Any] = [
    "",
    "x",
    "xy",
    "\U0001f40d",
    "ÿ",
    -1,
    0,
    2,
    2.5,
    2**53 + 1,
    True,
    False,
    datetime(2026, 1, 1, tzinfo=UTC),
]
values = st.sampled_from(VALUES)
attributes = st.dictionaries(st.sampled_from(NAMES_OF_ATTRIBUTES), values).map(
    lambda found: msgspec.msgpack.encode(found) if found else b""
)
rows = st.builds(
    RowUpdate,
    state=st.sampled_from(STATES),
    wake_at_ms=st.none() | st.integers(-5, 20),
    workflow=st.sampled_from(WORKFLOWS),
    commit=st.sampled_from(COMMITS),
    created_at_ms=st.integers(0, 3),
    updated_at_ms=st.integers(0, 3),
    summary=st.binary(max_size=4),
    attributes=attributes,
)
conditions = st.one_of(
    st.builds(
        Condition,
        name=st.sampled_from(NAMES_OF_ATTRIBUTES),
        operator=st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        values=st.tuples(values),
    ),
    st.builds(
        Condition,
        name=st.sampled_from(NAMES_OF_ATTRIBUTES),
        operator=st.just("in"),
        values=st.lists(values, max_size=3).map(tuple),
    ),
    st.builds(
        Condition,
        name=st.sampled_from(NAMES_OF_ATTRIBUTES),
        operator=st.just("exists"),
        values=st.tuples(st.booleans()),
    ),
    st.builds(
        Condition,
        name=st.sampled_from(NAMES_OF_ATTRIBUTES),
        operator=st.just("prefix"),
        values=st.tuples(st.sampled_from(["", "x", "xy", "\U0001f40d"])),
    ),
)
times = st.none() | st.integers(0, 4)
queries = st.builds(
    Query,
    states=st.lists(st.sampled_from(STATES), max_size=2, unique=True).map(tuple),
    workflow=st.none() | st.sampled_from(WORKFLOWS),
    commit=st.none() | st.sampled_from(COMMITS),
    created_from_ms=st.none() | times,
    created_to_ms=times,
    updated_from_ms=times,
    updated_to_ms=times,
    where=st.lists(conditions, max_size=2).map(tuple),
    order=st.sampled_from(["created", "updated", "attributes.a", "attributes.b"]),
    is_descending=st.booleans(),
)
entries = st.binary(max_size=6) | st.integers(0, 255).map(lambda byte: bytes([byte]) * 1500)
images = st.binary(max_size=5) | st.integers(0, 255).map(lambda byte: bytes(range(256)) * 40 + bytes([byte]))
# Instance, whether it is a row-only record, entry, new image (None: the facet is left alone), row.
changes = st.tuples(st.sampled_from(NAMES), st.booleans(), entries, st.none() | images, rows)


@dataclass
class Instance:
    """What the model knows. `images[n]`: the facet as of record n."""

    born: int
    row: RowUpdate
    entries: list[tuple[bytes, bool]] = field(default_factory=list)
    images: list[bytes] = field(default_factory=lambda: [b""])


def kind(value: Any) -> int:
    return (
        1
        if isinstance(value, bool)
        else 2
        if isinstance(value, int | float)
        else 3
        if isinstance(value, datetime)
        else 4
    )


def meets(condition: Condition, known: dict[str, Any]) -> bool:
    """Written another way than the store does it."""
    if condition.operator == "exists":
        return (condition.name in known) == condition.values[0]
    if condition.name not in known:
        return False
    value = known[condition.name]
    if condition.operator == "in":
        return any(kind(value) == kind(each) and value == each for each in condition.values)
    [asked] = condition.values
    if condition.operator == "!=":
        return kind(value) != kind(asked) or value != asked
    if kind(value) != kind(asked):
        return False
    match condition.operator:
        case "=":
            return bool(value == asked)
        case "prefix":
            return bool(value[: len(asked)] == asked)
        case "<":
            return bool(value < asked)
        case "<=":
            return bool(value <= asked)
        case ">":
            return bool(value > asked)
        case _:
            return bool(value >= asked)


def decoded(row: RowUpdate) -> dict[str, Any]:
    return msgspec.msgpack.decode(row.attributes) if row.attributes else {}


def fits(wanted: Query, row: RowUpdate) -> bool:
    between = [
        (wanted.created_from_ms, row.created_at_ms, wanted.created_to_ms),
        (wanted.updated_from_ms, row.updated_at_ms, wanted.updated_to_ms),
    ]
    return (
        (not wanted.states or row.state in wanted.states)
        and wanted.workflow in (None, row.workflow)
        and wanted.commit in (None, row.commit)
        and all((first is None or first <= at) and (last is None or at < last) for first, at, last in between)
        and all(meets(condition, decoded(row)) for condition in wanted.where)
    )


def in_order(wanted: Query, rows: list[tuple[str, Instance]]) -> list[tuple[str, Instance]]:
    newest_first = sorted(rows, key=lambda one: -one[1].born)
    if wanted.order == "created":
        return newest_first if wanted.is_descending else newest_first[::-1]
    if wanted.order == "updated":
        return sorted(rows, key=lambda one: (one[1].row.updated_at_ms, one[1].born), reverse=wanted.is_descending)
    name = wanted.order.removeprefix("attributes.")
    there = [one for one in rows if name in decoded(one[1].row)]
    there.sort(
        key=lambda one: (kind(decoded(one[1].row)[name]), decoded(one[1].row)[name], one[1].born),
        reverse=wanted.is_descending,
    )
    return there + [one for one in newest_first if name not in decoded(one[1].row)]


class Machine(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="facets-"))
        self.openings = 1
        self.store = StateStore.open(self.root / "1", fold="manual")
        self.model: dict[tuple[str, str], Instance] = {}
        self.born = 0

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.root)

    @rule(batch=st.lists(changes, min_size=1, max_size=6))
    def append(self, batch: list[tuple[tuple[str, str], bool, bytes, bytes | None, RowUpdate]]) -> None:
        records = []
        for name, is_row_only, entry, image, row in batch:
            known = self.model.get(name)
            if known is None:
                self.born += 1
                known = self.model[name] = Instance(self.born, row)
                is_row_only = False
            known.row = row
            if is_row_only:
                records.append(Record(*name, 0, b"", None, row))
                continue
            now = known.images[-1]
            change = None if image is None or image == now else delta.between(now, image)
            known.entries.append((entry, change is not None))
            known.images.append(now if image is None else image)
            records.append(Record(*name, len(known.entries), entry, change, row))
        self.store.append(records)

    @rule(name=st.sampled_from(NAMES), other=st.sampled_from(NAMES), off=st.sampled_from([-1, 1, 2]), row=rows)
    def append_out_of_order(self, name: tuple[str, str], other: tuple[str, str], off: int, row: RowUpdate) -> None:
        head = len(self.model[name].entries) if name in self.model else 0
        other_head = len(self.model[other].entries) if other in self.model else 0
        wrong = max(head + 1 + off, 0)
        if wrong == 0 and name in self.model:
            return
        batch = [Record(*name, wrong, b"", None, row)]
        if other != name:
            batch.insert(0, Record(*other, other_head + 1, b"", None, row))
        with pytest.raises(SequenceConflict):
            self.store.append(batch)

    @rule(name=st.sampled_from(NAMES), back=st.integers(0, 6), row=rows)
    def go_back(self, name: tuple[str, str], back: int, row: RowUpdate) -> None:
        """The facet becomes what it was `back` records ago."""
        known = self.model.get(name)
        if known is None:
            with pytest.raises(NotFound):
                self.store.revert(*name, after=0)
            return
        after = max(0, len(known.entries) - back)
        change = self.store.revert(*name, after=after)
        assert (change is None) == (known.images[-1] == known.images[after])
        known.row = row
        known.entries.append((b"back", change is not None))
        known.images.append(known.images[after])
        self.store.append([Record(*name, len(known.entries), b"back", change, row)])

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: tuple[str, str]) -> None:
        assert self.store.delete(*name) is (self.model.pop(name, None) is not None)

    @rule(gone=st.lists(st.sampled_from(NAMES), max_size=4))
    def delete_many(self, gone: list[tuple[str, str]]) -> None:
        there = {name for name in gone if self.model.pop(name, None) is not None}
        assert self.store.delete_many(gone) == len(there)

    @rule(before=st.integers(0, 3), scan=st.integers(1, 4))
    def expire(self, before: int, scan: int) -> None:
        """What only the tail knows of is left for another time, and what is to be woken; all others that have ended by
        then go."""
        with self.store._readers.snapshot() as snapshot:
            folded, view = snapshot.folded, self.store._tail.view()
        gone = {
            name
            for name, known in self.model.items()
            if known.row.state == "complete"
            and known.row.updated_at_ms < before
            and known.row.wake_at_ms is None
            and not view.holds(*name, folded)
        }
        found: set[tuple[str, str]] = set()
        after: int | None = 0
        while after is not None:
            names, after = self.store.expire({"complete": before}, after=after, scan=scan)
            assert len(names) <= scan
            found.update(names)
        assert found == gone
        for name in gone:
            del self.model[name]

    @rule()
    def erase_a_little(self) -> None:
        self.store._fold.erase(bytes_max=1)

    @rule(tenant=st.sampled_from(TENANTS))
    def delete_tenant(self, tenant: str) -> None:
        gone = [name for name in self.model if name[0] == tenant]
        assert self.store.delete_tenant(tenant) is bool(gone)
        for name in gone:
            del self.model[name]

    @rule()
    def fold(self) -> None:
        self.store.fold()
        assert self.store.check() == []

    @rule()
    def fold_without_trim(self) -> None:
        """As after a crash between the fold and the trim, or while a reader is in the way."""
        self.store._fold.fold()

    @rule()
    def trim(self) -> None:
        """Of what was folded some time ago; later records are in the log only."""
        self.store._fold.trim()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = StateStore.open(self.store.path, fold="manual")

    @rule(half_folded=st.booleans(), power_cut=st.booleans())
    def crash(self, half_folded: bool, power_cut: bool) -> None:
        if half_folded:
            self.store._fold.fold()
        self.openings += 1
        copy = self.root / str(self.openings)
        shutil.copytree(self.store.path, copy)
        if power_cut:  # nothing that was not fsynced is on the disk: the folds since the last checkpoint never were
            for path in [*copy.glob("state.db-*"), *copy.glob("output.db-*")]:
                path.unlink()
        self.store.close()
        self.store = StateStore.open(copy, fold="manual")
        assert self.store.check() == []

    @precondition(lambda self: self.openings < 6)
    @rule()
    def back_up_and_continue_from_the_copy(self) -> None:
        self.openings += 1
        self.store.backup(self.root / str(self.openings))
        self.store.close()
        self.store = StateStore.open(self.root / str(self.openings), fold="manual")
        assert self.store.check() == []

    @rule(now=st.integers(-6, 21), limit=st.integers(1, 4))
    def due(self, now: int, limit: int) -> None:
        expected = sorted(
            (known.row.wake_at_ms, known.born, name)
            for name, known in self.model.items()
            if known.row.wake_at_ms is not None and known.row.wake_at_ms <= now
        )
        found = [(row.tenant, row.instance) for row in self.store.due(now, limit=limit)]
        assert found == [name for _, _, name in expected][:limit]

    @rule(
        tenant=st.sampled_from(TENANTS), wanted=queries, limit=st.integers(1, 3), sorted_max=st.sampled_from([-1, 2000])
    )
    def list(self, tenant: str, wanted: Query, limit: int, sorted_max: int) -> None:
        rows = [(name[1], known) for name, known in self.model.items() if name[0] == tenant and fits(wanted, known.row)]
        expected = [name for name, _ in in_order(wanted, rows)]
        found: list[str] = []
        cursor = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("facets.ranges.SORTED_MAX", sorted_max)
            while True:
                page, cursor = self.store.list(tenant, wanted, limit=limit, after=cursor)
                assert len(page) <= limit
                found += [row.instance for row in page]
                if cursor is None:
                    break
        assert found == expected
        assert self.store.matches(tenant, wanted) == len(expected)
        assert self.store.matches(tenant, wanted, limit=1) == min(2, len(expected))

    @rule(states=st.sets(st.sampled_from(STATES)), limit=st.integers(1, 3))
    def in_states(self, states: set[str], limit: int) -> None:
        expected = [
            name
            for name, known in sorted(self.model.items(), key=lambda item: item[1].born)
            if known.row.state in states
        ]
        found: list[tuple[str, str]] = []
        after = 0
        while page := self.store.in_states(states, limit=limit, after=after):
            found += [(row.tenant, row.instance) for row in page]
            after = page[-1].generation
        assert found == expected

    @rule(name=st.sampled_from(NAMES), at=st.integers(0, 8), after=st.integers(0, 8), limit=st.integers(0, 4))
    def look_into_one(self, name: tuple[str, str], at: int, after: int, limit: int) -> None:
        known = self.model.get(name)
        images = [b""] if known is None else known.images
        if at < len(images):
            assert self.store.image(*name, at=at) == images[at]
        else:
            with pytest.raises(NotFound):
                self.store.image(*name, at=at)
        journal = [] if known is None else known.entries
        expected = [JournalRecord(number, *entry) for number, entry in enumerate(journal, 1)]
        assert self.store.journal(*name, after=after, limit=limit) == expected[after : after + limit]

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "store"):
            return
        generations = {}
        for name in NAMES:
            row, known = self.store.row(*name), self.model.get(name)
            assert (row is None) == (known is None)
            if row is None or known is None:
                assert self.store.journal(*name) == []
                continue
            generations[row.generation] = known.born
            update = RowUpdate(
                row.state,
                row.wake_at_ms,
                row.workflow,
                row.commit,
                row.created_at_ms,
                row.updated_at_ms,
                row.summary,
                row.attributes,
            )
            assert (row.tenant, row.instance, update) == (*name, known.row)
            assert (row.sequence, row.facet_bytes) == (len(known.entries), len(known.images[-1]))
            expected = [JournalRecord(number, *entry) for number, entry in enumerate(known.entries, 1)]
            assert self.store.journal(*name) == expected
            assert self.store.image(*name) == known.images[-1]
        assert sorted(generations.items()) == sorted(generations.items(), key=lambda item: item[1])
        wakes = [known.row.wake_at_ms for known in self.model.values() if known.row.wake_at_ms is not None]
        assert self.store.next_wake_ms() == min(wakes, default=None)
        for tenant in TENANTS:
            mine = [known.row for name, known in self.model.items() if name[0] == tenant]
            assert self.store.commits(tenant) == {row.commit for row in mine}
            states = [row.state for row in mine]
            assert self.store.count(tenant) == {state: states.count(state) for state in set(states)}


Machine.TestCase.settings = settings(stateful_step_count=20)
TestStateStore = Machine.TestCase
