"""What an attempt says while it executes: heartbeats, and items of output streams.

Made at the first use: most attempts say nothing. Tenant code calls from any thread; commands are made on the main
thread only, in the order in which things were said. Neither waits: heartbeats are thinned out (the newest details are
never lost while the process lives, they go with the attempt's failure), items are sent by the batch.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Protocol

from executor.core import values
from executor.core.commands import Beat, Emit

DETAILS_BYTES_MAX = 64 * 1024
EMIT_WAIT_S = 0.05
EMIT_BATCH_BYTES = 64 * 1024
EMIT_COMMAND_ITEMS = 5_000
EMIT_COMMAND_BYTES = 512 * 1024
"""Of one command: a thread may say more before the main thread comes to send it."""
EMIT_ITEM_BYTES_MAX = 256 * 1024
STREAM_CHARS_MAX = 100
BEAT_MIN_S, BEAT_MAX_S, BEAT_UNWATCHED_S = 1.0, 30.0, 10.0


class Timers(Protocol):
    """Of the process."""

    @property
    def now_s(self) -> Callable[[], float]: ...

    def call_later(self, wait_s: float, callback: Callable[[], object]) -> asyncio.TimerHandle: ...

    def call_on_loop(self, callback: Callable[[], object]) -> None: ...


class Sayer(Protocol):
    """The attempt."""

    @property
    def path(self) -> str: ...

    attempt: int

    def say(self, command: Beat | Emit) -> None:
        """Main thread only."""


def beat_interval_s(heartbeat_ms: int | None) -> float:
    """How often heartbeats are sent at most. Well within the option, so that the journal shows that it was kept."""
    if heartbeat_ms is None:
        return BEAT_UNWATCHED_S
    return max(BEAT_MIN_S, min(0.8 * heartbeat_ms / 1000, BEAT_MAX_S))


def emitted(stream: object, item: object) -> bytes:
    """The encoded item. Raises TypeError, ValueError, Refused."""
    if not isinstance(stream, str):
        raise TypeError(f"an output stream's name is a text, not {type(stream).__name__}")
    if not 0 < len(stream) <= STREAM_CHARS_MAX or not stream.isprintable():
        raise ValueError(
            f"the name of an output stream, {stream[:40]!r}, is not 1 to {STREAM_CHARS_MAX} printable characters"
        )
    return values.encode(item, what="item", bytes_max=EMIT_ITEM_BYTES_MAX)


class Signals:
    """Of one attempt. See the module."""

    __slots__ = (
        "_beat_due",
        "_beat_sent_s",
        "_emitted",
        "_interval_s",
        "_items",
        "_last_size",
        "_lock",
        "_process",
        "_sayer",
        "_size",
        "_timer_due",
        "_timers",
        "beaten_s",
        "details",
        "is_closed",
    )  # fmt: skip

    def __init__(self, sayer: Sayer, timers: Timers, heartbeat_ms: int | None, details: bytes) -> None:
        self.details = details
        self.beaten_s = timers.now_s()
        """When it was last known to be alive."""
        self.is_closed = False
        self._sayer = sayer
        self._process = timers
        self._interval_s = beat_interval_s(heartbeat_ms)
        self._beat_sent_s: float | None = None
        self._beat_due = False
        self._items: list[tuple[str, list[bytes]]] = []
        self._size = 0
        self._last_size = 0
        self._emitted = 0
        self._timer_due = False
        self._timers: list[asyncio.TimerHandle] = []
        self._lock = threading.Lock()

    # --- from tenant code, any thread

    def beat(self, details: Any) -> None:
        """Raises Refused for details that are no value, or too large."""
        encoded = (
            None if details is None else values.encode(details, what="heartbeat details", bytes_max=DETAILS_BYTES_MAX)
        )
        with self._lock:
            self.beaten_s = now_s = self._process.now_s()
            if encoded is not None:
                self.details = encoded
            if self._beat_due:
                return  # one is about to be sent, with these details
            self._beat_due = True
            sent_s = self._beat_sent_s
        wait_s = 0.0 if sent_s is None else sent_s + self._interval_s - now_s
        if wait_s <= 0 and self._is_main():
            self._send_beat()
        else:
            self._on_main(lambda: self._later(wait_s, self._send_beat))

    def emit(self, stream: str, item: Any) -> None:
        """Raises TypeError, ValueError, Refused."""
        encoded = emitted(stream, item)
        with self._lock:
            last = self._items[-1] if self._items else None
            if (
                last is None
                or last[0] != stream
                or len(last[1]) >= EMIT_COMMAND_ITEMS
                or self._last_size + len(encoded) > EMIT_COMMAND_BYTES
            ):
                last = (stream, [])
                self._items.append(last)
                self._last_size = 0
            last[1].append(encoded)
            self._last_size += len(encoded)
            self._size += len(encoded)
            is_full = self._size >= EMIT_BATCH_BYTES
            must_set, self._timer_due = not self._timer_due, True
            if is_full:
                self._size = 0  # the next batch is full when it is
        if is_full and self._is_main():
            self.send_items()
        elif is_full:
            self._on_main(self.send_items)
        elif must_set:
            self._on_main(lambda: self._later(EMIT_WAIT_S, self.send_items))

    # --- on the main thread

    def send_items(self) -> None:
        """Everything emitted so far, in its order."""
        with self._lock:
            batch, self._items = self._items, []
            self._size = 0
            self._timer_due = False
        for stream, items in batch:
            self._emitted += len(items)
            self._sayer.say(Emit(stream, items, self._sayer.path, self._sayer.attempt, self._emitted))

    def close(self) -> None:
        """The attempt is over: nothing is sent from now on."""
        self.is_closed = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _send_beat(self) -> None:
        with self._lock:
            self._beat_due = False
            self._beat_sent_s = self._process.now_s()
            details = self.details
        if not self.is_closed:
            self._sayer.say(Beat(self._sayer.path, self._sayer.attempt, details))

    def _later(self, wait_s: float, callback: Callable[[], None]) -> None:
        if self.is_closed:
            return
        if wait_s <= 0:
            callback()
            return
        now_s = self._process.now_s()
        self._timers = [timer for timer in self._timers if timer.when() > now_s]
        self._timers.append(self._process.call_later(wait_s, callback))

    def _is_main(self) -> bool:
        return threading.current_thread() is threading.main_thread()

    def _on_main(self, callback: Callable[[], None]) -> None:
        if self._is_main():
            callback()
        else:
            self._process.call_on_loop(callback)
