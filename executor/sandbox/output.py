"""What tenant code prints and logs, as Output frames: by instance and step, in order, line by line, capped.

Whose output it is: the run's own while `run()` executes on this thread, else that of the attempt in the context. Lines
of `run()` are made again on each replay. Those that an earlier run of the instance has certainly sent are dropped here;
the last few, where that is not certain, are sent again and recognised by (position, number) outside.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from io import TextIOBase
from typing import Literal

from executor.sandbox import ambient
from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.protocol import Output
from executor.workflow import runtime

Stream = Literal["stdout", "stderr", "log"]

_lock = threading.RLock()
"""Of all recorders: lines come one by one, and a run that prints nothing shall not have a lock. It may be taken again:
the collector can have a tenant's `__del__` print in the middle of a line."""


class Recorder:
    """The lines of one run: numbers them, holds back what a replay repeats, keeps the caps."""

    __slots__ = ("_bytes", "_held", "_is_cut", "_limits", "_lines", "_numbers", "_run", "_send", "now_ms", "position")

    def __init__(self, run: int, limits: ChildLimits, send: Callable[[Output], None]) -> None:
        self.position = 0
        self.now_ms = 0
        self._run = run
        self._limits = limits
        self._send = send
        self._held: list[Output] | None = []
        self._numbers: dict[tuple[int, str, int], int] | None = None
        self._bytes = 0
        self._lines = 0
        self._is_cut = False

    def line(self, stream: Stream, level: str, text: str, *, step: str, attempt: int, at_ms: int) -> None:
        """One line, without its end. Thread-safe."""
        with _lock:
            key = (self.position, step, attempt)
            if self._numbers is None:
                self._numbers = {}
            number = self._numbers.get(key, 0)
            self._numbers[key] = number + 1
            frame = Output(self._run, self.position, number, at_ms, stream, level, step, attempt, self._bounded(text))
            if self._held is not None and not step:
                self._held.append(frame)
            else:
                self._pass(frame)

    @property
    def is_holding(self) -> bool:
        """Lines are held that a replay may be repeating."""
        return bool(self._held)

    def already_sent(self, position: int) -> None:
        """The journal shows that an earlier run went beyond `position`: it has sent its lines up to there."""
        held = self._held
        if held and held[0].position <= position:
            with _lock:
                self._held = [frame for frame in held if frame.position > position]

    def go_live(self) -> None:
        """The whole recorded journal has been delivered: send what is held, and each line at once from here on."""
        with _lock:
            held, self._held = self._held, None
            for frame in held or ():
                self._pass(frame)

    def moved_to(self, position: int, now_ms: int) -> None:
        """The run has seen the entry of that sequence, and logical time is `now_ms`."""
        self.position = position
        self.now_ms = now_ms
        if self._numbers is not None and len(self._numbers) > 64:
            with _lock:
                self._numbers = {key: number for key, number in self._numbers.items() if key[0] >= position}

    def _pass(self, frame: Output) -> None:
        if self._is_cut:
            return
        self._bytes += len(frame.text)
        self._lines += 1
        if self._bytes > self._limits.output_bytes_max or self._lines > self._limits.output_lines_max:
            self._is_cut = True
            notice = (
                f"[output cut: this run printed more than {self._limits.output_bytes_max} bytes "
                f"or {self._limits.output_lines_max} lines]"
            )
            frame = Output(
                frame.run,
                frame.position,
                frame.number,
                frame.at_ms,
                "log",
                "WARNING",
                frame.step,
                frame.attempt,
                notice,
            )
        self._send(frame)

    def _bounded(self, text: str) -> str:
        bound = self._limits.line_bytes_max
        data = text.encode(errors="backslashreplace")
        if len(data) > bound:
            return f"{data[:bound].decode(errors='ignore')} [line cut: {len(data)} bytes]"
        return data.decode()


class Scope:
    """Output of `run()` (step "") or of one attempt."""

    __slots__ = ("_partial", "_recorder", "attempt", "step")

    def __init__(self, recorder: Recorder | None, step: str = "", attempt: int = 0) -> None:
        self.step = step
        self.attempt = attempt
        self._recorder = recorder
        self._partial: dict[Stream, str] | None = None

    def write(self, stream: Stream, text: str) -> None:
        """Text as it is printed; whole lines of it are recorded."""
        partial = self._partial
        if partial is None:
            partial = self._partial = {}
        *lines, rest = (partial.pop(stream, "") + text).split("\n")
        for line in lines:
            self.line(stream, "", line)
        if rest:
            partial[stream] = rest
            if len(rest) > 65_536:
                self.flush()

    def line(self, stream: Stream, level: str, text: str) -> None:
        recorder = self._recorder
        if recorder is not None:
            at_ms = _real_ms() if self.step else recorder.now_ms
            recorder.line(stream, level, text, step=self.step, attempt=self.attempt, at_ms=at_ms)

    def flush(self) -> None:
        """Record what was printed without a line's end."""
        partial, self._partial = self._partial, None
        if partial:
            for stream, text in partial.items():
                self.line(stream, "", text)

    def close(self) -> None:
        """What comes later, from code that outlives its attempt or run, goes nowhere."""
        self.flush()
        self._recorder = None


nowhere = Scope(None)
"""Takes what code says that has outlived its attempt."""


def current() -> Scope | None:
    """Whose output it is that the calling code makes; None: the process's own (import time)."""
    run = ambient.current()
    if run is not None:
        return run.output
    attempt = runtime.current_attempt.get()
    return None if attempt is None else attempt.output  # type: ignore[attr-defined]  # the sandbox's own


def _real_ms() -> int:
    return _time_ns() // 1_000_000


_time_ns = time.time_ns
"""The real clock, taken before `ambient` replaces the name."""


class _Capture(TextIOBase):
    """Stands for sys.stdout or sys.stderr. What has no source (import time) goes to the process's own stream."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, stream: Literal["stdout", "stderr"], outer: TextIOBase) -> None:
        self._stream: Stream = stream
        self._outer = outer

    def write(self, text: str, /) -> int:
        scope = current()
        if scope is not None:
            scope.write(self._stream, text)
        else:
            self._outer.write(text)
        return len(text)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        if current() is None:
            self._outer.flush()

    def fileno(self) -> int:
        return self._outer.fileno()


class _LogCapture(logging.Handler):
    """Log records of tenant code, from the root logger."""

    def emit(self, record: logging.LogRecord) -> None:
        scope = current()
        if scope is None:
            return
        try:
            text = self.format(record)
        except Exception as error:  # tenant code: arguments that do not fit the format
            text = f"{record.msg!s} [the message could not be formatted: {error}]"
        for line in text.split("\n"):
            scope.line("log", record.levelname, line)


_installed: list[tuple[object, object, logging.Handler, int]] = []


def install() -> None:
    """Capture sys.stdout, sys.stderr and logging of this process. Idempotent."""
    if _installed:
        return
    handler = _LogCapture()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    root = logging.getLogger()
    _installed.append((sys.stdout, sys.stderr, handler, root.level))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    sys.stdout = _Capture("stdout", sys.stdout)  # type: ignore[arg-type]
    sys.stderr = _Capture("stderr", sys.stderr)  # type: ignore[arg-type]


def uninstall() -> None:
    """Give the streams back (for tests)."""
    while _installed:
        stdout, stderr, handler, level = _installed.pop()
        logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(level)
        sys.stdout, sys.stderr = stdout, stderr
