"""What does a sandbox's process use: replay of a long journal, three trivial steps, one run that waits inside a step?

    python -m tools.bench.replay [--steps N] [--pairs N] [--workflows N] [--in-flight N] [--waiting-runs N] [--json]

The child's own program in a process of its own, unconfined, fed by a script over a socket pair: no engine, no disk. CPU
is that of the child alone.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import marshal
import os
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Any

from executor.core import codec, values
from executor.core.commands import Complete, StepBegun, StepDone
from executor.core.entries import AnyEntry, Started, StepSucceeded
from executor.core.replay import asked
from executor.sandbox.protocol import (
    CHUNK_BYTES,
    LENGTH_BYTES,
    Activate,
    Drop,
    Entries,
    FromSandbox,
    Ready,
    ToSandbox,
    Turn,
    decode_from_sandbox,
    encode_message,
)
from tools.bench.common import main, memory_bytes

COMMIT = "c" * 40
AT_MS = 1_700_000_000_000
FIRST_WAITING = 1_000_000
SOURCE = b"""
import asyncio
from executor.workflow import Workflow

async def one(number):
    return {"number": number}

async def wait(number):
    await asyncio.sleep(3600)

class Three(Workflow):
    async def run(self, event, step):
        for number in range(3):
            last = await step.do(f"step {number}", one, number)
        return last

class Long(Workflow):
    async def run(self, event, step):
        total = 0
        for number in range(event.payload):
            total += (await step.do("step", one, number))["number"]
        return total

class Waiting(Workflow):
    async def run(self, event, step):
        await step.do("wait", wait, event.payload)
"""
_CHILD = """
import socket, sys
from executor.sandbox import child
from executor.sandbox.limits import SandboxLimits
child.before_fork()
import gc; gc.freeze()
child.main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), SandboxLimits())
"""


class Script:
    """The other end of a child's channel."""

    def __init__(self, pid: int, control: socket.socket) -> None:
        self.pid = pid
        self._control = control
        self._received = bytearray()

    def send(self, frames: list[ToSandbox]) -> None:
        self._control.sendall(encode_message(frames))

    def receive(self) -> list[FromSandbox]:
        """The frames of at least one message."""
        frames: list[FromSandbox] = []
        while not frames:
            data = self._control.recv(1 << 20)
            assert data, "the child has ended"
            self._received += data
            begin = 0
            while len(self._received) - begin >= LENGTH_BYTES:
                end = begin + LENGTH_BYTES + int.from_bytes(self._received[begin : begin + LENGTH_BYTES], "big")
                if len(self._received) < end:
                    break
                frames += decode_from_sandbox(bytes(self._received[begin + LENGTH_BYTES : end]))
                begin = end
            del self._received[:begin]
        return frames

    def cpu_s(self) -> float:
        """CPU seconds of the child so far, of all its threads, in nanoseconds' resolution."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def child() -> Generator[Script]:
    """A fresh child that has said Ready."""
    path = "workflows.py"
    code = marshal.dumps(compile(SOURCE, path, "exec", dont_inherit=True))
    index = json.dumps(
        {
            "cache_tag": sys.implementation.cache_tag,
            "magic": importlib.util.MAGIC_NUMBER.hex(),
            "files": {path: [0, len(SOURCE), len(SOURCE), len(code)]},
            "workflows": [[name, "workflows"] for name in ("Three", "Long", "Waiting")],
        }
    ).encode()
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as bundle, theirs:
        bundle.write(b"PDBUNDL1" + len(index).to_bytes(4, "little") + index + SOURCE + code)
        bundle.flush()
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CHILD, str(theirs.fileno()), str(bundle.fileno())],
            pass_fds=(theirs.fileno(), bundle.fileno()),
            env={
                "PYTHONHASHSEED": "1",
                "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
                **{name: value for name, value in os.environ.items() if name.startswith("PERDURE_BENCH_")},
            },
        )
    script = Script(process.pid, ours)
    try:
        (ready,) = script.receive()
        assert isinstance(ready, Ready)
        yield script
    finally:
        ours.close()
        process.wait()


def _stored(entry: AnyEntry) -> bytes:
    return codec.encode(entry, codec.CHAIN_START)  # the sandbox leaves the chain to the executor


def _started(workflow: str, payload: Any) -> bytes:
    return _stored(Started(AT_MS, workflow, COMMIT, values.encode(payload), bytes(16)))


def _begin(run: int, workflow: str, payload: Any) -> list[ToSandbox]:
    started = _started(workflow, payload)
    return [Activate(run, f"instance-{run}", workflow, COMMIT, 1), Entries(run, 1, [started])]


def _done(run: int, sequence: int, done: StepDone) -> Entries:
    return Entries(run, sequence, [_stored(StepSucceeded(AT_MS + sequence, *_facts(done)))])


def _facts(done: StepDone) -> tuple[str, bytes, str, int, int, bytes]:
    return done.path, done.asked, done.where, done.attempt, done.started_at_ms, done.value


def journal(steps: int) -> list[bytes | int]:
    """Of an instance of Long that has all its results, as it is sent: that each step began is left out."""
    stored: list[bytes | int] = [_started("Long", steps)]
    for number in range(steps):
        digest = asked("step", "step", (number,), {})
        value = values.encode({"number": number})
        at_ms = AT_MS + number
        path = f"step#{number + 1}"
        stored += (1, _stored(StepSucceeded(at_ms, path, digest, "workflows.py:20", 1, at_ms, value)))
    return stored


def replay(script: Script, steps: int, run: int) -> tuple[float, float]:
    """Wall and CPU seconds from the first byte to the idle Turn."""
    stored = journal(steps)
    longest = max(len(entry) for entry in stored if isinstance(entry, bytes))
    count = 2 * (CHUNK_BYTES // longest)
    chunks: list[ToSandbox] = [
        Entries(run, begin + 1, stored[begin : begin + count]) for begin in range(0, len(stored), count)
    ]
    messages: list[list[ToSandbox]] = [[Activate(run, "long", "Long", COMMIT, len(stored))], *([c] for c in chunks)]
    cpu, begun = script.cpu_s(), time.perf_counter()
    for message in messages:
        script.send(message)
    (turn,) = script.receive()
    wall, cpu = time.perf_counter() - begun, script.cpu_s() - cpu
    assert isinstance(turn, Turn)
    assert turn.idle
    (command,) = turn.commands
    assert isinstance(command, Complete)
    assert values.decode(command.value) == steps * (steps - 1) // 2
    script.send([Drop(run)])
    return wall, cpu


def three_steps(script: Script, count: int, in_flight: int, first_run: int) -> tuple[float, int]:
    """CPU seconds of `count` runs of Three with `in_flight` at once, and a checksum of all results."""
    runs = iter(range(first_run, first_run + count))
    sequences: dict[int, int] = {}
    checksum = 0

    def more(places: int) -> Iterable[ToSandbox]:
        for _, run in zip(range(places), runs, strict=False):
            sequences[run] = 1
            yield from _begin(run, "Three", {"number": run})

    cpu = script.cpu_s()
    script.send(list(more(in_flight)))
    while sequences:
        answers: list[ToSandbox] = []
        for frame in script.receive():
            assert isinstance(frame, Turn), frame
            for command in frame.commands:
                if isinstance(command, StepDone):
                    sequences[frame.run] += 1
                    answers.append(_done(frame.run, sequences[frame.run], command))
                elif not isinstance(command, StepBegun):
                    assert isinstance(command, Complete), command
                    checksum += zlib.crc32(command.value)
                    del sequences[frame.run]
                    answers += [Drop(frame.run), *more(1)]
        if answers:
            script.send(answers)
    return script.cpu_s() - cpu, checksum


def waiting(count: int) -> tuple[float, float]:
    """Bytes and CPU seconds per run that waits inside a step, in a child of its own."""
    with child() as script:
        three_steps(script, 100, 10, 1)  # what the first run makes once is not theirs
        before, cpu = memory_bytes(script.pid), script.cpu_s()
        for begin in range(0, count, 500):
            many = range(FIRST_WAITING + begin, FIRST_WAITING + min(begin + 500, count))
            script.send([frame for run in many for frame in _begin(run, "Waiting", run)])
        _settle(script, FIRST_WAITING + count)
        return (memory_bytes(script.pid) - before) / count, (script.cpu_s() - cpu) / count


def _settle(script: Script, run: int) -> None:
    """Everything sent before has been taken: a run that comes last has been heard of."""
    script.send(_begin(run, "Three", 0))
    while not any(isinstance(frame, Turn) and frame.run == run for frame in script.receive()):
        pass
    script.send([Drop(run)])


def replays(script: Script, steps: int, pairs: int) -> dict[str, Any]:
    """Medians of `pairs`: one of `steps`, with five of a tenth before it and five after.

    The speed of a machine that others use changes from one tenth of a second to the next, by half and more. The short
    ones have to meet as much of that as the long one does: the quickest of a few short ones held against the quickest
    of a few long ones tells how long the machine was left alone, not how the time grows.
    """
    runs = itertools.count(500_000)
    replay(script, steps, next(runs))
    short: list[tuple[float, float]] = []
    long: list[tuple[float, float]] = []
    ratios: list[float] = []
    for _ in range(pairs):
        before = [replay(script, steps // 10, next(runs)) for _ in range(5)]
        long.append(replay(script, steps, next(runs)))
        beside = before + [replay(script, steps // 10, next(runs)) for _ in range(5)]
        short += beside
        ratios.append(long[-1][1] / fmean(cpu for _, cpu in beside))
    return {
        "replay_short_cpu_ms": round(median(cpu for _, cpu in short) * 1000, 2),
        "replay_long_cpu_ms": round(median(cpu for _, cpu in long) * 1000, 2),
        "replay_short_wall_ms": round(median(wall for wall, _ in short) * 1000, 2),
        "replay_long_wall_ms": round(median(wall for wall, _ in long) * 1000, 2),
        "replay_ratio": round(median(ratios), 2),
        "replay_ratios": [round(ratio, 2) for ratio in ratios],
        "us_per_step": round(median(cpu for _, cpu in long) / steps * 1e6, 2),
    }


def run(
    *, steps: int = 10_000, pairs: int = 7, workflows: int = 3_000, in_flight: int = 64, waiting_runs: int = 10_000
) -> dict[str, Any]:
    """Replay at a tenth of `steps` and at `steps`; W3; memory of runs that wait inside a step."""
    with child() as script:
        three_steps(script, min(workflows, 200), in_flight, 1)
        w3_cpu, checksum = three_steps(script, workflows, in_flight, 1_000)
        found = replays(script, steps, pairs)
    wait_bytes, wait_cpu = waiting(waiting_runs)
    return found | {
        "w3_cpu_ms": round(w3_cpu / workflows * 1000, 4),
        "waiting_run_bytes": round(wait_bytes),
        "waiting_run_cpu_ms": round(wait_cpu * 1000, 4),
        "checksum": f"{checksum:x}",
    }


if __name__ == "__main__":
    main(run)
