"""One job as the store's side follows it: request, progress, answer, and how the child ended."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from typing import TypeVar

import msgspec

from .errors import GitStoreError, LimitExceeded, Refused, Unavailable
from .job_messages import (
    ANSWER_BYTES_MAX,
    CONTROL_BYTES_MAX,
    FRAME_HEAD_BYTES,
    PROGRESS_BYTES_MAX,
    Fate,
    JobLimits,
    Refusal,
    to_error,
)

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class Conversation:
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
        return failed(f"{why}, at {self._doing}")


def failed(why: str) -> Unavailable:
    return Unavailable(
        f"The process that checks pushes failed: {why}.",
        code="worker_failed",
        hint="Nothing was changed; try again, and look into the server's log if it stays.",
    )
