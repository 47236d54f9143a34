"""One confined process, as the host has it: frames to it and from it, a watch over it, and how it ended."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import trio

from executor.sandbox import protocol
from executor.sandbox.cell import memory_bytes, process_id
from executor.sandbox.control import ControlSocket
from executor.sandbox.deaths import DETAILS, explain, last_words
from executor.sandbox.limits import SandboxLimits
from executor.sandbox.opening import Opened
from executor.sandbox.spec import DeathReason, SandboxDied, SandboxSpec
from executor.sandbox.watch import Watch

_log = logging.getLogger(__name__)

_EXIT_NOTICE_S = 1.0
_LAST_READS_MAX = 64
"""Of READ_BYTES each: more than any socket's buffer."""


class Host(Protocol):
    """What a sandbox asks of whoever keeps it."""

    def wake(self) -> None:
        """There is something to watch over."""

    def forget(self, number: int) -> None:
        """It has ended."""


class Sandbox:
    """One confined process. Made by `SandboxHost.open`."""

    def __init__(self, host: Host, spec: SandboxSpec, limits: SandboxLimits, opened: Opened) -> None:
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
        self._host.wake()
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
            self._killed = (reason, detail or DETAILS[reason])
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

    async def run(self) -> None:
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
        said = last_words(self._errors_fd)
        reason, detail = self._killed or explain(self._exit, said)
        await self._take_the_last()
        self._death = SandboxDied(reason, detail, label=self.pid_label, last_words=said)
        self._control.close()
        os.close(self._errors_fd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._dead.set()
        self._host.forget(self._number)
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

    def exited(self, notice: dict[str, Any]) -> None:
        self._exit = notice
        self._exit_known.set()
        self._over.set()

    def tick(self, now_s: float, *, sample_memory: bool) -> Callable[[], Any] | None:
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
    def is_busy(self) -> bool:
        return not self._ended and (self._watch.busy or not self._ready or self._control.blocked_since_s is not None)
