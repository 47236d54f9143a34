"""The fork server inside the cell: imports once, then forks a confined process for each request.

Single-threaded, so that fork is safe; started by exec with a clean environment, so that nothing of the executor is in
its memory; and it never runs tenant code. It speaks with the host alone, over one SEQPACKET socket, in JSON:

    host                                                zygote
      {"entry", "warm", "landlock", "read_paths"}       →
      (the filter program, one packet)                  →
                                                        ←   {"ready": true, "imports_ms", "missing"} + own pidfd
      {"open": id, "limits", "base_bytes"}
         + socket of the child, its standard error,     →   fork
           bundle (if any)
                                                        ←   {"opened": id, "pid"} + pidfd of the child
                                                        ←   {"exited": id, "code"} or {"exited": id, "signal"}
      end of file                                       →   kills what is left and ends

The host is trusted here. The children are not, and hold no end of this socket.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
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


class Zygote:
    """State of the fork server: its children by pidfd."""

    def __init__(self, control: socket.socket, config: dict[str, Any], program: bytes) -> None:
        self._control = control
        self._policy = confine.Policy(
            landlock=bool(config["landlock"]), seccomp=program, read_paths=tuple(config["read_paths"])
        )
        confine.warm(self._policy)
        self._entry = _entry(config["entry"])
        self._children: dict[int, tuple[int, int]] = {}  # pidfd: (id given by the host, pid)
        self._null = os.dup(0)  # the host gives /dev/null, which the cell's own tree does not have
        self._epoll = select.epoll()
        self._epoll.register(control.fileno(), select.EPOLLIN)

    def serve(self) -> None:
        """Answer requests until the host closes its end."""
        while True:
            for fd, _ in self._epoll.poll():
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
            self._open(request, fds)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _open(self, request: dict[str, Any], fds: list[int]) -> None:
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
        self._say({"opened": request["open"], "pid": pid}, [pidfd])
        self._epoll.register(pidfd, select.EPOLLIN)

    def _become_sandbox(self, request: dict[str, Any], fds: list[int], parent: int) -> NoReturn:
        """In the child: give everything up, then run the entry. Whatever happens, no code of the zygote goes on."""
        status = confine.EXIT_UNCONFINED
        try:
            prepare, main = self._entry
            limits = SandboxLimits.from_json(request["limits"])
            bundle = fds[2] if len(fds) > 2 else -1
            confine.descriptors(fds[0], fds[1], bundle, null=self._null)
            control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, confine.CONTROL_FD)
            confine.apply(
                self._policy,
                limits,
                parent=parent,
                base_bytes=request["base_bytes"],
                before_seccomp=lambda: prepare(limits),
            )
            status = 1
            main(control, confine.BUNDLE_FD if bundle >= 0 else -1, limits)
            status = 0
        except confine.ConfinementFailed as error:
            _last_words(str(error))
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:  # nothing may unwind into the zygote's own loop
            _last_words(traceback.format_exc())
        finally:
            os._exit(status)

    def _reap(self, pidfd: int) -> None:
        number, pid = self._children.pop(pidfd)
        self._epoll.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            self._say({"exited": number, "signal": os.WTERMSIG(status)})
        else:
            self._say({"exited": number, "code": os.WEXITSTATUS(status)})

    def _say(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the host is gone; serve() sees it next
            socket.send_fds(self._control, [json.dumps(message).encode()], fds or [])

    def end(self) -> None:
        """Kill what is left. In a cell the kernel does so too, when its first process ends."""
        for _, pid in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _last_words(text: str) -> None:
    """To the pipe that the host reads after the end."""
    with contextlib.suppress(Exception):
        os.write(2, text.encode("utf-8", "replace"))


def _entry(
    name: str,
) -> tuple[Callable[[SandboxLimits], object], Callable[[socket.socket, int, SandboxLimits], object]]:
    """`module:function`, and the module's own `before_seccomp(limits)` if it has one."""
    module_name, _, function = name.partition(":")
    module = importlib.import_module(module_name)
    return getattr(module, "before_seccomp", lambda _limits: None), getattr(module, function)


def _prepare_once(entry: str) -> None:
    """Let the entry's module make here, once, what all children share, if it has a `before_fork()`."""
    module = importlib.import_module(entry.partition(":")[0])
    getattr(module, "before_fork", lambda: None)()


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
    started = time.monotonic()
    sys.dont_write_bytecode = True
    try:
        missing = _warm([*WARM, *config["warm"]])
        zygote = Zygote(control, config, program)
        _prepare_once(config["entry"])
    except Exception:  # reported to the host, which must know why its sandboxes cannot start
        control.send(json.dumps({"broken": traceback.format_exc()}).encode()[:PACKET_BYTES_MAX])
        return
    # What lives now is shared by all children: the collector must never touch it, or every page would be copied.
    gc.collect()
    gc.freeze()
    ready = {"ready": True, "imports_ms": int((time.monotonic() - started) * 1000), "missing": missing}
    pidfd = os.pidfd_open(os.getpid())
    socket.send_fds(control, [json.dumps(ready).encode()], [pidfd])
    os.close(pidfd)
    try:
        zygote.serve()
    finally:
        zygote.end()
