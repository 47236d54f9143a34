"""Limited children for work that hostile input can make slow, large or fatal: indexing packs, compiling sources.

One helper process is started at the first job: a clean exec that has imported the libraries, runs one thread and holds
nothing but a socket. For each job it forks (a few milliseconds), and the fork takes limits of CPU time, memory and file
size upon itself before it reads its request. So no thread of the embedding program is ever forked, a script that uses
gitstore needs no `if __name__ == "__main__"`, and a crash costs one job.

What must stay true:
- a job has its own two sockets: `work` carries the request and the child's frames, `fate` how it ended; when the
  client's end of `fate` closes, for whatever reason, the child is killed;
- everything the child says is bounded and checked against a schema here; nothing is unpickled;
- the helper dies with its parent (its control socket ends), the children with the helper (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from types import TracebackType
from typing import Self

import msgspec

from .conversation import Answer, Conversation, failed
from .errors import LimitExceeded, Unavailable
from .job_messages import CONTROL_BYTES_MAX, REQUEST_BYTES_MAX, JobLimits, Order

START_TIMEOUT_S = 60
_HELPER_PROGRAM = """\
import sys
sys.path[:] = sys.argv[2:]
from gitstore.forkserver import main
main(int(sys.argv[1]))
"""


class WorkerPool:
    """Runs jobs in limited children, at most `size` at a time; further callers wait. Thread-safe.

    The helper process starts with the first job. A pool that was used must be closed.
    """

    def __init__(self, size: int) -> None:
        self._slots = threading.BoundedSemaphore(size)
        self._guard = threading.Lock()
        self._helper: _Helper | None = None
        self._is_closed = False

    def run(self, job: str, request: msgspec.Struct, answer: type[Answer], limits: JobLimits) -> Answer:
        """Run `job` of the fixed table in `jobs.py` and return its answer.

        Raises what the job refused with; LimitExceeded naming the bound it ran into and what it was doing; Refused
        (`worker_crashed`) when the input crashed it; Unavailable (`worker_failed`) for anything that is not the
        input's fault. After any of them nothing of the child runs any more.
        """
        body = msgspec.msgpack.encode(request)
        if len(body) > REQUEST_BYTES_MAX:
            raise LimitExceeded("The size of a job in bytes", limit="request_bytes_max", bound=REQUEST_BYTES_MAX)
        with self._slots, contextlib.ExitStack() as stack:
            work, fate = self._order(Order(job, limits), stack)
            return Conversation(job, limits, work, fate).run(body, answer)

    def _order(self, order: Order, stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
        """Hand the order to the helper; a helper that has died since the last job is replaced once."""
        for is_last in (False, True):
            helper = self._running_helper()
            work, work_far = (stack.enter_context(end) for end in socket.socketpair())
            fate, fate_far = (stack.enter_context(end) for end in socket.socketpair())
            try:
                helper.send(msgspec.msgpack.encode(order), [work_far.fileno(), fate_far.fileno()])
            except OSError:
                self._drop(helper)
                if is_last:
                    raise failed("the helper process does not stay alive") from None
                continue
            work_far.close()
            fate_far.close()
            return work, fate
        raise AssertionError("unreachable: the last round returns or raises")

    def _running_helper(self) -> _Helper:
        with self._guard:
            if self._is_closed:
                raise Unavailable("The store is closed.", code="closed")
            if self._helper is None:
                self._helper = _Helper()
            return self._helper

    def _drop(self, helper: _Helper) -> None:
        with self._guard:
            if self._helper is helper:
                self._helper = None
        helper.close()

    def close(self) -> None:
        """Stop the helper; running jobs are killed and their callers get Unavailable. Safe to call twice."""
        with self._guard:
            self._is_closed = True
            helper, self._helper = self._helper, None
        if helper is not None:
            helper.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Helper:
    """The fork server's process and the control socket to it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            path = [os.path.abspath(entry or os.curdir) for entry in sys.path]  # noqa: PTH100  (entries may be odd)
            # -I: neither the environment nor the current folder decides what the helper imports; -c with the caller's
            # own path: it imports the same gitstore. The environment is cleared: tenants' input meets no secrets.
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-c",
                    _HELPER_PROGRAM,
                    str(far.fileno()),
                    *path,
                ],
                pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
                cwd="/",
                start_new_session=True,  # Ctrl-C at the terminal is for the program, which then closes the pool
            )
        try:
            self._control.settimeout(START_TIMEOUT_S)
            ready = self._control.recv(CONTROL_BYTES_MAX)
            self._control.settimeout(None)
        except OSError:
            ready = b""
        if ready != b"ready":
            self.close()
            raise failed("the helper process did not start")

    def send(self, message: bytes, descriptors: list[int]) -> None:
        with self._guard:
            socket.send_fds(self._control, [message], descriptors)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._control.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
