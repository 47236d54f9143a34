"""The helper process of `worker.py`: forks a limited child per order, reaps it, kills it when late or unwanted.

Runs as a process of its own, single-threaded, started by `WorkerPool`; nobody else imports this module. What it has
imported before the first order is what every child starts with.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import resource
import select
import signal
import socket
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec

from .errors import GitStoreError, LimitExceeded, Unavailable
from .job_messages import (
    ANSWER_BYTES_MAX,
    CONTROL_BYTES_MAX,
    FRAME_HEAD_BYTES,
    PROGRESS_BYTES_MAX,
    REQUEST_BYTES_MAX,
    Fate,
    JobLimits,
    Order,
    to_refusal,
)
from .jobs import JOBS, warm

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class _Child:
    pid: int
    fate: socket.socket
    deadline: float
    is_late: bool = False


class _Server:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, _Child] = {}
        self._poll = select.poll()
        self._parent = os.getppid()
        # A signal that arrives between looking at the children and polling must not be lost: it leaves a byte here.
        self._wake, self._wake_far = socket.socketpair()
        for end in (self._wake, self._wake_far):
            end.setblocking(False)

    def serve(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_far.fileno(), warn_on_full_buffer=False)
        self._poll.register(self._control, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self._control.send(b"ready")
        try:
            while self._turn():
                pass
        finally:
            for child in self._children.values():
                os.kill(child.pid, signal.SIGKILL)

    def _turn(self) -> bool:
        """One round; False when the parent is gone or has closed the control socket."""
        ready = dict(self._poll.poll(1000))
        if os.getppid() != self._parent:
            return False
        if self._wake.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake.recv(4096)
        for pid in list(self._children):
            self._look_after(self._children[pid], ready)
        return self._control.fileno() not in ready or self._take_order()

    def _look_after(self, child: _Child, ready: dict[int, int]) -> None:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid == 0:
            # The client never writes here: anything to read is its end, so nobody waits for this child any more.
            is_unwanted = child.fate.fileno() in ready
            if is_unwanted or time.monotonic() > child.deadline:
                child.is_late = not is_unwanted
                os.kill(child.pid, signal.SIGKILL)
                self._bury(child, os.waitpid(child.pid, 0)[1])
            return
        self._bury(child, status)

    def _bury(self, child: _Child, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        fate = Fate("late" if child.is_late else "signal" if code < 0 else "exit", abs(code))
        self._poll.unregister(child.fate)
        _say(child.fate, fate)
        child.fate.close()
        del self._children[child.pid]

    def _take_order(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._control, CONTROL_BYTES_MAX, 2)
        if not message:
            return False
        order = msgspec.msgpack.decode(message, type=Order)
        work, fate = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        try:
            pid = os.fork()
        except OSError:  # no process or memory left for one
            _say(fate, Fate("unforked", 0))
            fate.close()
        else:
            if pid == 0:
                self._become_child(order, work, fate)
            self._children[pid] = _Child(pid, fate, time.monotonic() + order.limits.wall_s)
            self._poll.register(fate, select.POLLIN)
        work.close()
        return True

    def _become_child(self, order: Order, work: socket.socket, fate: socket.socket) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            # Other jobs must see the end of their sockets although this child was forked beside them.
            for child in self._children.values():
                child.fate.close()
            for one in (self._control, self._wake, self._wake_far, fate):
                one.close()
            run_child(order, work)
        finally:
            os._exit(1)  # run_child does not return; whatever came here, no cleanup of the parent's runs twice


def _say(fate: socket.socket, what: Fate) -> None:
    with contextlib.suppress(OSError):  # the client may be gone
        fate.send(msgspec.msgpack.encode(what))


def run_child(order: Order, work: socket.socket) -> NoReturn:
    """In the forked child: take the limits, read the request, run the job, answer, end."""
    request_type, run = JOBS[order.job]
    doing = order.job

    def report(text: str) -> None:
        nonlocal doing
        doing = text
        _send(work, b"P", text.encode(errors="replace")[:PROGRESS_BYTES_MAX])

    try:
        _limit(order.limits)
        request = msgspec.msgpack.decode(_read_request(work), type=request_type)
        kind, body = b"A", msgspec.msgpack.encode(run(request, report))
    except MemoryError:
        gc.collect()
        kind, body = b"R", _refusal_bytes(memory_exceeded(order.limits, doing))
    except GitStoreError as error:
        kind, body = b"R", _refusal_bytes(error)
    except OSError as error:
        kind, body = _for_os_error(error, order.limits, doing)
    except Exception:  # a bug, or input that found one: told to the client as text, logged there
        kind, body = b"X", traceback.format_exc()[-20_000:].encode(errors="replace")
    if len(body) > ANSWER_BYTES_MAX:
        kind, body = b"X", b"the answer is too large"
    _send(work, kind, body)
    os._exit(0)


def memory_exceeded(limits: JobLimits, doing: str) -> LimitExceeded:
    """The refusal of a job that ran out of its memory."""
    return LimitExceeded(f"The memory in bytes for {doing}", limit=limits.memory_limit, bound=limits.memory_bytes)


def _for_os_error(error: OSError, limits: JobLimits, doing: str) -> tuple[bytes, bytes]:
    if error.errno == errno.EFBIG:
        refusal: GitStoreError = LimitExceeded(
            f"The size in bytes of a file made by {doing}", limit=limits.file_limit, bound=limits.file_bytes
        )
    elif error.errno == errno.ENOMEM:
        refusal = memory_exceeded(limits, doing)
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        refusal = Unavailable("There is no space left on the disk.", code="storage_full", hint="Nothing was changed.")
    else:
        return b"X", traceback.format_exc()[-20_000:].encode(errors="replace")
    return b"R", _refusal_bytes(refusal)


def _refusal_bytes(error: GitStoreError) -> bytes:
    return msgspec.msgpack.encode(to_refusal(error))


def _limit(limits: JobLimits) -> None:
    # What the fork starts with is not the job's; the address space counts it all the same.
    own_bytes = int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
    bounds: list[tuple[int, int, int]] = [
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_AS, own_bytes + limits.memory_bytes, own_bytes + limits.memory_bytes),
        # The first bound kills with SIGXCPU, which tells the reason; the second is for a handler that ignores it.
        (resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + 2),
        (resource.RLIMIT_FSIZE, limits.file_bytes, limits.file_bytes),
        (resource.RLIMIT_NOFILE, 1024, 1024),
    ]
    for which, soft, hard in bounds:
        _, most = resource.getrlimit(which)
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)  # noqa: PLW2901  (an operator's bound may be lower)
        resource.setrlimit(which, (soft, hard))


def _read_request(work: socket.socket) -> bytes:
    head = _exactly(work, FRAME_HEAD_BYTES)
    size = int.from_bytes(head[1:], "big")
    assert head[:1] == b"Q", "the first frame is the request"
    assert size <= REQUEST_BYTES_MAX, "the client bounds requests"
    return _exactly(work, size)


def _exactly(work: socket.socket, size: int) -> bytes:
    taken = bytearray()
    while len(taken) < size:
        chunk = work.recv(size - len(taken))
        if not chunk:
            raise EOFError("the client closed the job's socket")
        taken += chunk
    return bytes(taken)


def _send(work: socket.socket, kind: bytes, body: bytes) -> None:
    try:
        work.sendall(kind + len(body).to_bytes(4, "big") + body)
    except OSError:  # nobody waits for the answer any more
        os._exit(1)


def main(descriptor: int) -> None:
    """Entry of the helper process: serve the control socket `descriptor` until its other end closes."""
    warm()
    gc.collect()
    gc.freeze()  # a collection in a child must not touch, and so copy, the pages that it shares with the helper
    _Server(socket.socket(fileno=descriptor)).serve()
