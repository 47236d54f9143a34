"""A world for engine tests: the real engine and the real state store, a clock that stands until told, scripted sandboxes.

A script is a pure function of the journal that its run has seen, as tenant code is: it names every command that the run
has asked for by then, and whether it is idle. The scripted sandbox sends those that are not journaled yet.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from executor.adapters.state import FacetsStateStore
from executor.core import codec
from executor.core.commands import Cancel, Command
from executor.core.entries import HIDDEN, AnyEntry, Cancelled
from executor.core.failure import ErrorFact
from executor.core.lifecycle import FINAL
from executor.engine.engine import Engine, EngineLimits
from executor.engine.local import LocalInstances
from executor.engine.peers import PeersOver
from executor.engine.worker import Worker
from executor.ports import Peers, Slots
from executor.sandbox.protocol import (
    Activate,
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
from executor.sandbox.spec import SandboxDied, SandboxFailed, SandboxSpec

COMMIT = "c" * 40
BASE_MS = 1_000_000
IN_THREADS = {trio.to_thread.run_sync.__code__, Worker.run.__code__}
Script = Callable[[list[AnyEntry]], tuple[list[Command], bool]]


class StandingClock:
    """Moves only by `advance`."""

    def __init__(self) -> None:
        self._now_ms = BASE_MS
        self._sleepers: list[tuple[int, int, trio.Event]] = []
        self._count = 0

    def now_ms(self) -> int:
        return self._now_ms

    async def sleep_until_ms(self, at_ms: int) -> None:
        if at_ms <= self._now_ms:
            await trio.lowlevel.checkpoint()
            return
        woken = trio.Event()
        self._count += 1
        heapq.heappush(self._sleepers, (at_ms, self._count, woken))
        await woken.wait()

    def advance(self, ms: int) -> None:
        self._now_ms += ms
        while self._sleepers and self._sleepers[0][0] <= self._now_ms:
            heapq.heappop(self._sleepers)[2].set()


@dataclass
class ScriptedRun:
    script: Script
    total: int
    seen: list[AnyEntry] = field(default_factory=list)
    position: int = 0
    """Sequence of the last entry seen or skipped."""
    sent: set[str] = field(default_factory=set)
    attempts: list[tuple[str, int]] = field(default_factory=list)
    is_quiesced: bool = False


class ScriptedSandbox:
    def __init__(self, host: ScriptedHost, spec: SandboxSpec) -> None:
        self.spec = spec
        self._host = host
        self._to_engine, self._frames = trio.open_memory_channel[list[FromSandbox]](10_000)
        self.runs: dict[int, ScriptedRun] = {}
        self.death: SandboxDied | None = None
        self._died = trio.Event()

    async def send(self, frames: Sequence[ToSandbox]) -> None:
        await trio.lowlevel.checkpoint()
        if self.death is not None:
            raise self.death
        for frame in frames:
            self._host.log.append(frame)
            match frame:
                case Activate():
                    self.runs[frame.run] = ScriptedRun(self._host.scripts[frame.workflow], frame.total)
                case Entries():
                    run = self.runs[frame.run]
                    assert frame.first == run.position + 1, "entries are sent in order, each once"
                    for data in frame.entries:
                        if isinstance(data, int):
                            run.position += data
                        else:
                            run.position += 1
                            run.seen.append(codec.decode(data)[0])
                    if run.position >= run.total:
                        self._turn(frame.run)
                case Attempt():
                    self.runs[frame.run].attempts.append((frame.path, frame.attempt))
                    self._turn(frame.run)
                case Quiesce():
                    self.runs[frame.run].is_quiesced = True
                    self._turn(frame.run)
                case GoOn():
                    self.runs[frame.run].is_quiesced = False
                    self._turn(frame.run)
                case Drop():
                    self.runs.pop(frame.run, None)
                case Update() | Ask():
                    self._host.on_question(self, frame)
                case _:
                    pass

    def _turn(self, number: int) -> None:
        run = self.runs[number]
        commands, idle = run.script(run.seen)
        commands = [] if run.is_quiesced else [command for command in commands if self._is_new(run, command)]
        self.say([Turn(number, run.position, commands, idle or (run.is_quiesced and not self._host.executes_on))])

    def _is_new(self, run: ScriptedRun, command: Command) -> bool:
        if not hasattr(command, "path"):  # an end
            return True
        name = f"{type(command).__name__} {command.path} {getattr(command, 'attempt', '')}"
        attempt = getattr(command, "attempt", 1)
        if attempt > 1 and (command.path, attempt) not in run.attempts:
            return False
        journaled = any(
            getattr(entry, "path", None) == command.path
            and getattr(entry, "attempt", 1) == attempt
            and (isinstance(entry, Cancelled) or not isinstance(command, Cancel))
            for entry in run.seen
        )
        if journaled or name in run.sent:
            return False
        run.sent.add(name)
        return True

    def say(self, frames: list[FromSandbox]) -> None:
        if self.death is None:
            self._to_engine.send_nowait(frames)

    async def receive(self) -> list[FromSandbox]:
        if self.death is not None:
            raise self.death
        try:
            return await self._frames.receive()
        except trio.EndOfChannel:
            assert self.death is not None
            raise self.death from None

    def kill(self, reason: str = "killed", detail: str = "") -> None:
        if self.death is None:
            self.death = SandboxDied(reason, detail or "scripted")  # type: ignore[arg-type]
            self._to_engine.close()
            self._host.killed.append((self.spec.tenant, reason))


class ScriptedHost:
    """`log` is every frame sent to any sandbox, in order."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.sandboxes: list[ScriptedSandbox] = []
        self.log: list[ToSandbox] = []
        self.killed: list[tuple[str, str]] = []
        self.not_loadable: ErrorFact | None = None
        self.executes_on = False
        """Steps execute through a pause; else they are over at once."""
        self.on_question: Callable[[ScriptedSandbox, Update | Ask], None] = lambda _sandbox, _frame: None

    async def open(self, spec: SandboxSpec) -> ScriptedSandbox:
        await trio.lowlevel.checkpoint()
        if self.not_loadable is not None:
            raise SandboxFailed(spec, self.not_loadable)
        sandbox = ScriptedSandbox(self, spec)
        self.sandboxes.append(sandbox)
        return sandbox

    @property
    def living(self) -> list[ScriptedSandbox]:
        return [sandbox for sandbox in self.sandboxes if sandbox.death is None]


class NoCode:
    """A CodeSource of which the engine uses one method, and the start of a child two."""

    def __init__(self, host: ScriptedHost | None = None) -> None:
        self._host = host
        self.declared: dict[str, str] = {}

    def startable(self, tenant: str, *, channel: str, commit: str | None) -> tuple[str, Mapping[str, str]]:
        """Every channel is on COMMIT."""
        names = () if self._host is None else self._host.scripts
        return commit or COMMIT, {name: self.declared.get(name, "") for name in names}

    def keep_for_instances(self, tenant: str, commit: str) -> None:
        pass

    def bundle(self, tenant: str, commit: str) -> Path:
        return Path("/nowhere")


@dataclass
class World:
    engine: Engine
    store: FacetsStateStore
    host: ScriptedHost
    clock: StandingClock

    async def until(self, key: tuple[str, str], *states: str) -> str:
        """Wait until the instance's durable state is one of `states`."""
        async with self.engine.watchers.watching(key) as watch:
            while True:
                row = await trio.to_thread.run_sync(self.store.row, *key)
                if row is not None and row.row.state in states:
                    return row.row.state
                await watch.wait()

    async def until_final(self, key: tuple[str, str]) -> str:
        return await self.until(key, *FINAL)

    async def until_gone(self, key: tuple[str, str]) -> None:
        """Wait until nothing of the instance is in memory."""
        while self.engine.residents.get(key) is not None:
            await trio.testing.wait_all_tasks_blocked(0.001)

    def whole_journal(self, key: tuple[str, str]) -> list[AnyEntry]:
        return codec.decode_journal([stored for _, stored in self.store.journal(*key)])

    def journal(self, key: tuple[str, str]) -> list[AnyEntry]:
        """Without traces of how it was executed."""
        return [entry for entry in self.whole_journal(key) if type(entry) not in HIDDEN]

    def kinds(self, key: tuple[str, str]) -> list[str]:
        return [type(entry).__name__ for entry in self.journal(key)]


async def settled(cushion_s: float = 0.01) -> None:
    """Wait until nothing goes on: every task waits, and none for a thread, however slow the disk."""
    while True:
        await trio.testing.wait_all_tasks_blocked(cushion_s)
        if not any(_waits_for_a_thread(task) for task in _tasks()):
            return


def _tasks() -> list[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    found = [root] if root is not None else []
    for task in found:  # it grows
        found += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return [task for task in found if task is not trio.lowlevel.current_task()]


def _waits_for_a_thread(task: trio.lowlevel.Task) -> bool:
    return any(frame.f_code in IN_THREADS for frame, _ in task.iter_await_frames())


@asynccontextmanager
async def world(
    path: Path,
    *,
    limits: EngineLimits | None = None,
    host: ScriptedHost | None = None,
    peers: Peers | None = None,
    slots: Slots | None = None,
) -> AsyncGenerator[World]:
    """The engine over the data in `path`, from its start to its orderly end."""
    store = FacetsStateStore.open(path)
    try:
        clock = StandingClock()
        host = host or ScriptedHost()
        engine = Engine(store, NoCode(), host, clock, limits or EngineLimits(stop_grace_s=1.0))  # type: ignore[arg-type]
        engine.peers = peers or PeersOver(LocalInstances(engine, store), NoCode(host))  # type: ignore[arg-type]
        if slots is not None:
            engine.places.slots = slots
        async with engine.running():
            yield World(engine, store, host, clock)
    finally:
        store.close()
