"""What a step costs does not depend on how many came before it, and replay is linear: counted in operations, not seconds.

Counted are SQLite's own steps, bytes written to the disk, calls of Python functions, and bytes of memory taken anew.
"""

from __future__ import annotations

import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import apsw
import pytest

from executor.core import codec
from executor.core.entries import AnyEntry, Started, StepSucceeded
from executor.core.folding import fold
from executor.core.instance import Instance
from executor.engine.engine import Engine, EngineLimits
from executor.engine.resident import Resident
from facets import Record, RowUpdate, StateStore
from facets.database import connect
from tests.simulation.disk import Disk
from tests.simulation.vfs import DiskVFS

LONG = 50_000 if os.environ.get("PERDURE_PROFILE") == "deep" else 6_000
SHORT = LONG // 10
VM_STEPS = 20


def entries_of(count: int) -> list[AnyEntry]:
    """A journal: a start and steps."""
    steps = (StepSucceeded(1, f"step#{number}", bytes(16), "w.py:1", 1, 1, b"\xc3") for number in range(2, count + 1))
    return [Started(1, "W", "c" * 40, b"\xc0", bytes(16)), *steps]


def stored(journal: list[AnyEntry]) -> list[bytes]:
    chain, found = codec.CHAIN_START, []
    for entry in journal:
        chain = codec.chain_after(chain, entry)
        found.append(codec.encode(entry, chain))
    return found


@contextmanager
def calls() -> Iterator[list[int]]:
    """Counts the calls of functions, Python's and C's."""
    count = [0]

    def note(_frame: FrameType, event: str, _what: Any) -> None:
        if event in ("call", "c_call"):
            count[0] += 1

    sys.setprofile(note)
    try:
        yield count
    finally:
        sys.setprofile(None)


def test_replay_of_a_journal_is_linear() -> None:
    journal = stored(entries_of(LONG))

    def cost(count: int) -> int:
        part = journal[:count]
        with calls() as counted:
            instance = fold(codec.decode_journal(part))
        assert instance.sequence == count
        return counted[0]

    cost(10)
    assert cost(LONG) <= 10.5 * cost(SHORT)


class Meter:
    """A store on a simulated disk, whose connections count the steps of SQLite's machine."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        self.bytes_written = 0
        self.disk = Disk(root, Random(1))
        self.vfs = DiskVFS(self.disk)
        write = self.disk.write

        def counted(name: str, offset: int, content: bytes, base: Callable[[bytes], None]) -> None:
            self.bytes_written += len(content)
            write(name, offset, content, base)

        self.disk.write = counted  # type: ignore[method-assign]

        def metered(*args: Any, **options: Any) -> apsw.Connection:
            connection = connect(*args, **options)
            connection.set_progress_handler(self._tick, VM_STEPS)
            return connection

        for module in ("facets.store", "facets.log", "facets.output", "facets.index"):
            patch.setattr(f"{module}.connect", metered)
        self.store = StateStore.open(root / "state", fold="manual", vfs=self.vfs.name)

    def _tick(self) -> bool:
        self.steps += VM_STEPS
        return False

    def cost(self, action: Callable[[], object]) -> tuple[int, int]:
        before = (self.steps, self.bytes_written)
        action()
        return self.steps - before[0], self.bytes_written - before[1]


def record(sequence: int, instance: str = "long") -> Record:
    row = RowUpdate("running", None, "W", "c" * 40, 1, sequence, b"")
    return Record("acme", instance, sequence, sequence.to_bytes(4, "big") * 30, None, row)


def test_live_step_costs_the_store_the_same_at_any_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Append and fold of twenty single steps, behind a short journal and behind a long one."""
    meter = Meter(tmp_path.resolve(), monkeypatch)
    costs: dict[int, list[tuple[int, int]]] = {}
    try:
        store, sequence = meter.store, 0
        for length in (SHORT, LONG):
            while sequence < length:
                part = [record(number) for number in range(sequence + 1, min(sequence + 500, length) + 1)]
                store.append(part)
                sequence += len(part)
                store.fold()
            costs[length] = []
            for _ in range(20):
                sequence += 1
                step = record(sequence)
                costs[length].append(meter.cost(lambda: (store.append([step]), store.fold())))
        for kind, what in enumerate(("steps of SQLite", "bytes written")):
            short, long = (sum(cost[kind] for cost in costs[length]) for length in (SHORT, LONG))
            assert short > 0
            assert long <= 1.3 * short, f"{what}: {short} behind {SHORT} entries, {long} behind {LONG}"
        last = meter.cost(lambda: store.journal("acme", "long", after=sequence - 10))
        first = meter.cost(lambda: store.journal("acme", "long", limit=10))
        assert max(last[0], first[0]) <= 2_000, "ten entries of a long journal are found, not searched"
        assert len(store.journal("acme", "long")) == sequence
    finally:
        meter.store.close()
        meter.vfs.unregister()


def test_live_step_costs_the_engine_the_same_at_any_length() -> None:
    """Calls, and memory that a commit takes: a copy of something that grows would show in the one or the other."""

    class Clock:
        def now_ms(self) -> int:
            return 1

    engine = Engine(None, None, None, Clock(), EngineLimits())  # type: ignore[arg-type]

    def cost(length: int) -> tuple[int, int]:
        journal = entries_of(length)
        instance: Instance = fold(journal)
        resident = Resident(("acme", "long"), instance, stored(journal), length, is_resting=False)
        counts, sizes = [], []
        for number in range(length + 1, length + 40):
            step = StepSucceeded(1, f"step#{number}", bytes(16), "w.py:1", 1, 1, b"\xc3")
            if number % 2:
                with calls() as counted:
                    engine.commit(resident, (step,))
                counts.append(counted[0])
            else:
                tracemalloc.start()
                engine.commit(resident, (step,))
                sizes.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
        return max(counts), sorted(sizes)[len(sizes) // 2]  # a list or a set that grows now and then is no cost of each

    short, long = cost(100), cost(LONG)
    assert long[0] <= short[0] + 5, f"calls: {short[0]} behind 100 entries, {long[0]} behind {LONG}"
    assert long[1] <= short[1] + 2_000, f"bytes: {short[1]} behind 100 entries, {long[1]} behind {LONG}"
