"""Programs: what the tenants of the simulation run, and the sandboxes that run them.

A program is its payload: a list of operations, each a list of a name and numbers.

    ["step", failures, ms]         a step that fails so often, and takes so long each time
    ["facet", ms]                  a step that writes the facet
    ["nap", ms]                    a sleep
    ["wait", type, timeout_ms]     for an event
    ["both", operation, …]         at the same time (no facet steps)
    ["race", ms, type]             a sleep and a wait; the first gives up the other

What a run asks for is a function of the entries that it has seen, as with real tenant code. The facet after n facet
steps is a function of n and the payload: the executor never looks into it, so it need not be a database.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import trio

import facets
from executor.core import codec
from executor.core.commands import Cancel, Command, Complete, RetryPolicy, Sleep, StepDone, StepError, Wait
from executor.core.entries import (
    AnyEntry,
    AttemptFailed,
    Cancelled,
    SleepEnded,
    SleepStarted,
    Started,
    StepFailed,
    StepSucceeded,
    WaitEnded,
    WaitStarted,
)
from executor.core.failure import ErrorFact
from executor.sandbox.protocol import Activate, Attempt, Drop, Entries, FromSandbox, Quiesce, ToSandbox, Turn
from executor.sandbox.spec import DeathReason, SandboxDied, SandboxSpec

if TYPE_CHECKING:
    from tests.simulation.witness import Key, Witness

Operation = list[Any]
RETRY_LIMIT = 3


def payload_of(operations: list[Operation], salt: int) -> bytes:
    """`salt` makes two programs of the same operations different ones."""
    return msgspec.msgpack.encode([salt, operations])


def branches_of(number: int, operation: Operation) -> list[tuple[str, Operation]]:
    """Paths of an operation's calls, and what is called."""
    match operation:
        case ["both", *parts]:
            return [(f"both{number}/{index}#1", part) for index, part in enumerate(parts)]
        case ["race", ms, kind]:
            return [(f"race{number}/nap#1", ["nap", ms]), (f"race{number}/wait#1", ["wait", kind, None])]
        case [name, *_]:
            return [(f"{name}{number}#1", operation)]
    raise AssertionError(operation)


def image_after(payload: bytes, count: int) -> bytes:
    """The facet after `count` facet steps: it grows, its pages change."""
    if not count:
        return b""
    pages = 1 + count // 2
    made = [
        blake2b(payload + bytes([page, count if page == count % pages else 0])).digest() * 16 for page in range(pages)
    ]
    return b"".join(made)


def facet_image(journal: Sequence[bytes]) -> bytes:
    """What the facet must be by this journal."""
    entries = [codec.decode(data)[0] for data in journal]
    first = entries[0]
    assert isinstance(first, Started)
    done = [entry for entry in entries if isinstance(entry, StepSucceeded) and entry.path.startswith("facet")]
    return image_after(first.payload, len(done))


def result_of(journal: Sequence[bytes]) -> bytes:
    """What the program must return."""
    first = codec.decode(journal[0])[0]
    assert isinstance(first, Started)
    return msgspec.msgpack.encode(blake2b(first.payload, digest_size=8).hexdigest())


@dataclass
class SimulatedRun:
    key: Key
    total: int
    seen: list[AnyEntry] = field(default_factory=list)
    position: int = 0
    """Sequence of the last entry seen or skipped."""
    asked: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    failed: dict[str, int] = field(default_factory=dict)
    executing: set[str] = field(default_factory=set)
    operations: dict[str, Operation] = field(default_factory=dict)
    payload: bytes = b""
    program: list[Operation] = field(default_factory=list)
    is_quiesced: bool = False
    is_complete: bool = False
    is_dropped: bool = False

    def see(self, entry: AnyEntry) -> None:
        """Take an entry in."""
        self.seen.append(entry)
        match entry:
            case Started():
                self.payload = entry.payload
                _, self.program = msgspec.msgpack.decode(entry.payload)
            case StepSucceeded() | StepFailed() | SleepEnded() | WaitEnded():
                self.settled.add(entry.path)
            case Cancelled():
                self.settled.add(entry.path)
            case AttemptFailed():
                self.failed[entry.path] = entry.attempt
                self.asked.add(entry.path)
            case SleepStarted() | WaitStarted():
                self.asked.add(entry.path)
            case _:
                pass

    def wants(self) -> tuple[list[Command], list[str]]:
        """Commands to send now, and steps to execute."""
        commands: list[Command] = []
        steps: list[str] = []
        for number, operation in enumerate(self.program):
            branches = branches_of(number, operation)
            is_settled = [path in self.settled for path, _ in branches]
            if operation[0] == "race" and any(is_settled):
                for path, _ in branches:
                    if path not in self.settled and f"cancel {path}" not in self.asked:
                        self.asked.add(f"cancel {path}")
                        commands.append(Cancel(path))
                continue
            if all(is_settled):
                continue
            for path, call in branches:
                self.operations[path] = call
                if path in self.settled or path in self.asked:
                    continue
                self.asked.add(path)
                match call:
                    case ["nap", ms]:
                        commands.append(Sleep(path, asked(path), "w.py:1", ms, None))
                    case ["wait", kind, timeout_ms]:
                        commands.append(Wait(path, asked(path), "w.py:1", kind, timeout_ms))
                    case _:
                        steps.append(path)
            return commands, steps
        if not self.executing and not self.is_complete:
            self.is_complete = True
            commands.append(Complete(msgspec.msgpack.encode(blake2b(self.payload, digest_size=8).hexdigest())))
        return commands, steps

    def outcome(self, path: str, attempt: int, started_at_ms: int) -> Command:
        """What an attempt reports."""
        call = self.operations[path]
        if call[0] == "step" and attempt <= call[1]:
            error = ErrorFact("Boom", f"attempt {attempt}")
            policy = RetryPolicy(limit=RETRY_LIMIT, delay_ms=200)
            return StepError(path, asked(path), "w.py:1", attempt, started_at_ms, error, policy)
        delta = None
        if call[0] == "facet":
            count = sum(other.startswith("facet") for other in self.settled)
            delta = facets.delta.between(image_after(self.payload, count), image_after(self.payload, count + 1))
        value = msgspec.msgpack.encode([path, attempt])
        return StepDone(path, asked(path), "w.py:1", attempt, started_at_ms, value, delta)


def asked(path: str) -> bytes:
    return blake2b(path.encode(), digest_size=16).digest()


class SimulatedSandbox:
    """See the module's text. Its messages take as long as `delay` says."""

    def __init__(self, host: SimulatedHost, spec: SandboxSpec) -> None:
        self.spec = spec
        self._host = host
        self._to_engine, self._frames = trio.open_memory_channel[list[FromSandbox]](math.inf)
        self.runs: dict[int, SimulatedRun] = {}
        self.death: SandboxDied | None = None

    async def send(self, frames: Sequence[ToSandbox]) -> None:
        """See the port."""
        await self._host.delay()
        if self.death is not None:
            raise self.death
        for frame in frames:
            match frame:
                case Activate():
                    self.runs[frame.run] = SimulatedRun((self.spec.tenant, frame.instance), frame.total)
                case Entries():
                    self._deliver(frame)
                case Attempt():
                    self._execute(frame.run, frame.path, frame.attempt)
                case Quiesce():
                    run = self.runs.get(frame.run)
                    if run is not None:
                        run.is_quiesced = True
                        self._turn(frame.run, run, [])
                case Drop():
                    run = self.runs.pop(frame.run, None)
                    if run is not None:
                        run.is_dropped = True
                case _:
                    pass

    def _deliver(self, frame: Entries) -> None:
        run = self.runs[frame.run]
        self._host.witness.demand(frame.first == run.position + 1, f"{run.key}: entries are sent in order, each once")
        self._host.witness.sent(run.key, frame.first, frame.entries)
        for data in frame.entries:
            if isinstance(data, int):
                run.position += data
            else:
                run.position += 1
                run.see(codec.decode(data)[0])
        if run.position >= run.total:
            self._go_on(frame.run, run)

    def _go_on(self, number: int, run: SimulatedRun) -> None:
        if run.is_quiesced:
            self._turn(number, run, [])
            return
        commands, steps = run.wants()
        for path in steps:
            self._execute(number, path, 1)
        self._turn(number, run, commands)

    def _execute(self, number: int, path: str, attempt: int) -> None:
        run = self.runs.get(number)
        if run is None or run.is_quiesced:
            return
        run.executing.add(path)
        self._host.witness.executes(run.key, path, attempt)
        self._host.nursery.start_soon(self._attempt, number, run, path, attempt)

    async def _attempt(self, number: int, run: SimulatedRun, path: str, attempt: int) -> None:
        started_at_ms = self._host.now_ms()
        await trio.sleep(run.operations[path][-1] / 1000)
        if run.is_dropped or self.death is not None:
            return
        run.executing.discard(path)
        self._turn(number, run, [run.outcome(path, attempt, started_at_ms)])

    def _turn(self, number: int, run: SimulatedRun, commands: list[Command]) -> None:
        self.say([Turn(number, run.position, commands, not run.executing)])

    def say(self, frames: list[FromSandbox]) -> None:
        if self.death is None:
            self._to_engine.send_nowait(frames)

    async def receive(self) -> list[FromSandbox]:
        """See the port."""
        if self.death is not None:
            raise self.death
        try:
            frames = await self._frames.receive()
        except trio.EndOfChannel:
            assert self.death is not None
            raise self.death from None
        await self._host.delay()
        return frames

    def kill(self, reason: DeathReason = "killed", detail: str = "") -> None:
        """See the port."""
        if self.death is None:
            self.death = SandboxDied(reason, detail or "simulated")
            self._to_engine.close()


class SimulatedHost:
    """`fails`: how likely the next sandbox dies before it is ready."""

    def __init__(
        self,
        witness: Witness,
        random: Random,
        nursery: trio.Nursery,
        *,
        now_ms: Callable[[], int],
        delay: Callable[[], Any],
    ) -> None:
        self.witness = witness
        self.random = random
        self.nursery = nursery
        self.now_ms = now_ms
        self.delay = delay
        self.sandboxes: list[SimulatedSandbox] = []
        self.fails = 0.0

    async def open(self, spec: SandboxSpec) -> SimulatedSandbox:
        """See the port."""
        await self.delay()
        if self.random.random() < self.fails:
            raise SandboxDied("crashed", "simulated, at its start")
        sandbox = SimulatedSandbox(self, spec)
        self.sandboxes.append(sandbox)
        return sandbox

    @property
    def living(self) -> list[SimulatedSandbox]:
        return [sandbox for sandbox in self.sandboxes if sandbox.death is None]
