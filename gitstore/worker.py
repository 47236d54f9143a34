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

A frame of `work`: one byte of kind, four bytes of length (big-endian), the body. Request: kind `Q`. From the child:
`P` what it is doing now (text), then exactly one of `A` the answer (msgpack), `R` a refusal (msgpack), `X` a bug
(text).
A message of `control`: `Order` in msgpack, with the child's end of `work` and the helper's of `fate` as descriptors.
A message of `fate`: `Fate` in msgpack.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from types import TracebackType
from typing import Literal, Self, TypeVar

import msgspec

from .errors import Corrupt, Diagnostic, GitStoreError, LimitExceeded, NotFound, Refused, Unavailable

logger = logging.getLogger(__name__)

ANSWER_BYTES_MAX = 16 * 1024 * 1024
REQUEST_BYTES_MAX = 4 * 1024 * 1024
PROGRESS_BYTES_MAX = 4096
CONTROL_BYTES_MAX = 4096
START_TIMEOUT_S = 60
FRAME_HEAD_BYTES = 5

_HELPER_PROGRAM = """\
import sys
sys.path[:] = sys.argv[2:]
from gitstore.forkserver import main
main(int(sys.argv[1]))
"""

Answer = TypeVar("Answer")


Family = Literal["refused", "limit", "not_found", "unavailable", "corrupt"]


class JobLimits(msgspec.Struct, frozen=True):
    """Bounds of one job, with the names of the Limits fields they come from, for the refusal."""

    cpu_s: int
    cpu_limit: str
    memory_bytes: int
    memory_limit: str
    file_bytes: int
    file_limit: str

    @property
    def wall_s(self) -> int:
        """A child that waits (for a lock, a disk) uses no CPU time; after this long it is killed as well."""
        return 3 * self.cpu_s + 30


class Order(msgspec.Struct, frozen=True):
    """To the helper: fork a child for `job` under `limits`."""

    job: str
    limits: JobLimits


class Fate(msgspec.Struct, frozen=True):
    """From the helper: how the child ended; `number` is the exit code or the signal."""

    end: Literal["exit", "signal", "late", "unforked"]
    number: int


class Refusal(msgspec.Struct, frozen=True):
    """A GitStoreError on its way through the pipe."""

    family: Family
    message: str
    code: str
    hint: str | None
    details: dict[str, str | int | None]
    diagnostics: tuple[Diagnostic, ...]


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
            return _Conversation(job, limits, work, fate).run(body, answer)

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
                    raise _failed("the helper process does not stay alive") from None
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
            raise _failed("the helper process did not start")

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


class _Conversation:
    """One job, from the request to its end."""

    def __init__(self, job: str, limits: JobLimits, work: socket.socket, fate: socket.socket) -> None:
        self._job = job
        self._limits = limits
        self._work = work
        self._fate = fate
        self._doing = job

    def run(self, request: bytes, answer: type[Answer]) -> Answer:
        try:
            self._work.sendall(b"Q" + len(request).to_bytes(4, "big") + request)
            kind, body = self._last_frame()
        except ConnectionError:  # the child ended early; its fate says why
            kind, body = b"", b""
        fate = self._read_fate()
        if kind == b"A":
            try:
                return msgspec.msgpack.decode(body, type=answer)
            except msgspec.DecodeError as error:
                raise self._broken(f"its answer does not fit the schema: {error}") from None
        if kind == b"R":
            try:
                raise to_error(msgspec.msgpack.decode(body, type=Refusal))
            except msgspec.DecodeError as error:
                raise self._broken(f"its refusal does not fit the schema: {error}") from None
        if kind == b"X":
            logger.error("a %s job failed: %s", self._job, body.decode(errors="replace"))
            raise self._broken(body.decode(errors="replace").strip().rpartition("\n")[2])
        raise self._error_of(fate)

    def _last_frame(self) -> tuple[bytes, bytes]:
        """Follow the progress, return the frame that is none; (b"", b"") if the child ended without one."""
        while True:
            head = self._exactly(FRAME_HEAD_BYTES)
            if head is None:
                return b"", b""
            kind, size = head[:1], int.from_bytes(head[1:], "big")
            bound = PROGRESS_BYTES_MAX if kind == b"P" else ANSWER_BYTES_MAX
            if kind not in (b"P", b"A", b"R", b"X") or size > bound:
                raise self._broken("it sent a frame that is none")
            body = self._exactly(size)
            if body is None:
                return b"", b""
            if kind != b"P":
                return kind, body
            self._doing = body.decode(errors="replace")

    def _exactly(self, size: int) -> bytes | None:
        taken = bytearray()
        while len(taken) < size:
            chunk = self._work.recv(min(size - len(taken), 1 << 20))
            if not chunk:
                return None
            taken += chunk
        return bytes(taken)

    def _read_fate(self) -> Fate | None:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            message = self._fate.recv(CONTROL_BYTES_MAX)
            if message:
                return msgspec.msgpack.decode(message, type=Fate)
        return None

    def _error_of(self, fate: Fate | None) -> GitStoreError:
        limits = self._limits
        if fate is None:
            return self._broken("the helper process ended")
        if fate.end == "late" or (fate.end == "signal" and fate.number == signal.SIGXCPU):
            return LimitExceeded(f"The time in seconds for {self._doing}", limit=limits.cpu_limit, bound=limits.cpu_s)
        if fate.end == "signal" and fate.number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL):
            # C code that meets the memory limit or a deep nesting dies like this too; either way the input did it.
            name = signal.Signals(fate.number).name
            return Refused(
                f"The process crashed ({name}) at {self._doing}.",
                code="worker_crashed",
                hint=f"Make the input smaller or simpler; the memory limit is {limits.memory_bytes} bytes "
                f"({limits.memory_limit}).",
                details={"signal": name, "job": self._job},
            )
        return self._broken(f"{fate.end} {fate.number}")

    def _broken(self, why: str) -> Unavailable:
        return _failed(f"{why}, at {self._doing}")


def _failed(why: str) -> Unavailable:
    return Unavailable(
        f"The process that checks pushes failed: {why}.",
        code="worker_failed",
        hint="Nothing was changed; try again, and look into the server's log if it stays.",
    )


def to_refusal(error: GitStoreError) -> Refusal:
    """`error` as it crosses the pipe; details that are neither text nor numbers become text."""
    family: Family = "refused"
    if isinstance(error, LimitExceeded):
        family = "limit"
    elif isinstance(error, NotFound):
        family = "not_found"
    elif isinstance(error, Unavailable):
        family = "unavailable"
    elif isinstance(error, Corrupt):
        family = "corrupt"
    details: dict[str, str | int | None] = {}
    for name, value in error.details.items():
        is_plain = value is None or isinstance(value, str) or (isinstance(value, int) and abs(value) < 1 << 63)
        details[name] = value if is_plain else str(value)  # type: ignore[assignment]  # is_plain has looked
    diagnostics = error.diagnostics if isinstance(error, Refused) else ()
    return Refusal(family, error.message, error.code, error.hint, details, diagnostics)


def to_error(refusal: Refusal) -> GitStoreError:
    """The error again, of the family it had."""
    if refusal.family == "unavailable":
        return Unavailable(refusal.message, code=refusal.code, hint=refusal.hint, details=refusal.details)
    if refusal.family == "corrupt":
        return Corrupt(refusal.message, code=refusal.code, hint=refusal.hint, details=refusal.details)
    # LimitExceeded makes its text from parts; here the text is made already.
    kinds: dict[Family, type[Refused]] = {"limit": LimitExceeded, "not_found": NotFound}
    kind = kinds.get(refusal.family, Refused)
    error = kind.__new__(kind)
    Refused.__init__(
        error,
        refusal.message,
        code=refusal.code,
        hint=refusal.hint,
        details=refusal.details,
        diagnostics=refusal.diagnostics,
    )
    return error
