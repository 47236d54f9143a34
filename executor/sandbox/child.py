"""The program of a sandbox process: frames in, frames out, many runs of one version in between.

The main thread runs an ordinary asyncio loop: it reads frames, drives runs (`run.py`) and executes async steps; the
pool's threads execute sync steps. What runs have to say is gathered and sent once per turn of the loop, in one message,
output before the Turn that it precedes; what was received in this turn of the loop is answered in it. End of file on
the control socket ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from executor.core.commands import Complete, Emit, StepBegun, StepDone
from executor.sandbox import ambient, detloop, faults, output, rehearsal
from executor.sandbox.blobs_inside import Blobs
from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.facets_inside import RunFacet
from executor.sandbox.limits import SandboxLimits
from executor.sandbox.loader import Bundle
from executor.sandbox.protocol import (
    CHUNK_BYTES,
    LENGTH_BYTES,
    Activate,
    Answer,
    Ask,
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
    GoOn,
    NeedBlob,
    NeedFacet,
    NeedPages,
    Output,
    Ping,
    Pong,
    PutBlob,
    Query,
    QueryAnswer,
    Quiesce,
    Ready,
    ToSandbox,
    Turn,
    Update,
    decode_to_sandbox,
    encode_message,
)
from executor.sandbox.query import QueriedFacet
from executor.sandbox.run import Run
from executor.sandbox.run_state import RunState
from executor.sandbox.steps import Steps
from executor.sandbox.threads import LoopExecutor, StepPool
from facets import facet as facets
from facets.limits import Limits as FacetLimits
from facets.pages import PageCache

MESSAGE_WEIGHT_MAX = 6 * 1024 * 1024
"""Frames are gathered up to about this size; a message may hold FRAME_BYTES_MAX."""
RECEIVE_BYTES = 128 * 1024
NO_THREAD_LEFT_GRACE_S = 1.0
"""Time for the failures of the attempts to be sent, and for a thread to come back after all."""
EXIT_NO_THREAD_LEFT = 75
GC_THRESHOLDS = (10_000, 20, 10)
"""A run that ends frees itself, so what is left to the collector is what tenants' code leaves: it may come more rarely
than the interpreter's 700 new objects, which a hundred steps make."""


class Child:
    """All runs of this process. `send` takes frames in order; `handle` is given them. Main thread only."""

    def __init__(  # noqa: PLR0917  # made in one place here, and in tests
        self,
        loop: asyncio.AbstractEventLoop,
        pool: StepPool,
        bundle: Bundle,
        limits: ChildLimits,
        send: Callable[[list[FromSandbox]], None],
        wait_for_frames: Callable[[], None],
    ) -> None:
        self.bundle = bundle
        self.steps = Steps(loop, pool, bundle.files, limits)
        self._loop = loop
        self._limits = limits
        self._send = send
        self._wait_for_frames = wait_for_frames
        self._runs: dict[int, Run] = {}
        self._queried: QueriedFacet | None = None
        self._outbox: list[FromSandbox] = []
        self._touched: dict[int, RunState] = {}
        self._flush_due = False
        self.page_cache = PageCache(limits.facet.page_cache_bytes_max)
        self.blobs = Blobs(self, wait_s=limits.blob_wait_s)
        self._facets_awaited = 0
        self._held_back: list[ToSandbox] = []

    def handle(self, frames: list[ToSandbox]) -> None:
        """Take frames, begin what they bring about, and send what is to be said now. Unknown runs are ignored."""
        if self._facets_awaited:
            for frame in frames:
                if isinstance(frame, FacetImage | FacetPages | FacetFailed | BlobStored | BlobPart):
                    self._handle(frame)
                else:
                    self._held_back.append(frame)  # a step is in the middle of a statement: nothing may run beside it
            return
        was_due, self._flush_due = self._flush_due, True  # it comes at the end of this
        for frame in frames:
            self._handle(frame)
        self._flush_due = was_due
        self._flush_runs()

    def _handle(self, frame: ToSandbox) -> None:
        if isinstance(frame, Activate):
            self._drop(frame.run)
            self._runs[frame.run] = Run(self, frame)
            return
        if isinstance(frame, Ping):
            self._outbox.append(Pong(frame.number))
            self._flush_soon()
            return
        if isinstance(frame, Query):
            self._query(frame)
            return
        if isinstance(frame, BlobStored | BlobPart):
            self.blobs.take(frame)
            return
        run = self._runs.get(frame.run)
        if run is None:
            if self._queried is not None and frame.run == self._queried.run:
                _take_facet(self._queried, frame)
            return
        if isinstance(frame, Entries):
            run.deliver(frame.first, frame.entries)
        elif isinstance(frame, Attempt):
            run.attempt_due(frame.path, frame.attempt)
        elif isinstance(frame, FacetImage | FacetPages | FacetFailed):
            _take_facet(run.facet, frame)
        elif isinstance(frame, Update | Ask):
            run.ask(frame)
        elif isinstance(frame, Quiesce):
            run.quiesce()
        elif isinstance(frame, GoOn):
            run.go_on()
        elif isinstance(frame, Drop):
            self._drop(frame.run)

    def _query(self, question: Query) -> None:
        self._queried = QueriedFacet(question.run, self, self._limits)
        answer = self._queried.answer(question)
        self._queried = None
        self._outbox.append(answer)  # the list is another one by now
        self._flush_soon()

    def _drop(self, number: int) -> None:
        run = self._runs.pop(number, None)
        if run is not None:
            run.drop()
            self._touched.pop(number, None)

    # --- what runs and their facets ask of the process

    def touch(self, run: RunState) -> None:
        self._touched[run.number] = run
        self._flush_soon()

    def send_output(self, frame: Output) -> None:
        """From any thread."""
        self._outbox.append(frame)
        if not self._flush_due:
            self.call_on_loop(self._flush_soon)

    def answer(self, frame: Answer) -> None:
        self._outbox.append(frame)
        self._flush_soon()

    def need(self, question: NeedFacet | NeedPages | PutBlob | NeedBlob) -> None:
        self._outbox.append(question)
        self._flush_soon()

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Stop everything on the main thread until what an async step needs now is there: a facet's pages, or a part
        of a stream."""
        self._facets_awaited += 1
        try:
            while not is_so():
                self._send_outbox()
                self._wait_for_frames()
        finally:
            self._facets_awaited -= 1
            if not self._facets_awaited and self._held_back:
                self._loop.call_soon(self._handle_held_back)

    def call_on_loop(self, callback: Callable[[], object]) -> None:
        self.steps.call_on_loop(callback)

    def _handle_held_back(self) -> None:
        held_back, self._held_back = self._held_back, []
        self.handle(held_back)

    # --- sending

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        self._flush_runs()

    def _flush_runs(self) -> None:
        touched, self._touched = self._touched, {}
        for run in touched.values():
            self._outbox.extend(run.turn())
        self._send_outbox()

    def _send_outbox(self) -> None:
        outbox, self._outbox = self._outbox, []
        if not outbox:
            return
        message: list[FromSandbox] = []
        weight = 0
        for frame in outbox:
            own = _weight(frame)
            if message and weight + own > MESSAGE_WEIGHT_MAX:
                self._send(message)
                message, weight = [], 0
            message.append(frame)
            weight += own
        self._send(message)


def _take_facet(facet: RunFacet, frame: ToSandbox) -> None:
    """A frame of the image or pages that it asked for; any other is not for it."""
    if isinstance(frame, FacetImage):
        facet.take_image(frame.offset, frame.total, frame.data)
    elif isinstance(frame, FacetPages | FacetFailed):
        facet.take_pages(frame)


def _weight(frame: FromSandbox) -> int:
    if isinstance(frame, QueryAnswer):
        return MESSAGE_WEIGHT_MAX
    if not isinstance(frame, Turn):
        return 256 + len(frame.text) * 3 if isinstance(frame, Output) else 1024
    for command in frame.commands:
        if type(command) is StepBegun:
            continue  # with each step there is one
        if isinstance(command, Emit) and sum(map(len, command.items)) > CHUNK_BYTES // 8:
            return MESSAGE_WEIGHT_MAX // 2
        if isinstance(command, StepDone | Complete):
            size = len(command.value)
            if isinstance(command, StepDone) and command.delta is not None:
                size += len(command.delta)
            if size > CHUNK_BYTES // 8:
                return MESSAGE_WEIGHT_MAX // 2
    return 8192


class Channel:
    """The control socket on the loop: whole messages in, whole messages out.

    It reads no further before what it has read is handled, so that one message and one read is all that it holds of the
    executor's. What the executor does not take is kept here, where it counts as the tenant's memory.
    """

    def __init__(self, control: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        control.setblocking(False)
        self._control = control
        self._loop = loop
        self._read = memoryview(bytearray(RECEIVE_BYTES))
        self._begun = bytearray()
        self._outgoing = bytearray()
        self.on_frames: Callable[[list[ToSandbox]], None] = lambda _frames: None
        self.on_end: Callable[[], None] = lambda: os._exit(0)
        loop.add_reader(control, self._readable)

    def send(self, frames: list[FromSandbox]) -> None:
        message = encode_message(frames)
        if self._outgoing:
            self._outgoing += message
            return
        sent = self._send_some(message)
        if sent < len(message):
            self._outgoing += memoryview(message)[sent:]
            self._loop.add_writer(self._control, self._writable)

    def wait(self) -> None:
        """Block until something was received, sending what is due meanwhile."""
        readable, writable, _ = select.select([self._control], [self._control] if self._outgoing else [], [])
        if writable:
            self._writable()
        if readable:
            self._readable()

    def _writable(self) -> None:
        while self._outgoing:
            with memoryview(self._outgoing) as outgoing:
                sent = self._send_some(outgoing)
            if not sent:
                return
            del self._outgoing[:sent]
        self._loop.remove_writer(self._control)

    def _send_some(self, data: bytes | memoryview) -> int:
        try:
            return self._control.send(data)
        except BlockingIOError:
            return 0
        except ConnectionError:  # nobody listens any more: the end is about to be read, and is the end of the process
            return len(data)

    def _readable(self) -> None:
        try:
            count = self._control.recv_into(self._read)
        except BlockingIOError:
            return
        except ConnectionError:
            count = 0
        if not count:
            self.on_end()
            return
        if not self._begun:
            frames, end = _decode(self._read[:count])
            self._begun += self._read[end:count]
        else:
            self._begun += self._read[:count]
            with memoryview(self._begun) as begun:
                frames, end = _decode(begun)
            del self._begun[:end]
        if frames:
            self.on_frames(frames)


def _decode(data: memoryview) -> tuple[list[ToSandbox], int]:
    """The frames of the whole messages in `data`, and where these end."""
    frames: list[ToSandbox] = []
    begin = 0
    while len(data) - begin >= LENGTH_BYTES:
        body = begin + LENGTH_BYTES
        end = body + int.from_bytes(data[begin:body], "big")
        if len(data) < end:
            break
        frames += decode_to_sandbox(data[body:end])
        begin = end
    return frames, begin


def install() -> None:
    """Change this process for tenant code: clocks, randomness, asyncio's own sets, output. Idempotent."""
    ambient.install()
    detloop.install()
    output.install()


def before_fork() -> None:
    """In the zygote: what all children share. Without it each does it for itself, which takes some milliseconds."""
    install()
    _prepare_facets()
    loop = asyncio.new_event_loop()
    _rehearse(loop, StepPool(0))
    loop.close()


def _prepare_facets() -> None:
    if not _facets_prepared:
        _facets_prepared.append(True)
        facets.prepare_process(ChildLimits().facet)


_facets_prepared: list[bool] = []
_prepared: list[tuple[asyncio.AbstractEventLoop, StepPool]] = []


def before_seccomp(limits: SandboxLimits) -> None:
    """Make what the filter will refuse later: the step threads, and the loop with its wake-up socket pair."""
    _prepare_facets()
    _prepared.append((asyncio.new_event_loop(), StepPool(limits.step_threads, limits.thread_stack_bytes)))


def rehearse() -> None:
    """In a spare child, after `before_seccomp`: make the first work of this process as quick as its second."""
    _rehearse(*_prepared[-1])


def _rehearse(loop: asyncio.AbstractEventLoop, pool: StepPool) -> None:
    install()
    rehearsal.rehearse(
        loop, lambda control, bundle: _serve(control, loop, pool, bundle, ChildLimits()), threads=pool.count > 0
    )


def main(
    control: socket.socket, bundle_fd: int, limits: SandboxLimits, *, child_limits: ChildLimits | None = None
) -> NoReturn:
    """Import the version, say Ready (or BootFailed), then serve runs until the other side closes the socket."""
    if not _prepared:
        before_seccomp(limits)
    loop, pool = _prepared.pop()
    install()
    gc.set_threshold(*GC_THRESHOLDS)
    files: Mapping[str, Any] | frozenset[str] = frozenset()
    control.setblocking(True)
    try:
        bundle = Bundle.map(bundle_fd)
        os.close(bundle_fd)
        files = bundle.files
        bundle.install()
        bundle.load()
    except BaseException as error:  # tenant code, at import: whatever it is, the executor gets it as text
        fault = faults.fact(error, files, code="code_not_loadable")
        _say_and_exit(control, BootFailed(fault))
    child = _serve(control, loop, pool, bundle, child_limits or _limits_inside(limits))
    child.steps.on_no_thread_left = lambda: loop.call_later(NO_THREAD_LEFT_GRACE_S, _end_without_threads, child)
    loop.set_default_executor(LoopExecutor(pool).as_executor())
    loop.set_exception_handler(_report)
    asyncio.set_event_loop(loop)
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):  # tenant code in a callback of its own: not a reason to end
            continue


def _limits_inside(limits: SandboxLimits) -> ChildLimits:
    return ChildLimits(facet=FacetLimits(facet_bytes_max=limits.facet_bytes_max))


def _serve(
    control: socket.socket, loop: asyncio.AbstractEventLoop, pool: StepPool, bundle: Bundle, limits: ChildLimits
) -> Child:
    """A child that answers on `control` from now on, and has said Ready."""
    channel = Channel(control, loop)
    child = Child(loop, pool, bundle, limits, channel.send, channel.wait)
    channel.on_frames = child.handle
    channel.send([Ready(sorted(bundle.workflows))])
    return child


def _end_without_threads(child: Child) -> None:
    if child.steps.has_thread_left:
        return
    sys.stderr.write("every step thread executes an attempt that timed out or was cancelled and does not end\n")
    os._exit(EXIT_NO_THREAD_LEFT)


def _say_and_exit(control: socket.socket, frame: FromSandbox) -> NoReturn:
    with contextlib.suppress(OSError):
        control.sendall(encode_message([frame]))
    os._exit(0)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Problems on the ordinary loop: of tenant code (callbacks, tasks nobody awaits), or of ours."""
    del loop
    error = context.get("exception")
    sys.stderr.write(f"{context.get('message')}: {type(error).__name__}: {error}\n")
