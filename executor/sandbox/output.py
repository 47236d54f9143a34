"""What tenant code prints and logs, as Output frames: by instance and step, in order, line by line, capped.

A context variable says whose output it is: the run's own (in `run()`) or an attempt's. Lines of `run()` are made again
on each replay. Those that an earlier run of the instance has certainly sent are dropped here; the last few, where that
is not certain, are sent again and recognised by (position, number) outside.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from io import TextIOBase
from typing import Literal

from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.protocol import Output

Stream = Literal["stdout", "stderr", "log"]


current_source: ContextVar[Scope | None] = ContextVar("perdure_output", default=None)


class Recorder:
    """The lines of one run: numbers them, holds back what a replay repeats, keeps the caps."""

    def __init__(self, run: int, limits: ChildLimits, send: Callable[[Output], None]) -> None:
        self.position = 0
        self.now_ms: Callable[[], int] = _real_ms
        self._run = run
        self._limits = limits
        self._send = send
        self._held: list[Output] | None = []
        self._numbers: dict[tuple[int, str, int], int] = {}
        self._bytes = 0
        self._lines = 0
        self._is_cut = False
        self._lock = threading.Lock()

    def line(self, stream: Stream, level: str, text: str, *, step: str, attempt: int, at_ms: int) -> None:
        """One line, without its end. Thread-safe."""
        with self._lock:
            key = (self.position, step, attempt)
            number = self._numbers.get(key, 0)
            self._numbers[key] = number + 1
            frame = Output(self._run, self.position, number, at_ms, stream, level, step, attempt, self._bounded(text))
            if self._held is not None and not step:
                self._held.append(frame)
            else:
                self._pass(frame)

    def already_sent(self, position: int) -> None:
        """The journal shows that an earlier run went beyond `position`: it has sent its lines up to there."""
        held = self._held
        if held and held[0].position <= position:
            with self._lock:
                self._held = [frame for frame in held if frame.position > position]

    def go_live(self) -> None:
        """The whole recorded journal has been delivered: send what is held, and each line at once from here on."""
        with self._lock:
            held, self._held = self._held, None
            for frame in held or ():
                self._pass(frame)

    def moved_to(self, position: int) -> None:
        """The run has seen the entry of that sequence."""
        self.position = position
        if len(self._numbers) > 64:
            with self._lock:
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

    def __init__(self, recorder: Recorder, step: str = "", attempt: int = 0) -> None:
        self.step = step
        self.attempt = attempt
        self._recorder: Recorder | None = recorder
        self._partial: dict[Stream, str] = {}

    def write(self, stream: Stream, text: str) -> None:
        """Text as it is printed; whole lines of it are recorded."""
        *lines, rest = (self._partial.pop(stream, "") + text).split("\n")
        for line in lines:
            self.line(stream, "", line)
        if rest:
            self._partial[stream] = rest
            if len(rest) > 65_536:
                self.flush()

    def line(self, stream: Stream, level: str, text: str) -> None:
        recorder = self._recorder
        if recorder is not None:
            at_ms = _real_ms() if self.step else recorder.now_ms()
            recorder.line(stream, level, text, step=self.step, attempt=self.attempt, at_ms=at_ms)

    def flush(self) -> None:
        """Record what was printed without a line's end."""
        partial, self._partial = self._partial, {}
        for stream, text in partial.items():
            self.line(stream, "", text)

    def close(self) -> None:
        """What comes later, from code that outlives its attempt or run, goes nowhere."""
        self.flush()
        self._recorder = None


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
        scope = current_source.get()
        if scope is not None:
            scope.write(self._stream, text)
        else:
            self._outer.write(text)
        return len(text)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        if current_source.get() is None:
            self._outer.flush()

    def fileno(self) -> int:
        return self._outer.fileno()


class _LogCapture(logging.Handler):
    """Log records of tenant code, from the root logger."""

    def emit(self, record: logging.LogRecord) -> None:
        scope = current_source.get()
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
