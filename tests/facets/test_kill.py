"""Real processes that die: nothing acknowledged is lost, nothing is doubled, nobody else gets in while the owner lives."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from facets import DataInUse, Limits, StateStore
from tests.facets.making import record

ROOT = Path(__file__).parents[2]
KILLS = 10

# Appends for ever: batches over a few instances, now and then a new one, a deletion, a backup's worth of folds between.
# After each acknowledged append it writes to the pipe what it was told is durable; the witness is outside.
CHILD = """
import random, sys
from pathlib import Path
from facets import Limits, Record, RowUpdate, StateStore, delta

noise = random.Random(int(sys.argv[2]))
store = StateStore.open(Path(sys.argv[1]), limits=Limits(fold_interval_ms=3, log_bytes_max=30_000))
print("epoch", store.epoch, flush=True)
names = [f"i{number}" for number in range(8)]
heads = {name: (row.sequence if (row := store.row("acme", name)) else 0) for name in names}
images = {name: store.image("acme", name) for name in names}
while True:
    batch, said = [], []
    for name in noise.sample(names, noise.randint(1, 8)):
        heads[name] += 1
        entry = f"{name}:{heads[name]}:".encode() + noise.randbytes(noise.choice([10, 200, 3000]))
        image = noise.randbytes(1024) + images[name][1024:2048] + bytes([heads[name] % 256]) * 100
        row = RowUpdate("waiting", heads[name], "W", "c" * 40, 1, heads[name])
        batch.append(Record("acme", name, heads[name], entry, delta.between(images[name], image), row))
        images[name] = image
        said.append(f"{name}:{heads[name]}")
    store.append(batch)
    print("durable", *said, flush=True)
"""


def start(path: Path, seed: int, stderr: int | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(seed)],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_nothing_acknowledged_is_lost_and_nothing_doubled_when_the_owner_is_killed(tmp_path: Path) -> None:
    path, noise = tmp_path / "state", random.Random(11)
    acknowledged: dict[str, int] = {}
    epochs: list[int] = []
    total = 0
    for kill in range(KILLS):
        child = start(path, kill)
        assert child.stdout is not None
        lines_left = noise.randint(1, 120)  # killed after so many acknowledgements, wherever it is by then
        for text in child.stdout:
            word, *facts = text.split()
            if word == "epoch":
                epochs.append(int(facts[0]))
                continue
            for fact in facts:
                name, sequence = fact.split(":")
                assert int(sequence) == acknowledged.get(name, 0) + 1 or lines_left == 0
                acknowledged[name] = int(sequence)
                total += 1
            lines_left -= 1
            if lines_left == 0:
                child.send_signal(signal.SIGKILL)
                break
        # What it said before it died counts too.
        for text in child.stdout.read().splitlines():
            for fact in text.split()[1:]:
                if fact.count(":") == 1 and text.startswith("durable"):
                    name, sequence = fact.split(":")
                    acknowledged[name] = max(int(sequence), acknowledged.get(name, 0))
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL

        with StateStore.open(path, fold="manual") as store:
            epochs.append(store.epoch)
            assert store.check() == []
            for name, sequence in acknowledged.items():
                journal = store.journal("acme", name)
                assert len(journal) >= sequence, f"{name} lost {sequence - len(journal)} acknowledged records"
                for position, entry in enumerate(journal, 1):
                    assert entry.sequence == position
                    assert entry.entry.startswith(f"{name}:{position}:".encode())
                # At most one batch was on its way when it died.
                assert len(journal) <= sequence + 1
                image = store.image("acme", name)
                assert image[-100:] == bytes([len(journal) % 256]) * 100
                acknowledged[name] = len(journal)
            assert store.next_wake_ms() == min(acknowledged.values())
    assert epochs == list(range(1, 2 * KILLS + 1))
    assert total > KILLS


def test_second_process_is_refused_with_the_pid_of_the_first_until_that_one_dies(tmp_path: Path) -> None:
    path = tmp_path / "state"
    child = start(path, 1)
    assert child.stdout is not None
    assert child.stdout.readline() == "epoch 1\n"
    try:
        with pytest.raises(DataInUse) as caught:
            StateStore.open(path)
        assert caught.value.details["pid"] == child.pid
        assert caught.value.message == f"{path} is in use by process {child.pid}."
        child.stdout.readline()
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    with StateStore.open(path, limits=Limits()) as store:
        assert store.epoch == 2
        assert store.append([record("mine", 1)]) > 1


def test_owner_whose_lock_was_bypassed_is_fenced_by_the_one_that_came_after(tmp_path: Path) -> None:
    """The lock file is gone (or on a file system that does not lock): the epoch in the log still keeps them apart."""
    path = tmp_path / "state"
    child = start(path, 1, subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    (path / "owner.lock").unlink()
    with StateStore.open(path, fold="manual") as store:
        _, errors = child.communicate(timeout=20)
        assert child.returncode == 1
        assert "facets.errors.Fenced" in errors  # unhandled: it has stopped writing
        store.append([record("mine", 1)])
        store.fold()
        assert store.check() == []
