"""The fork server inside the cell: imports once, then forks a confined process for each request.

Single-threaded, so that fork is safe; started by exec with a clean environment, so that nothing of the executor is in
its memory; and it never runs tenant code. It speaks with the host alone, over one SEQPACKET socket, in JSON:

    host                                                zygote
      {"entry", "warm", "landlock", "read_paths"}       →
      (the filter program, one packet)                  →
                                                        ←   {"ready": true, "missing"} + own pidfd
      {"open": id, "limits", "base_bytes"}
         + socket of the child, its standard error,     →   fork
           bundle (if any)
                                                        ←   {"opened": id, "pid", "spare"} + pidfd of the child
                                                        ←   {"exited": id, "code"} or {"exited": id, "signal"}
      {"spares": count, "limits", "base_bytes"}         →   keeps so many children forked in advance (spare.py)
      end of file                                       →   kills what is left and ends

A request for the limits that spares are made for goes to a spare, if one is prepared ("spare": true says so); such a
sandbox is no other than a freshly forked one. A spare is forked only when no sandbox was asked for in SPARE_DELAY_S, so
that neither the sandbox just opened nor a burst of requests waits for it.

The host is trusted here. The children are not, and hold no end of this socket.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import json
import math
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from executor.sandbox import confine
from executor.sandbox.limits import SandboxLimits
from executor.sandbox.spare import OPEN_FILES_MIN, Spare, await_request

PACKET_BYTES_MAX = 128 * 1024
DEFAULT_ENTRY = "executor.sandbox.child:main"
WARM = (  # noqa: SIM905 - a list of words
    "asyncio base64 bisect collections.abc concurrent.futures contextvars copy csv dataclasses datetime decimal enum "
    "fractions functools hashlib heapq hmac html importlib.util inspect io itertools json linecache logging marshal "
    "math mmap operator pathlib pickle queue random re secrets statistics string struct textwrap threading traceback "
    "types typing urllib.parse uuid weakref zlib zoneinfo landlockpy msgspec apsw executor.workflow "
    "executor.sandbox.protocol"
).split()
"""Imported before the first fork. Anything else is imported by the child that wants it, from the runtime tree."""
SPARE_DELAY_S = 0.03
"""Longer than a sandbox takes to its first step: its neighbour's preparation shall not take the processor from it."""
_SPARE_DELAY_MAX_S = 30.0
"""Spares that die before they are used are replaced ever more slowly, up to this."""


class Zygote:
    """State of the fork server: its children by pidfd."""

    def __init__(self, control: socket.socket, config: dict[str, Any], program: bytes) -> None:
        self._control = control
        self._policy = confine.Policy(
            landlock=bool(config["landlock"]), seccomp=program, read_paths=tuple(config["read_paths"])
        )
        confine.warm(self._policy)
        self._entry = _Entry.named(config["entry"])
        self._entry.before_fork()
        self._spares: dict[int, Spare] = {}  # by pidfd
        self._spare_count = 0
        self._spare_limits: dict[str, Any] = {}
        self._spare_due_s = math.inf
        self._spare_deaths = 0
        self._children: dict[int, tuple[int, int]] = {}  # pidfd: (id given by the host, pid)
        self._null = os.dup(0)  # the host gives /dev/null, which the cell's own tree does not have
        self._epoll = select.epoll()
        self._epoll.register(control.fileno(), select.EPOLLIN)

    def serve(self) -> None:
        """Answer requests until the host closes its end."""
        while True:
            wait_s = max(self._spare_due_s - time.monotonic(), 0.0)
            events = self._epoll.poll(None if wait_s == math.inf else wait_s)
            if not events and time.monotonic() >= self._spare_due_s:
                self._make_spare()
            for fd, _ in events:
                if fd != self._control.fileno():
                    self._reap(fd)
                elif not self._answer():
                    return

    def _answer(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._control, PACKET_BYTES_MAX, 3)
        if not data:
            return False
        request = json.loads(data)
        try:
            if "spares" in request:
                self._keep_spares(request)
            else:
                self._open(request, fds)
                self._plan_spare()
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _open(self, request: dict[str, Any], fds: list[int]) -> None:
        spare = self._take_spare(request, fds)
        if spare is not None:
            self._children[spare.pidfd] = (request["open"], spare.pid)
            self._say({"opened": request["open"], "pid": spare.pid, "spare": True}, [spare.pidfd])
            return
        me = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._say({"failed": request["open"], "why": f"fork: {error}"})
            return
        if pid == 0:
            self._become_sandbox(request, fds, me)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = (request["open"], pid)
        self._say({"opened": request["open"], "pid": pid, "spare": False}, [pidfd])
        self._epoll.register(pidfd, select.EPOLLIN)

    # --- spares

    def _keep_spares(self, request: dict[str, Any]) -> None:
        self._spare_count = request["spares"] if request["limits"]["open_files_max"] >= OPEN_FILES_MIN else 0
        self._spare_limits = {"limits": request["limits"], "base_bytes": request["base_bytes"]}
        self._plan_spare()

    def _plan_spare(self) -> None:
        """The next spare, if one is lacking, is made after a while without requests."""
        self._spare_due_s = math.inf
        if len(self._spares) < self._spare_count:
            delay_s = min(SPARE_DELAY_S * 2 ** min(self._spare_deaths, 16), _SPARE_DELAY_MAX_S)
            self._spare_due_s = time.monotonic() + delay_s

    def _make_spare(self) -> None:
        """One; the next, if more are wanted, after another while."""
        self._spare_due_s = math.inf
        if len(self._spares) >= self._spare_count:
            return
        me = os.getpid()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                pid = os.fork()
            except OSError:  # short of processes: those who ask for one will be told
                ours.close()
                self._spare_deaths += 1
                self._plan_spare()
                return
            if pid == 0:
                self._become_spare(theirs, me)
        pidfd = os.pidfd_open(pid)
        self._spares[pidfd] = Spare(pid, pidfd, ours, self._spare_limits)
        self._epoll.register(pidfd, select.EPOLLIN)
        self._plan_spare()

    def _take_spare(self, request: dict[str, Any], fds: list[int]) -> Spare | None:
        """A spare that has been given the request, or None."""
        wanted = {"limits": request["limits"], "base_bytes": request["base_bytes"]}
        for spare in self._spares.values():
            if spare.fits(wanted) and spare.is_prepared and spare.hand_over(fds):
                del self._spares[spare.pidfd]
                self._spare_deaths = 0
                return spare
        return None

    # --- in the child

    def _become_sandbox(self, request: dict[str, Any], fds: list[int], parent: int) -> NoReturn:
        """In the child: give everything up, then run the entry."""

        def confined(limits: SandboxLimits) -> tuple[socket.socket, bool]:
            bundle = fds[2] if len(fds) > 2 else -1
            confine.descriptors(fds[0], fds[1], bundle, null=self._null)
            control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, confine.CONTROL_FD)
            confine.apply(
                self._policy,
                limits,
                parent=parent,
                base_bytes=request["base_bytes"],
                before_seccomp=lambda: self._entry.before_seccomp(limits),
            )
            return control, bundle >= 0

        self._become(request["limits"], confined)

    def _become_spare(self, channel: socket.socket, parent: int) -> NoReturn:
        """In the child: give up everything but the channel, wait for a request, then run the entry."""

        def confined(limits: SandboxLimits) -> tuple[socket.socket, bool]:
            confine.descriptors(channel.detach(), self._null, self._null, null=self._null)
            waiting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, confine.CONTROL_FD)
            confine.settle(self._policy, limits, parent=parent, base_bytes=self._spare_limits["base_bytes"])
            self._entry.before_seccomp(limits)
            self._entry.rehearse()
            control, has_bundle = await_request(waiting)
            confine.seal(self._policy)
            return control, has_bundle

        self._become(self._spare_limits["limits"], confined)

    def _become(
        self, limits_json: dict[str, Any], confined: Callable[[SandboxLimits], tuple[socket.socket, bool]]
    ) -> NoReturn:
        """Whatever happens, no code of the zygote goes on."""
        status = confine.EXIT_UNCONFINED
        try:
            limits = SandboxLimits.from_json(limits_json)
            control, has_bundle = confined(limits)
            status = 1
            self._entry.main(control, confine.BUNDLE_FD if has_bundle else -1, limits)
            status = 0
        except confine.ConfinementFailed as error:
            _last_words(str(error))
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:  # nothing may unwind into the zygote's own loop
            _last_words(traceback.format_exc())
        finally:
            os._exit(status)

    # --- ends

    def _reap(self, pidfd: int) -> None:
        spare = self._spares.pop(pidfd, None)
        number, pid = (0, spare.pid) if spare is not None else self._children.pop(pidfd)
        self._epoll.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        if spare is not None:  # nobody was told of it, so nobody is told of its end
            spare.close()
            self._spare_deaths += 1
            self._plan_spare()
        elif os.WIFSIGNALED(status):
            self._say({"exited": number, "signal": os.WTERMSIG(status)})
        else:
            self._say({"exited": number, "code": os.WEXITSTATUS(status)})

    def _say(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the host is gone; serve() sees it next
            socket.send_fds(self._control, [json.dumps(message).encode()], fds or [])

    def end(self) -> None:
        """Kill what is left. In a cell the kernel does so too, when its first process ends."""
        for pid in [*(pid for _, pid in self._children.values()), *(spare.pid for spare in self._spares.values())]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _last_words(text: str) -> None:
    """To the pipe that the host reads after the end."""
    with contextlib.suppress(Exception):
        os.write(2, text.encode("utf-8", "replace"))


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    """A sandbox's program: `main`, and hooks that its module may have beside it."""

    main: Callable[[socket.socket, int, SandboxLimits], object]
    before_fork: Callable[[], object]
    """In the zygote, once: make what all children share."""
    before_seccomp: Callable[[SandboxLimits], object]
    """In the child: make what the filter refuses later."""
    rehearse: Callable[[], object]
    """In a spare: touch and warm what the first work of the process will need. It has the time."""

    @classmethod
    def named(cls, name: str) -> _Entry:
        """Of `module:function`."""
        module_name, _, function = name.partition(":")
        module = importlib.import_module(module_name)
        return cls(
            getattr(module, function),
            getattr(module, "before_fork", lambda: None),
            getattr(module, "before_seccomp", lambda _limits: None),
            getattr(module, "rehearse", lambda: None),
        )


def _warm(names: list[str]) -> list[str]:
    missing: list[str] = []
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing.append(f"{name}: {error}")
    return missing


def main(control_fd: int) -> None:
    """Run the fork server on the inherited descriptor `control_fd` until its other end is closed."""
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    os.environ.clear()
    config = json.loads(control.recv(PACKET_BYTES_MAX))
    program = control.recv(PACKET_BYTES_MAX) if config["filtered"] else b""
    sys.dont_write_bytecode = True
    try:
        missing = _warm([*WARM, *config["warm"]])
        zygote = Zygote(control, config, program)
    except Exception:  # reported to the host, which must know why its sandboxes cannot start
        control.send(json.dumps({"broken": traceback.format_exc()}).encode()[:PACKET_BYTES_MAX])
        return
    # What lives now is shared by all children: the collector must never touch it, or every page would be copied.
    gc.collect()
    gc.freeze()
    ready = {"ready": True, "missing": missing}
    pidfd = os.pidfd_open(os.getpid())
    socket.send_fds(control, [json.dumps(ready).encode()], [pidfd])
    os.close(pidfd)
    try:
        zygote.serve()
    finally:
        zygote.end()
