"""SandboxHost: keeps the zygote, opens sandboxes, carries frames, watches and kills. The trio side of the boundary.

Invariants:
- A byte from a sandbox is bounded before it is kept and decoded against the protocol's schema before it is looked at;
  what either side holds for the other is bounded: `control.py` says how.
- A kill goes through the pidfd, so it can never hit another process. The first reason given stays.
- A sandbox that takes nothing of what is sent to it, for as long as it may be silent, is ended like one that hangs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import trio

from executor.core.errors import Unavailable
from executor.sandbox import protocol
from executor.sandbox.cell import LEVELS, Cell, CellOptions, Isolation, memory_bytes, prepare_tree, process_id
from executor.sandbox.control import ControlSocket
from executor.sandbox.limits import SandboxLimits
from executor.sandbox.spec import DeathReason, SandboxDied, SandboxFailed, SandboxSpec
from executor.sandbox.watch import Watch

_log = logging.getLogger(__name__)

_TICK_S = 0.1
_MEMORY_EVERY_TICKS = 5
_OPENING_MAX = 16
"""Requests under way at the zygote: few enough that neither side of its socket ever fills."""
_EXIT_NOTICE_S = 1.0
_LAST_READS_MAX = 512
"""More than any socket's buffer, and the parts of a largest message, take."""
_LAST_WORDS_BYTES = 16 * 1024


class Sandbox:
    """One confined process. Made by `SandboxHost.open`."""

    def __init__(self, host: SandboxHost, spec: SandboxSpec, limits: SandboxLimits, opened: _Opened) -> None:
        self.spec = spec
        self.limits = limits
        self.pid = process_id(opened.pidfd)
        self.pid_label = f"{spec.tenant}@{spec.commit[:8]}#{self.pid}"
        self.workflows: tuple[str, ...] = ()
        self.was_spare = opened.was_spare
        self._host = host
        self._number = opened.number
        self._shared_bytes = opened.shared_bytes
        self._pidfd = opened.pidfd
        self._errors_fd = opened.errors_fd
        self._control = ControlSocket(opened.socket, frame_bytes_max=limits.frame_bytes_max)
        self._receiving = False
        self._last_frames: list[protocol.FromSandbox] = []  # what was not received yet when it ended
        self._over = trio.Event()  # time to find out how it ended
        self._exit: dict[str, Any] | None = None
        self._exit_known = trio.Event()
        self._dead = trio.Event()
        self._killed: tuple[DeathReason, str] | None = None
        self._death: SandboxDied | None = None
        self._ready = False
        self._ended = False  # its end of the channel is closed
        self._watch = Watch(limits.ping_after_s, limits.turn_timeout_s, answered_s=trio.current_time())

    # --- for the engine

    @property
    def death(self) -> SandboxDied | None:
        """How it ended; None while it lives."""
        return self._death

    async def send(self, frames: Sequence[protocol.ToSandbox]) -> None:
        """Send one message. Waits while the sandbox does not take it; senders take turns. A checkpoint if it waits.

        Raises SandboxDied if it has ended; ProtocolError if the frames are too large for one message.
        """
        message = protocol.encode_message(list(frames))
        if self._death is not None:
            raise self._death
        self._watch.sent(frames, trio.current_time())
        self._host._wake()
        try:
            await self._control.send(message)
        except (OSError, trio.ClosedResourceError):
            raise await self.wait_dead() from None
        finally:
            if self._control.is_cut:
                self.kill("killed", "a message to it was cut short")

    async def receive(self) -> list[protocol.FromSandbox]:
        """The frames of the next message or messages, in order; Ping and Pong stay inside. One task at a time.

        Raises SandboxDied once the sandbox has ended and all that it sent in order is taken. After a kill nothing
        more is handed out.
        """
        while not self._over.is_set():
            frames = await self._receive()
            if self._killed is None and frames:
                return frames
        await self.wait_dead()
        if self._last_frames and self._killed is None:
            frames, self._last_frames = self._last_frames, []
            return frames
        raise await self.wait_dead()

    async def _receive(self) -> list[protocol.FromSandbox]:
        self._receiving = True
        try:
            frames = await self._control.receive()
            if frames:
                return self._take(frames)
            self._over.set()
        except trio.ClosedResourceError:
            self._over.set()
        except protocol.ProtocolError as error:
            self.kill("protocol", str(error))
        finally:
            self._receiving = False
        return []

    def kill(self, reason: DeathReason = "killed", detail: str = "") -> None:
        """End it now, whatever it is doing. Harmless if it has ended. The first reason stays."""
        if self._killed is None:
            self._killed = (reason, detail or _DETAILS[reason])
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._over.set()

    async def wait_dead(self) -> SandboxDied:
        """Return once the process is gone."""
        await self._dead.wait()
        assert self._death is not None
        return self._death

    # --- for the host

    async def _run(self) -> None:
        """Wait for its end, then find out how it ended."""
        try:
            await self._over.wait()
        except trio.Cancelled:
            self.kill("killed", "the host was closed")
            raise
        finally:
            with trio.CancelScope(shield=True):
                await self._await_end()

    def _take(self, frames: list[protocol.FromSandbox]) -> list[protocol.FromSandbox]:
        """What is for the engine."""
        self._watch.received(frames, trio.current_time())
        kept: list[protocol.FromSandbox] = []
        for frame in frames:
            if isinstance(frame, protocol.Pong):
                continue
            if isinstance(frame, protocol.Ready | protocol.BootFailed) == self._ready:
                raise protocol.ProtocolError(f"a {type(frame).__name__} frame came out of turn")
            self._ready = True
            kept.append(frame)
        return kept

    async def _await_end(self) -> None:
        self._ended = True
        with trio.move_on_after(_EXIT_NOTICE_S):
            # The control socket has ended: so must the process.
            await trio.lowlevel.wait_readable(self._pidfd)
            await self._exit_known.wait()
        if self._exit is None:
            self.kill("protocol", "it closed its control channel but went on")
            with trio.move_on_after(_EXIT_NOTICE_S):
                await self._exit_known.wait()
        last_words = _drain(self._errors_fd)
        reason, detail = self._killed or _explain(self._exit, last_words)
        await self._take_the_last()
        self._death = SandboxDied(reason, detail, label=self.pid_label, last_words=last_words)
        self._control.close()
        os.close(self._errors_fd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._dead.set()
        self._host._forget(self._number)
        if reason != "killed":
            _log.warning(
                "sandbox ended",
                extra={"tenant": self.spec.tenant, "commit": self.spec.commit, "reason": reason, "detail": detail},
            )

    async def _take_the_last(self) -> None:
        """What the kernel still holds of what it said: no more than its buffer, as nobody writes any more."""
        with contextlib.suppress(protocol.ProtocolError):
            for _ in range(_LAST_READS_MAX):
                await trio.lowlevel.checkpoint()
                frames = self._control.read()
                if frames is None:
                    return
                self._last_frames += self._take(frames)

    def _exited(self, notice: dict[str, Any]) -> None:
        self._exit = notice
        self._exit_known.set()
        self._over.set()

    def _tick(self, now_s: float, *, sample_memory: bool) -> Callable[[], Any] | None:
        """Look after it once. Returns an async function to start, if a Ping is to be sent."""
        if self._ended or self._killed is not None:
            return None
        blocked_since_s = self._control.blocked_since_s
        if blocked_since_s is not None and now_s - blocked_since_s >= self.limits.turn_timeout_s:
            self.kill("time", f"it took nothing of what was sent to it for {self.limits.turn_timeout_s:g} s")
            return None
        if not self._receiving and self._control.has_unread():
            self._watch.host_paused(now_s)
        what = self._watch.due(now_s)
        if sample_memory or what == "kill":
            used = memory_bytes(self.pid).private - self._shared_bytes
            if used > self.limits.memory_bytes:
                self.kill("memory", f"it took {used} bytes of memory; its limit is {self.limits.memory_bytes}")
                return None
        if what == "kill":
            self.kill("time", f"no answer to a Ping within {self.limits.turn_timeout_s:g} s")
        return self._ping if what == "ping" else None

    async def _ping(self) -> None:
        with contextlib.suppress(SandboxDied):
            await self.send([protocol.Ping(self._watch.number)])

    @property
    def _busy(self) -> bool:
        return not self._ended and (self._watch.busy or not self._ready or self._control.blocked_since_s is not None)


_DETAILS: dict[DeathReason, str] = {
    "crashed": "it ended by itself",
    "killed": "it was told to end",
    "memory": "it took too much memory",
    "time": "it took too much time",
    "protocol": "it broke the protocol",
}


class _Opened:
    """What came of a request to the zygote, with the descriptors that belong to it."""

    def __init__(self, number: int, socket_: socket.socket, errors_fd: int, shared_bytes: int) -> None:
        self.number = number
        self.shared_bytes = shared_bytes
        self.socket = socket_
        self.errors_fd = errors_fd
        self.pidfd = -1
        self.was_spare = False
        self.failure = ""
        self.exit: dict[str, Any] | None = None
        self.known = trio.Event()
        self.abandoned = False

    def discard(self) -> None:
        self.socket.close()
        os.close(self.errors_fd)
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            os.close(self.pidfd)


class SandboxHost:
    """Opens sandboxes. Use `async with sandbox_host(...) as host`, or start `host.run` in a nursery."""

    def __init__(self, options: CellOptions | None = None, limits: SandboxLimits | None = None) -> None:
        self.options = options or CellOptions()
        self.limits = limits or SandboxLimits()
        self._cell: Cell | None = None
        self._prepared: Cell | None = None  # started, and nobody listens yet
        self._starting = trio.Lock()
        self._opening = trio.CapacityLimiter(_OPENING_MAX)
        self._requests: dict[int, _Opened] = {}
        self._sandboxes: dict[int, Sandbox] = {}
        self._work = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._closed = trio.Event()
        self.restarts = 0

    @property
    def isolation(self) -> Isolation:
        """How tenant code is held here."""
        return self.options.isolation

    @property
    def isolation_level(self) -> int:
        """0 (none) to 3; see `executor.sandbox.probe`."""
        return LEVELS[self.options.isolation]

    @property
    def count(self) -> int:
        """Sandboxes that live."""
        return len(self._sandboxes)

    async def run(self, *, task_status: trio.TaskStatus[SandboxHost] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the host's tasks until `aclose`. Started once the zygote answers.

        Raises IsolationUnavailable if tenant code cannot be confined as asked: nothing runs then.
        """
        await self.prepare()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self._ensure_cell()
                nursery.start_soon(self._look_after)
                task_status.started(self)
                await self._closed.wait()
                for sandbox in list(self._sandboxes.values()):
                    sandbox.kill("killed", "the host was closed")
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            await self._end()

    async def prepare(self) -> None:
        """Start the zygote, so that a machine that cannot confine tenant code is told so before anything else starts.

        Raises IsolationUnavailable. Optional: `run` does it too, but its errors come in a nursery's group.
        """
        if self.options.isolation is not Isolation.CELL:
            _log.warning(
                "tenant code is not isolated in a cell: for trusted tenants only",
                extra={"isolation": self.options.isolation.value, "level": self.isolation_level},
            )
        if self._prepared is None and self._cell is None:
            self._prepared = await self._start_cell()

    async def aclose(self) -> None:
        """Kill every sandbox and end the zygote. `run` returns then."""
        self._closed.set()
        await trio.lowlevel.checkpoint()

    async def open(self, spec: SandboxSpec, *, limits: SandboxLimits | None = None) -> Sandbox:
        """A new sandbox with the spec's code imported, ready for Activate.

        Raises SandboxFailed (the code cannot be imported), SandboxDied (it ended while starting; after
        `boot_timeout_s` with reason "time"), Unavailable (no process could be made; code `sandbox_unavailable`).
        """
        limits = limits or self.limits
        deadline_s = trio.current_time() + limits.boot_timeout_s
        opened = await self._request(spec, limits)
        nursery = self._nursery
        if nursery is None:
            opened.discard()
            raise _closed()
        sandbox = Sandbox(self, spec, limits, opened)
        self._sandboxes[opened.number] = sandbox
        if opened.exit is not None:
            sandbox._exited(opened.exit)
        nursery.start_soon(sandbox._run)
        self._wake()
        frames: list[protocol.FromSandbox] = []
        try:
            with trio.move_on_at(deadline_s):
                frames = await sandbox.receive()
            if not frames:
                sandbox.kill("time", f"it was not ready within {limits.boot_timeout_s:g} s")
                raise await sandbox.wait_dead()
        except trio.Cancelled:
            sandbox.kill()
            raise
        first = frames[0]
        if isinstance(first, protocol.BootFailed):
            sandbox.kill()
            raise SandboxFailed(spec, first.error.bounded())
        if len(frames) > 1 or not isinstance(first, protocol.Ready):
            sandbox.kill("protocol", "it spoke before it was asked")
            raise await sandbox.wait_dead()
        sandbox.workflows = tuple(first.workflows)
        return sandbox

    # --- the zygote

    async def _request(self, spec: SandboxSpec, limits: SandboxLimits) -> _Opened:
        async with self._opening:
            cell = await self._ensure_cell()
            opened = self._ask(cell, spec, limits)
            try:
                with trio.move_on_after(limits.boot_timeout_s):
                    await opened.known.wait()
            except trio.Cancelled:
                self._abandon(opened)
                raise
            if not opened.known.is_set():
                self._abandon(opened)
                raise Unavailable("no sandbox was made in time", code="sandbox_unavailable", hint="Try again.")
            if opened.failure:
                self._requests.pop(opened.number, None)
                opened.discard()
                raise Unavailable(
                    f"no sandbox could be made: {opened.failure}",
                    code="sandbox_unavailable",
                    hint="The machine is short of processes or memory; try again, or run fewer sandboxes.",
                )
            return opened

    def _abandon(self, opened: _Opened) -> None:
        """Nobody waits for it any more. An answer that is still to come is undone by whoever reads it."""
        opened.abandoned = True
        if opened.known.is_set():  # it came in the very moment of giving up
            self._requests.pop(opened.number, None)
            opened.discard()

    def _ask(self, cell: Cell, spec: SandboxSpec, limits: SandboxLimits) -> _Opened:
        with contextlib.ExitStack() as stack:
            bundle_fd = os.open(spec.bundle, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            stack.callback(os.close, bundle_fd)
            errors_fd, their_errors = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            stack.callback(os.close, their_errors)
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            stack.callback(theirs.close)
            try:
                number = cell.request_open(theirs, their_errors, bundle_fd, limits)
            except OSError as error:
                mine.close()
                os.close(errors_fd)
                raise Unavailable(
                    f"the zygote does not answer: {error}", code="sandbox_unavailable", hint="Try again."
                ) from None
        opened = _Opened(number, mine, errors_fd, cell.shared_bytes)
        self._requests[number] = opened
        return opened

    async def _ensure_cell(self) -> Cell:
        async with self._starting:
            if self._nursery is None or self._closed.is_set():
                raise _closed()
            if self._cell is None:
                cell, self._prepared = self._prepared or await self._start_cell(), None
                self._cell = cell
                self._nursery.start_soon(self._listen, cell)
            return self._cell

    async def _start_cell(self) -> Cell:
        tree = await trio.to_thread.run_sync(prepare_tree, self.options)
        # Made on this thread: the kernel ends the cell when the thread that made it ends.
        cell = Cell(self.options, tree)
        try:
            await trio.to_thread.run_sync(cell.greet)
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(cell.close)
            raise
        with contextlib.suppress(OSError):  # it has ended already, which whoever listens will see
            cell.keep_spares(self.limits)
        return cell

    async def _listen(self, cell: Cell) -> None:
        """Hand out what the zygote says, until it ends."""
        try:
            while True:
                await trio.lowlevel.wait_readable(cell.control.fileno())
                message = cell.read_message()
                if message is None:
                    break
                self._heard(*message)
        finally:
            self._cell = None
            self._bury()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(cell.close)
        self.restarts += 1
        _log.error("the zygote ended; it is started again at the next sandbox", extra={"said": cell.said})

    def _heard(self, message: dict[str, Any], fd: int) -> None:
        if "exited" in message:
            number = message["exited"]
            if number in self._sandboxes:
                self._sandboxes[number]._exited(message)
            elif number in self._requests:
                self._requests[number].exit = message
            return
        number = int(message.get("opened", message.get("failed", 0)))
        opened = self._requests.get(number)
        if opened is None:
            return
        opened.pidfd = fd
        opened.was_spare = bool(message.get("spare"))
        opened.failure = str(message.get("why", ""))
        if opened.abandoned:
            del self._requests[number]
            opened.discard()
        opened.known.set()

    def _bury(self) -> None:
        """The zygote is gone and its sandboxes with it."""
        for opened in self._requests.values():
            if not opened.known.is_set():
                opened.failure = "the zygote ended"
                opened.known.set()
                if opened.abandoned:
                    opened.discard()
        self._requests.clear()
        for sandbox in list(self._sandboxes.values()):
            sandbox.kill("crashed", "the cell that held it ended")
            sandbox._exited({})

    def _forget(self, number: int) -> None:
        self._sandboxes.pop(number, None)
        self._requests.pop(number, None)

    async def _end(self) -> None:
        with trio.CancelScope(shield=True):
            cell = self._cell or self._prepared
            self._cell = self._prepared = None
            if cell is not None:
                await trio.to_thread.run_sync(cell.close)

    # --- watching

    def _wake(self) -> None:
        self._work.set()

    async def _look_after(self) -> None:
        """Watch-dog of all sandboxes: one task, asleep while nothing is at work."""
        ticks = 0
        while True:
            await self._work.wait()
            busy = [sandbox for sandbox in self._sandboxes.values() if sandbox._busy]
            if not busy:
                self._work = trio.Event()
                continue
            ticks += 1
            for sandbox in busy:
                task = sandbox._tick(trio.current_time(), sample_memory=ticks % _MEMORY_EVERY_TICKS == 0)
                if task is not None and self._nursery is not None:
                    self._nursery.start_soon(task)
            await trio.sleep(_TICK_S)


@contextlib.asynccontextmanager
async def sandbox_host(
    options: CellOptions | None = None, limits: SandboxLimits | None = None
) -> AsyncIterator[SandboxHost]:
    """A running SandboxHost; every sandbox is dead when the block is left.

    Raises IsolationUnavailable (family Refused, code `not_confined`) if tenant code cannot be confined as asked.
    """
    host = SandboxHost(options, limits)
    await host.prepare()
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        try:
            yield host
        finally:
            await host.aclose()


def _closed() -> Unavailable:
    return Unavailable("the sandbox host is closed", code="shutting_down", hint="Start the executor again.")


def _explain(exit_: dict[str, Any] | None, last_words: str) -> tuple[DeathReason, str]:
    """Why it ended, where nobody here killed it."""
    if exit_ is None or ("signal" not in exit_ and "code" not in exit_):
        return "crashed", "it is gone, and nobody knows how"
    if "signal" in exit_:
        number = int(exit_["signal"])
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        if number == signal.SIGXCPU:
            return "time", "it used up its processor time"
        if number == signal.SIGKILL:
            return "memory", "the kernel killed it, most likely for want of memory"
        return "crashed", f"it was ended by {name}"
    code = int(exit_["code"])
    final = last_words.rstrip().rsplit("\n", 1)[-1]
    if code == 1 and final.startswith("MemoryError"):
        return "memory", "it ran out of memory"
    return "crashed", f"it exited with status {code}" + (f": {final[:200]}" if final else "")


def _drain(fd: int) -> str:
    """What is in the pipe now. Bytes of a sandbox: bounded, and text only."""
    pieces: list[bytes] = []
    left = _LAST_WORDS_BYTES
    with contextlib.suppress(BlockingIOError):
        while left > 0 and (piece := os.read(fd, left)):
            pieces.append(piece)
            left -= len(piece)
    return b"".join(pieces).decode("utf-8", "replace")
