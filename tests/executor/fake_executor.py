"""A fake executor for the program inside the sandbox: a scripted journal, a clock that moves only by timers, no disk.

It speaks the real protocol and appends by the real rules (`core.decide`), so what is fake is only who decides *when*.
`Story` is one instance; `FakeExecutor` carries any number of them over one link: `InProcess` (the child's code on this
loop) or `Subprocess` (a fresh interpreter, which may get another hash seed).

`play` is deterministic whatever the threads do: it waits until the run is idle, appends what needs no choice (sleeps,
waits, cancellations, failures), then takes ONE outcome (a finished step, the next timer, a due retry, an event of the
script) by a rule that depends on `order` and the outcome's own name. So a story that is continued from any prefix of its
journal meets the same outcomes in the same order.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import marshal
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

from executor.core import codec, decide, values
from executor.core.commands import Beat, Command, StepBegun, StepDone
from executor.core.entries import (
    AnyEntry,
    ChildEnded,
    ChildStarted,
    Completed,
    Continued,
    Failed,
    Held,
    Started,
    StepSucceeded,
)
from executor.core.failure import ErrorFact
from executor.core.instance import Instance
from executor.core.visible import is_visible
from executor.sandbox import ambient, detloop, output
from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.loader import Bundle
from executor.sandbox.protocol import (
    LENGTH_BYTES,
    Activate,
    Answer,
    Attempt,
    BlobPart,
    BlobStored,
    BootFailed,
    Drop,
    Entries,
    FacetFailed,
    FacetImage,
    FacetPages,
    FromSandbox,
    NeedBlob,
    NeedFacet,
    NeedPages,
    Output,
    Pong,
    PutBlob,
    Quiesce,
    Ready,
    ToSandbox,
    Turn,
    Update,
    decode_from_sandbox,
    encode_message,
)
from executor.sandbox.runs import Child
from executor.sandbox.threads import StepPool
from facets import pages
from facets.delta import apply_all, stamp_of

COMMIT = "c" * 40
BASE_MS = 1_700_000_000_000
IMAGE_BYTES_MAX = 8 * 1024 * 1024
PATIENCE_S = 20.0
"""A child that says nothing for so long is stuck: the test fails instead of hanging."""


def make_bundle(files: Mapping[str, str | bytes], workflows: Iterable[tuple[str, str]] | None = None) -> bytes:
    """A bundle of these files, in the format of `executor/sandbox/loader.py`.

    `workflows` are (class, module); by default the classes of `workflows.py` that name Workflow as base.
    """
    data = b""
    index: dict[str, list[int]] = {}
    for path, text in files.items():
        source = text.encode() if isinstance(text, str) else text
        code = marshal.dumps(compile(source, path, "exec", dont_inherit=True)) if path.endswith(".py") else b""
        index[path] = [len(data), len(source), len(data) + len(source), len(code)]
        data += source + code
    if workflows is None:
        lines = str(files["workflows.py"]).splitlines()
        workflows = [(line[6:].split("(")[0], "workflows") for line in lines if _is_workflow(line)]
    head = {
        "cache_tag": sys.implementation.cache_tag,
        "magic": importlib.util.MAGIC_NUMBER.hex(),
        "files": index,
        "workflows": [list(pair) for pair in workflows],
    }
    encoded = json.dumps(head).encode()
    return b"PDBUNDL1" + len(encoded).to_bytes(4, "little") + encoded + data


def _is_workflow(line: str) -> bool:
    return line.startswith("class ") and "(Workflow" in line


@dataclass
class Story:
    """One instance: its journal, facet and output; `events` (type, payload) are sent by and by, in their order, and so
    are `updates` (name, payload). `children` tells what a child of a workflow returns; an ErrorFact: why it fails."""

    workflow: str
    payload: Any = None
    id: str = "story"
    order: int = 0
    seed: bytes = b"seed-of-16-bytes"
    events: list[tuple[str, Any]] = field(default_factory=list)
    updates: list[tuple[str, Any]] = field(default_factory=list)
    children: dict[str, Any] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    instance: Instance = field(default_factory=Instance)
    stored: list[bytes] = field(default_factory=list)
    deltas: list[bytes] = field(default_factory=list)
    lines: dict[tuple[int, int, str, int], Output] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    now_ms: int = BASE_MS

    def __post_init__(self) -> None:
        self.events = list(self.events)
        self.updates = list(self.updates)
        self.updates_script = list(self.updates)

    cuts: list[int] = field(default_factory=list)
    """Lengths at which the journal can end after a crash: what one decision appends is written as one."""

    def append(self, *entries: AnyEntry, delta: bytes | None = None) -> None:
        for entry in entries:
            self.instance.apply(entry)
            self.stored.append(codec.encode(entry, self.instance.chain))
        if delta:
            self.deltas.append(delta)
        if entries:
            self.cuts.append(len(self.stored))

    def begin(self) -> Story:
        if not self.stored:
            payload = values.encode(self.payload)
            self.append(Started(self.now_ms, self.workflow, COMMIT, payload, self.seed))
        return self

    def prefix(self, length: int) -> Story:
        """A new story of the first `length` entries of this one (its facet left out), with the events not yet sent."""
        story = Story(self.workflow, self.payload, self.id, self.order, self.seed)
        for entry in self.journal[:length]:
            story.append(entry)
            story.now_ms = max(story.now_ms, entry.at_ms)
        story.events = self.script[len(story.instance.event_ids) :]
        story.updates = self.updates_script[len(story.instance.updates) :]
        story.updates_script = self.updates_script
        story.children = self.children
        return story

    def shown(self, first: int, last: int) -> list[bytes | int]:
        """Entries from `first` to `last` as the run is sent them."""
        cuts, carried = self.instance.cuts, self.instance.carried
        return [
            data if is_visible(data, at, cuts, carried) else 1
            for at, data in enumerate(self.stored[first - 1 : last], start=first)
        ]

    @property
    def script(self) -> list[tuple[str, Any]]:
        """All events of the script, sent or not."""
        from executor.core.entries import EventReceived

        sent = [(e.type, values.decode(e.payload)) for e in self.journal if isinstance(e, EventReceived)]
        return sent + self.events

    @property
    def journal(self) -> list[AnyEntry]:
        return codec.decode_journal(self.stored)

    @property
    def result(self) -> Any:
        """What `run()` returned. Fails the test if it did not."""
        outcome = self.instance.outcome
        assert isinstance(outcome, Completed), outcome or self.instance.held
        return values.decode(outcome.value)

    @property
    def error(self) -> Any:
        outcome = self.instance.outcome
        assert isinstance(outcome, Failed), outcome
        return outcome.error

    @property
    def held(self) -> Held | None:
        return self.instance.held

    @property
    def image(self) -> bytes:
        return apply_all(b"", self.deltas, bytes_max=IMAGE_BYTES_MAX)

    @property
    def printed(self) -> list[str]:
        """Lines in the order in which they came, each once."""
        return [line.text for line in self.lines.values()]

    def kinds(self) -> list[str]:
        return [f"{type(entry).__name__} {getattr(entry, 'path', '')}".strip() for entry in self.journal]


class Link(Protocol):
    def send(self, frames: list[ToSandbox]) -> None: ...
    async def receive(self) -> list[FromSandbox]: ...


class FakeExecutor:
    """Many stories over one link. Use `in_process` or `subprocess_`."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.pongs: list[int] = []
        self.paged_bytes_min = IMAGE_BYTES_MAX
        self.asked_pages: list[NeedPages] = []
        self.failing_pages = 0
        self.blobs: dict[int, list[bytes]] = {}
        self._stories: dict[int, Story] = {}
        self._inboxes: dict[int, asyncio.Queue[Turn | Exception]] = {}
        self._numbers = 0
        self._router: asyncio.Task[None] | None = None

    # --- frames

    async def route(self) -> None:
        try:
            while True:
                self.take(await self.link.receive())
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            for inbox in self._inboxes.values():
                inbox.put_nowait(ConnectionError(str(error)))

    def take(self, frames: list[FromSandbox]) -> None:
        for frame in frames:
            if isinstance(frame, Turn):
                if frame.run in self._inboxes:
                    self._stories[frame.run].turns.append(frame)
                    self._inboxes[frame.run].put_nowait(frame)
            elif isinstance(frame, Output):
                story = self._stories.get(frame.run)
                if story is not None:
                    story.lines.setdefault((frame.position, frame.number, frame.step, frame.attempt), frame)
            elif isinstance(frame, Answer):
                if frame.run in self._inboxes:
                    story = self._stories[frame.run]
                    story.answers.append(frame)
                    self._inboxes[frame.run].put_nowait(Turn(frame.run, len(story.stored), [], idle=True))
            elif isinstance(frame, NeedFacet):
                self._send_image(frame.run)
            elif isinstance(frame, NeedPages):
                self.asked_pages.append(frame)
                self._send_pages(frame.run, frame.number, frame.first, frame.count)
            elif isinstance(frame, PutBlob | NeedBlob):
                self._answer_blob(frame)
            elif isinstance(frame, Pong):
                self.pongs.append(frame.number)

    def _answer_blob(self, frame: PutBlob | NeedBlob) -> None:
        parts = self.blobs.setdefault(frame.id, [])
        if isinstance(frame, PutBlob):
            assert frame.first == len(parts)
            parts += frame.parts
            self.link.send([BlobStored(frame.run, frame.number)])
        else:
            data = parts[frame.part] if frame.part < len(parts) else None
            self.link.send([BlobPart(frame.run, frame.number, data)])

    def _send_image(self, run: int) -> None:
        image = self._stories[run].image if run in self._stories else b""
        if len(image) > self.paged_bytes_min:
            self._send_pages(run, 0, 0, 1)
            return
        half = len(image) // 2
        self.link.send([FacetImage(run, 0, len(image), image[:half]), FacetImage(run, half, len(image), image[half:])])

    def _send_pages(self, run: int, number: int, first: int, count: int) -> None:
        if self.failing_pages:
            self.failing_pages -= 1
            self.link.send([FacetFailed(run, number, "its pages are damaged")])
            return
        image = self._stories[run].image
        pieces = [image[at * pages.CHUNK_BYTES :][: pages.CHUNK_BYTES] for at in range(first, first + count)]
        chunks = [pages.pack_chunk(piece.ljust(pages.CHUNK_BYTES, b"\0")) for piece in pieces if piece]
        self.link.send([FacetPages(run, number, *stamp_of(image), first, chunks)])

    # --- stories

    def activate(self, story: Story, *, chunk: int = 1000, paused: bool = False) -> int:
        """Send the journal; the run number."""
        story.begin()
        self._numbers += 1
        run = self._numbers
        self._stories[run] = story
        self._inboxes[run] = asyncio.Queue()
        frames: list[ToSandbox] = [
            Activate(run, story.id, story.workflow, COMMIT, len(story.stored), paused=paused),
            *(
                Entries(run, at + 1, story.shown(at + 1, min(at + chunk, len(story.stored))))
                for at in range(0, len(story.stored), chunk)
            ),
        ]
        self.link.send(frames)
        return run

    async def turn(self, run: int) -> Turn:
        turn = await asyncio.wait_for(self._inboxes[run].get(), PATIENCE_S)
        if isinstance(turn, Exception):
            raise turn
        return turn

    async def until_idle(self, run: int) -> list[Command]:
        """The commands up to the idle Turn of a run that has seen all that was sent; but for those of which it depends
        on real time when they come."""
        commands: list[Command] = []
        sent = len(self._stories[run].stored)
        while True:
            turn = await self.turn(run)
            commands += [command for command in turn.commands if not isinstance(command, StepBegun | Beat)]
            if turn.idle and turn.seen >= sent and self._inboxes[run].empty():
                return commands

    def deliver(self, run: int, story: Story, first: int, *, one_by_one: bool = False) -> None:
        fresh = story.shown(first, len(story.stored))
        if one_by_one:
            for offset, entry in enumerate(fresh):
                self.link.send([Entries(run, first + offset, [entry])])
        elif fresh:
            self.link.send([Entries(run, first, fresh)])

    def drop(self, run: int) -> None:
        self.link.send([Drop(run)])
        self._stories.pop(run, None)
        self._inboxes.pop(run, None)

    def quiesce(self, run: int) -> None:
        self.link.send([Quiesce(run)])

    async def play(
        self,
        story: Story,
        *,
        entries_max: int = 100_000,
        chunk: int = 1000,
        evict: bool | Callable[[Story], bool] = False,
        one_by_one: bool = False,
    ) -> Story:
        """Run the story to its end, or until its journal has `entries_max` entries. `evict`: drop at every idle turn,
        or at those for which it is true."""
        run = self.activate(story, chunk=chunk)
        ready: dict[str, StepDone] = {}
        try:
            while True:
                commands = await self.until_idle(run)
                first = len(story.stored) + 1
                for command in commands:
                    if isinstance(command, StepDone):
                        ready[command.path] = command
                    else:
                        self._append(story, command)
                due_retry = None
                if len(story.stored) < first and story.instance.outcome is None and story.held is None:
                    due_retry = self._choose(story, ready)
                    if due_retry is None and len(story.stored) < first:
                        raise AssertionError(f"the story waits for ever: {story.kinds()}")
                if len(story.stored) >= entries_max or story.instance.outcome is not None or story.held is not None:
                    return story
                if any(isinstance(entry, Continued) for entry in story.journal[first - 1 :]):
                    self.drop(run)
                    ready.clear()
                    run = self.activate(story, chunk=chunk)
                elif due_retry in _UPDATE:
                    self._send_update(run, story)
                elif due_retry is not None:
                    self.link.send([Attempt(run, due_retry, story.instance.attempts[due_retry] + 1)])
                elif evict(story) if callable(evict) else evict:
                    self.drop(run)
                    ready.clear()
                    run = self.activate(story, chunk=chunk)
                else:
                    self.deliver(run, story, first, one_by_one=one_by_one)
        finally:
            self.drop(run)

    def _append(self, story: Story, command: Command) -> None:
        decided = decide.on_command(story.instance, command, now_ms=story.now_ms, id=story.id)
        story.append(*decided.entries, delta=decided.delta)

    def _choose(self, story: Story, ready: dict[str, StepDone]) -> str | None:
        """Append one outcome, or give the path of the retry that is to be made."""
        writers = [path for path, done in ready.items() if done.delta]  # their deltas build on each other
        choices: list[tuple[bytes, str, str]] = [
            (_rank(story.order, path), "step", path) for path in ready if path not in writers[1:]
        ]
        wake_ms = story.instance.next_wake_ms(besides=ready)
        if wake_ms is not None:
            choices.append((_rank(story.order, "timer", self._wakes(story, wake_ms)), "timer", ""))
        if story.events:
            choices.append((_rank(story.order, "event", len(story.events)), "event", ""))
        if story.updates and story.instance.undoing is None:
            choices.append((_rank(story.order, "update", len(story.updates)), "update", ""))
        choices += [(_rank(story.order, "child", path), "child", path) for path in story.instance.children]
        if not choices:
            return None
        _, kind, path = min(choices)
        if kind == "update":
            return next(iter(_UPDATE))
        if kind == "child":
            self._child(story, path)
            return None
        if kind == "step":
            length = len(story.stored)
            self._append(story, ready.pop(path))
            if len(story.stored) == length:  # it crossed the end of `run()`
                return self._choose(story, ready)
        elif kind == "event":
            type_, payload = story.events.pop(0)
            number = len(story.instance.event_ids)
            encoded = values.encode(payload)
            decided = decide.on_event(
                story.instance, id=f"event-{number}", type=type_, payload=encoded, now_ms=story.now_ms
            )
            story.append(*decided.entries)
        else:
            assert wake_ms is not None
            story.now_ms = max(story.now_ms, wake_ms)
            retries = [
                failed for failed in decide.due_retries(story.instance, story.now_ms) if failed.path not in ready
            ]
            ended = decide.on_clock(story.instance, story.now_ms).entries
            if ended:
                story.append(ended[0])
            elif retries:
                return retries[0].path
        return None

    def _send_update(self, run: int, story: Story) -> None:
        name, payload = story.updates.pop(0)
        number = len(story.instance.updates) + len(story.answers) + 1
        self.link.send([Update(run, number, f"update-{number}", name, values.encode(payload))])

    @staticmethod
    def _child(story: Story, path: str) -> None:
        """The child is started, and the next time it has ended."""
        child = story.instance.children[path]
        request = child.request
        if not child.is_started:
            story.append(ChildStarted(story.now_ms, path, COMMIT))
            return
        found = story.children.get(request.workflow)
        if isinstance(found, ErrorFact):
            story.append(ChildEnded(story.now_ms, path, "failed", None, found))
        else:
            story.append(ChildEnded(story.now_ms, path, "complete", values.encode(found), None))

    @staticmethod
    def _wakes(story: Story, wake_ms: int) -> str:
        instance = story.instance
        paths = [path for path, at in instance.sleeps.items() if at == wake_ms]
        paths += [path for path, wait in instance.waits.items() if wait.deadline_ms == wake_ms]
        paths += [path for path, failed in instance.retries.items() if failed.retry_at_ms == wake_ms]
        return min(paths)


_UPDATE = frozenset({"<update>"})
"""Stands for the path of a retry that is due, where an update is."""


def _rank(order: int, *what: object) -> bytes:
    return blake2b(repr((order, what)).encode(), digest_size=8).digest()


# --- links


class InProcess:
    """The child's code on this loop. One at a time, as it changes the process's clocks and streams."""

    def __init__(self, bundle: Bundle, pool: StepPool, limits: ChildLimits) -> None:
        self._frames: asyncio.Queue[list[FromSandbox]] = asyncio.Queue()
        self.executor: FakeExecutor | None = None
        self.child = Child(
            asyncio.get_running_loop(), pool, bundle, limits, self._frames.put_nowait, self._wait_for_frames
        )

    def send(self, frames: list[ToSandbox]) -> None:
        self.child.handle(frames)

    async def receive(self) -> list[FromSandbox]:
        return await self._frames.get()

    def _wait_for_frames(self) -> None:
        """The child blocks on its socket: answer, as the executor's process would meanwhile."""
        assert self.executor is not None
        while not self._frames.empty():
            self.executor.take(self._frames.get_nowait())


@asynccontextmanager
async def in_process(
    files: Mapping[str, str | bytes] | str,
    *,
    workflows: Iterable[tuple[str, str]] | None = None,
    limits: ChildLimits | None = None,
) -> AsyncIterator[FakeExecutor]:
    """A fake executor with the child's code in this process. `files` may be the text of `workflows.py`."""
    if isinstance(files, str):
        files = {"workflows.py": files}
    limits = limits or ChildLimits(step_threads=2)
    bundle = Bundle(make_bundle(files, workflows))
    ambient.install()
    detloop.install()
    output.install()
    pool = StepPool(limits.step_threads)
    bundle.install()
    link = None
    router = None
    try:
        bundle.load()
        link = InProcess(bundle, pool, limits)
        executor = link.executor = FakeExecutor(link)
        router = asyncio.create_task(executor.route())
        yield executor
    finally:
        if router is not None:
            router.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await router
        if link is not None:
            for run in list(link.child._runs):
                link.child._drop(run)
            await asyncio.sleep(0)
        bundle.uninstall()
        pool.close()
        output.uninstall()
        ambient.uninstall()


class Subprocess:
    """A fresh interpreter that runs `child.main` over a socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, frames: list[ToSandbox]) -> None:
        self._writer.write(encode_message(frames))

    async def receive(self) -> list[FromSandbox]:
        length = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "big")
        return decode_from_sandbox(await self._reader.readexactly(length))


_CHILD = """
import socket, sys
from executor.sandbox import child
from executor.sandbox.limits import SandboxLimits
child.main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), SandboxLimits(step_threads=2))
"""


class BootError(Exception):
    def __init__(self, frame: BootFailed) -> None:
        super().__init__(frame.error.message)
        self.error = frame.error


@asynccontextmanager
async def subprocess_(
    files: Mapping[str, str | bytes] | str, *, workflows: Iterable[tuple[str, str]] | None = None, hash_seed: int = 0
) -> AsyncIterator[FakeExecutor]:
    """A fake executor with the child in a process of its own, unconfined. Raises BootError."""
    if isinstance(files, str):
        files = {"workflows.py": files}
    root = Path(__file__).resolve().parents[2]
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as bundle, theirs:
        bundle.write(make_bundle(files, workflows))
        bundle.flush()
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CHILD, str(theirs.fileno()), str(bundle.fileno())],
            pass_fds=(theirs.fileno(), bundle.fileno()),
            env={"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(root), "PATH": os.environ.get("PATH", "")},
        )
    reader, writer = await asyncio.open_connection(sock=ours)
    link = Subprocess(reader, writer)
    router = None
    try:
        (hello,) = await asyncio.wait_for(link.receive(), PATIENCE_S)
        if isinstance(hello, BootFailed):
            raise BootError(hello)
        assert isinstance(hello, Ready)
        executor = FakeExecutor(link)
        router = asyncio.create_task(executor.route())
        yield executor
    finally:
        if router is not None:
            router.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await router
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        assert await asyncio.to_thread(process.wait, PATIENCE_S) == 0


def play(source: Mapping[str, str | bytes] | str, story: Story, **options: Any) -> Story:
    """Play one story in this process, from a synchronous test."""

    async def main() -> Story:
        async with in_process(source) as executor:
            return await executor.play(story, **options)

    return asyncio.run(main())


def without_unwanted(journal: list[AnyEntry], other: list[AnyEntry]) -> list[AnyEntry]:
    """`journal` without results of steps that the run had given up, which another run of the story need not have."""
    known = {at for at in _succeeded(other) if at is not None}
    return [entry for entry, at in zip(journal, _succeeded(journal), strict=True) if at is None or at in known]


def _succeeded(journal: list[AnyEntry]) -> list[tuple[int, str] | None]:
    """For each entry that is a step's result: in which execution it is, and the step's path."""
    execution = 0
    found: list[tuple[int, str] | None] = []
    for entry in journal:
        execution += isinstance(entry, Continued)
        found.append((execution, entry.path) if isinstance(entry, StepSucceeded) else None)
    return found
