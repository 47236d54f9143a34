"""Programs: what the tenants of the simulation run, and the sandboxes that run them.

A program is its payload: a list of operations, each a list of a name and numbers.

    ["step", failures, ms]         a step that fails so often, and takes so long each time
    ["make", failures, ms]         a step that succeeds, and what undoes it fails so often, and takes so long
    ["facet", ms]                  a step that writes the facet
    ["nap", ms]                    a sleep
    ["wait", type, timeout_ms]     for an event
    ["both", operation, …]         at the same time (no facet steps)
    ["race", ms, type]             a sleep and a wait; the first gives up the other
    ["call", close, operation, …]  a child, whose end is waited for
    ["spawn", close, operation, …] a child, whose end is not waited for
    ["anew"]                       a new execution, of the operations that follow
    ["fail"]                       run() fails

An update is handled by a step of its own.

What a run asks for is a function of the entries that it has seen, as with real tenant code. The facet after n facet
steps is a function of n and the payload: the executor never looks into it, so it need not be a database.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import trio

import facets
from executor.core import codec
from executor.core.commands import (
    AcceptUpdate,
    Cancel,
    Child,
    Command,
    Complete,
    Continue,
    EndUpdate,
    Fail,
    RetryPolicy,
    Sleep,
    StepBegun,
    StepDone,
    StepError,
    Undo,
    Undone,
    Wait,
)
from executor.core.entries import (
    AnyEntry,
    AttemptFailed,
    Cancelled,
    ChildEnded,
    ChildRequested,
    ChildStarted,
    Continued,
    Restarted,
    SleepEnded,
    SleepStarted,
    Started,
    StepFailed,
    StepSucceeded,
    Undoing,
    UpdateAccepted,
    UpdateEnded,
    WaitEnded,
    WaitStarted,
)
from executor.core.failure import ErrorFact
from executor.sandbox.protocol import (
    Activate,
    Answer,
    Ask,
    Attempt,
    Drop,
    Entries,
    FromSandbox,
    GoOn,
    Quiesce,
    ToSandbox,
    Turn,
    Update,
)
from executor.sandbox.spec import DeathReason, SandboxDied, SandboxSpec

if TYPE_CHECKING:
    from tests.simulation.witness import Key, Witness

Operation = list[Any]
UpdateState = Literal["accepting", "active", "told", "ended"]
RETRY_LIMIT = 3


def payload_of(operations: list[Operation], salt: int, *, facet_steps: int = 0) -> bytes:
    """`salt` makes two programs of the same operations different ones. `facet_steps`: of the executions before."""
    return msgspec.msgpack.encode([salt, operations, facet_steps])


def branches_of(number: int, operation: Operation) -> list[tuple[str, Operation]]:
    """Paths of an operation's calls, and what is called."""
    match operation:
        case ["both", *parts]:
            return [
                (f"both{number}/{index}{'make' if part[0] == 'make' else ''}#1", part)
                for index, part in enumerate(parts)
            ]
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


def standing(journal: Sequence[bytes]) -> list[tuple[int, AnyEntry]]:
    """Entries that no restart went back behind, with their places; those of earlier executions too."""
    found: list[tuple[int, AnyEntry]] = []
    for sequence, data in enumerate(journal, start=1):
        entry, _ = codec.decode(data)
        if isinstance(entry, Restarted):
            found = [each for each in found if each[0] <= entry.after]
        found.append((sequence, entry))
    return found


def execution(journal: Sequence[bytes]) -> list[AnyEntry]:
    """Of those, the ones of the present execution."""
    found = [entry for _, entry in standing(journal)]
    begun = [at for at, entry in enumerate(found) if isinstance(entry, Started | Continued)]
    return found[begun[-1] :]


def facet_image(journal: Sequence[bytes]) -> bytes:
    """What the facet must be by this journal."""
    entries = [entry for _, entry in standing(journal)]
    first = entries[0]
    assert isinstance(first, Started)
    done = [entry for entry in entries if isinstance(entry, StepSucceeded) and entry.path.startswith("facet")]
    return image_after(salt_of(first.payload), len(done))


def salt_of(payload: bytes) -> bytes:
    return msgspec.msgpack.encode(msgspec.msgpack.decode(payload)[0])


def result_of(payload: bytes) -> bytes:
    """What the program must return."""
    return msgspec.msgpack.encode(blake2b(salt_of(payload), digest_size=8).hexdigest())


def fails(payload: bytes) -> bool:
    """Whether it must fail."""
    return ["fail"] in msgspec.msgpack.decode(payload)[1]


def to_undo(entries: Sequence[AnyEntry]) -> list[str]:
    """Paths of the steps of one execution that were finished when its undoing began, and can be undone: the latest
    asked first. `make` steps of one operation are asked for in the order of its branches."""
    made: list[str] = []
    for entry in entries:
        if isinstance(entry, Undoing):
            break
        if isinstance(entry, StepSucceeded) and "make" in entry.path:
            made.append(entry.path)
    return sorted(made, key=_place, reverse=True)


def _place(path: str) -> tuple[int, int]:
    """Number of the operation, and of the branch."""
    first, _, rest = path.partition("/")
    if not rest:
        return int(first.removeprefix("make").removesuffix("#1")), 0
    return int(first.removeprefix("both")), int(rest.removesuffix("#1").removesuffix("make"))


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
    facet_steps: int = 0
    updates: dict[str, UpdateState] = field(default_factory=dict)
    kept: list[Update] = field(default_factory=list)
    undoing: Undoing | None = None
    not_undone: list[str] = field(default_factory=list)
    is_quiesced: bool = False
    is_complete: bool = False
    is_dropped: bool = False

    def see(self, entry: AnyEntry) -> None:
        """Take an entry in."""
        self.seen.append(entry)
        match entry:
            case Started() | Continued():
                assert not self.payload, "a run is of one execution"
                self.payload = entry.payload
                _, self.program, self.facet_steps = msgspec.msgpack.decode(entry.payload)
            case StepSucceeded() | StepFailed():
                self.settled.add(entry.path)
                if isinstance(entry, StepFailed) and entry.path.startswith("undo/"):
                    self.not_undone.append(entry.path.removeprefix("undo/"))
            case SleepEnded() | WaitEnded() | ChildEnded() | Cancelled():
                self.settled.add(entry.path)
            case ChildStarted():
                if "spawn" in entry.path:
                    self.settled.add(entry.path)
            case AttemptFailed():
                self.failed[entry.path] = entry.attempt
                self.asked.add(entry.path)
            case SleepStarted() | WaitStarted() | ChildRequested():
                self.asked.add(entry.path)
            case UpdateAccepted():
                self.updates[entry.id] = "active"
            case UpdateEnded():
                self.updates[entry.id] = "ended"
            case Undoing():
                self.undoing = entry
                self.is_complete = False
                self.executing.clear()
            case _:
                pass

    def wants(self) -> tuple[list[Command], list[str]]:
        """Commands to send now, and steps to execute."""
        if not self.payload or self.is_complete:
            return [], []
        if self.undoing is not None:
            return self._wants_undone()
        commands: list[Command] = []
        steps: list[str] = []
        for update, state in self.updates.items():
            path = f"update {update}#1"
            if state == "active" and path in self.settled:
                self.updates[update] = "told"
                commands.append(EndUpdate(update, msgspec.msgpack.encode(update), None))
            elif state == "active" and path not in self.asked:
                self.operations[path] = ["step", 0, 1]
                self.asked.add(path)
                steps.append(path)
        for number, operation in enumerate(self.program):
            if operation in (["anew"], ["fail"]):
                return commands + self._wants_end(operation, number), steps
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
                    case ["call" | "spawn" as kind, close, *operations]:
                        payload = payload_of(operations, len(self.payload) + number)
                        child = Child(
                            path,
                            asked(path),
                            "w.py:1",
                            "Program",
                            payload,
                            None,
                            None,
                            close,
                            is_awaited=kind == "call",
                        )
                        commands.append(child)
                    case _:
                        steps.append(path)
            return commands, steps
        return commands + self._wants_end(["return"], 0), steps

    def _wants_end(self, operation: Operation, number: int) -> list[Command]:
        """How `run()` ends, once nothing of it executes and no update is being handled; a failure waits for none."""
        is_updating = any(state in ("accepting", "active") for state in self.updates.values())
        if self.executing or (is_updating and operation != ["fail"]):
            return []
        self.is_complete = True
        if operation == ["anew"]:
            count = self.facet_steps + sum(path.startswith("facet") for path in self.settled)
            salt = msgspec.msgpack.decode(self.payload)[0]
            return [Continue(payload_of(self.program[number + 1 :], salt, facet_steps=count))]
        if operation == ["fail"]:
            error = ErrorFact("Fault", "as the program says")
            ends = self._refused_updates(error)
            return [*ends, Undo(error) if to_undo(self.seen) else Fail(error)]
        return [Complete(result_of(self.payload))]

    def _refused_updates(self, error: ErrorFact) -> list[Command]:
        ended: list[Command] = [
            EndUpdate(name, None, error) for name, state in self.updates.items() if state == "active"
        ]
        self.updates = dict.fromkeys(self.updates, "told")
        return ended

    def _wants_undone(self) -> tuple[list[Command], list[str]]:
        assert self.undoing is not None
        commands = self._refused_updates(self.undoing.error or ErrorFact("Terminated", "from outside"))
        for path in to_undo(self.seen):
            undo = f"undo/{path}"
            if undo in self.settled:
                continue
            _, failures, ms = dict(_made(self.program))[path]
            self.operations[undo] = ["step", failures, ms]
            is_new = undo not in self.asked
            self.asked.add(undo)
            return commands, [undo] if is_new else []
        self.is_complete = True
        return [*commands, Undone(self.not_undone)], []

    def outcome(self, path: str, attempt: int, started_at_ms: int) -> Command:
        """What an attempt reports."""
        call = self.operations[path]
        if call[0] == "step" and attempt <= call[1]:
            error = ErrorFact("Boom", f"attempt {attempt}")
            policy = RetryPolicy(limit=RETRY_LIMIT, delay_ms=200)
            return StepError(path, asked(path), "w.py:1", attempt, started_at_ms, error, policy)
        delta = None
        if call[0] == "facet":
            count = self.facet_steps + sum(other.startswith("facet") for other in self.settled)
            salt = salt_of(self.payload)
            delta = facets.delta.between(image_after(salt, count), image_after(salt, count + 1))
        value = msgspec.msgpack.encode([path, attempt])
        return StepDone(path, asked(path), "w.py:1", attempt, started_at_ms, value, delta)


def _made(program: list[Operation]) -> list[tuple[str, Operation]]:
    """Steps that can be undone, with their paths."""
    found: list[tuple[str, Operation]] = []
    for number, operation in enumerate(program):
        if operation[0] in ("both", "make"):
            found += [(path, call) for path, call in branches_of(number, operation) if call[0] == "make"]
    return found


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
                    key = (self.spec.tenant, frame.instance)
                    self.runs[frame.run] = SimulatedRun(key, frame.total, is_quiesced=frame.paused)
                case Entries():
                    self._deliver(frame)
                case Attempt():
                    self._execute(frame.run, frame.path, frame.attempt)
                case Quiesce():
                    run = self.runs.get(frame.run)
                    if run is not None:
                        run.is_quiesced = True
                        self._turn(frame.run, run, [])
                case GoOn():
                    run = self.runs.get(frame.run)
                    if run is not None:
                        run.is_quiesced = False
                        if run.position >= run.total:
                            self._go_on(frame.run, run)
                case Update():
                    run = self.runs.get(frame.run)
                    if run is not None:
                        run.kept.append(frame)
                        self._consider(frame.run, run)
                case Ask():
                    if frame.run in self.runs:
                        self.say([Answer(frame.run, frame.number, b"\xc0", None)])
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

    def _consider(self, number: int, run: SimulatedRun) -> None:
        """Updates that were sent, once the run is live."""
        if run.position < run.total:
            return
        kept, run.kept = run.kept, []
        for frame in kept:
            if frame.id in run.updates:
                continue  # entries tell
            if run.is_complete or run.undoing is not None or run.is_quiesced:
                error = ErrorFact("InstanceFinished", "it is over", retryable=False, code="update_refused")
                self.say([Answer(number, frame.number, None, error)])
                continue
            run.updates[frame.id] = "accepting"
            self._turn(number, run, [AcceptUpdate(frame.id, frame.name, frame.payload)])

    def _go_on(self, number: int, run: SimulatedRun) -> None:
        self._consider(number, run)
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
        if run.is_dropped or self.death is not None or path not in run.executing:
            return
        run.executing.discard(path)
        begun = StepBegun(path, "w.py:1", attempt, started_at_ms)
        self._turn(number, run, [begun, run.outcome(path, attempt, started_at_ms)])

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
