"""The zygote as the host sees it: kept alive, asked for sandboxes, listened to."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import trio

from executor.core.errors import Unavailable
from executor.sandbox.cell import Cell, CellOptions, prepare_tree
from executor.sandbox.limits import SandboxLimits
from executor.sandbox.spec import SandboxSpec

_log = logging.getLogger(__name__)

_OPENING_MAX = 16
"""Requests under way at the zygote: few enough that neither side of its socket ever fills."""


class Opened:
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


class Opener:
    """Keeps the zygote, and asks it for sandboxes.

    `exited` is told the number of a sandbox and how it ended: False, if it knows of none. `ended`: the zygote is gone,
    and all sandboxes with it.
    """

    def __init__(
        self,
        options: CellOptions,
        limits: SandboxLimits,
        *,
        exited: Callable[[int, dict[str, Any]], bool],
        ended: Callable[[], None],
    ) -> None:
        self.options = options
        self.limits = limits
        self.cell: Cell | None = None
        self.requests: dict[int, Opened] = {}
        self.restarts = 0
        self._exited = exited
        self._ended = ended
        self._prepared: Cell | None = None  # started, and nobody listens yet
        self._starting = trio.Lock()
        self._opening = trio.CapacityLimiter(_OPENING_MAX)
        self._nursery: trio.Nursery | None = None
        self._is_stopped = False

    async def prepare(self) -> None:
        """Start the zygote, which `start` takes over. Raises IsolationUnavailable."""
        if self._prepared is None and self.cell is None:
            self._prepared = await self._start_cell()

    async def start(self, nursery: trio.Nursery) -> None:
        """Listen to the zygote in `nursery`, from now until `stop`."""
        self._nursery = nursery
        await self._ensure_cell()

    def stop(self) -> None:
        """Refuse what is asked for from now on, for good."""
        self._is_stopped = True

    async def close(self) -> None:
        """End the zygote."""
        with trio.CancelScope(shield=True):
            cell = self.cell or self._prepared
            self.cell = self._prepared = None
            if cell is not None:
                await trio.to_thread.run_sync(cell.close)

    def forget(self, number: int) -> None:
        self.requests.pop(number, None)

    async def request(self, spec: SandboxSpec, limits: SandboxLimits) -> Opened:
        """A process with the spec's bundle, its code not imported yet. Raises Unavailable (`sandbox_unavailable`)."""
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
                self.requests.pop(opened.number, None)
                opened.discard()
                raise Unavailable(
                    f"no sandbox could be made: {opened.failure}",
                    code="sandbox_unavailable",
                    hint="The machine is short of processes or memory; try again, or run fewer sandboxes.",
                )
            return opened

    def _abandon(self, opened: Opened) -> None:
        """Nobody waits for it any more. An answer that is still to come is undone by whoever reads it."""
        opened.abandoned = True
        if opened.known.is_set():  # it came in the very moment of giving up
            self.requests.pop(opened.number, None)
            opened.discard()

    def _ask(self, cell: Cell, spec: SandboxSpec, limits: SandboxLimits) -> Opened:
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
        opened = Opened(number, mine, errors_fd, cell.shared_bytes)
        self.requests[number] = opened
        return opened

    async def _ensure_cell(self) -> Cell:
        async with self._starting:
            if self._nursery is None or self._is_stopped:
                raise closed()
            if self.cell is None:
                cell, self._prepared = self._prepared or await self._start_cell(), None
                self.cell = cell
                self._nursery.start_soon(self._listen, cell)
            return self.cell

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
            self.cell = None
            self._bury()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(cell.close)
        self.restarts += 1
        _log.error("the zygote ended; it is started again at the next sandbox", extra={"said": cell.said})

    def _heard(self, message: dict[str, Any], fd: int) -> None:
        if "exited" in message:
            number = message["exited"]
            if not self._exited(number, message) and number in self.requests:
                self.requests[number].exit = message
            return
        number = int(message.get("opened", message.get("failed", 0)))
        opened = self.requests.get(number)
        if opened is None:
            return
        opened.pidfd = fd
        opened.was_spare = bool(message.get("spare"))
        opened.failure = str(message.get("why", ""))
        if opened.abandoned:
            del self.requests[number]
            opened.discard()
        opened.known.set()

    def _bury(self) -> None:
        """The zygote is gone and its sandboxes with it."""
        for opened in self.requests.values():
            if not opened.known.is_set():
                opened.failure = "the zygote ended"
                opened.known.set()
                if opened.abandoned:
                    opened.discard()
        self.requests.clear()
        self._ended()


def closed() -> Unavailable:
    return Unavailable("the sandbox host is closed", code="shutting_down", hint="Start the executor again.")
