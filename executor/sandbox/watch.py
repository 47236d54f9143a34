"""When to ask a sandbox whether it is alive, and when to give it up. Pure: times come in, decisions go out.

A run is at work from the moment something is sent to it until the sandbox says, having seen all of it, that it is idle
(or until the run is dropped and the sandbox has answered once more). While any run is at work a Ping goes out every
`ping_after_s`, and a sandbox that has not answered for `turn_timeout_s` is given up. Other frames do not count as an
answer: a loop that hangs can still send them, and so can a thread beside it. Time in which the host itself does not
read is not held against the sandbox.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

from executor.sandbox import protocol


@dataclasses.dataclass(slots=True)
class Watch:
    """The state of one sandbox's watch. `answered_s` (the last Pong) and `asked_s` (a Ping that waits) are readings of
    the caller's clock."""

    ping_after_s: float
    turn_timeout_s: float
    answered_s: float
    asked_s: float | None = None
    number: int = 0
    unsettled: bool = False
    _working: dict[int, int] = dataclasses.field(default_factory=dict)  # run: last entry sent to it

    def sent(self, frames: Iterable[protocol.ToSandbox], now_s: float) -> None:
        """Frames were handed to the sandbox."""
        was_busy = self.busy
        for frame in frames:
            if isinstance(frame, protocol.Ping):
                continue
            if isinstance(frame, protocol.Drop):
                self._working.pop(frame.run, None)
                self.unsettled = True
            elif isinstance(frame, protocol.Ask | protocol.Query | protocol.Update):
                self.unsettled = True  # perhaps answered by no Turn
            elif isinstance(frame, protocol.Entries):
                self._working[frame.run] = frame.first + len(frame.entries) - 1
            else:
                self._working.setdefault(frame.run, 0)
        if not was_busy:
            self.answered_s = now_s

    def received(self, frames: Iterable[protocol.FromSandbox], now_s: float) -> None:
        """Frames came from the sandbox."""
        for frame in frames:
            if isinstance(frame, protocol.Pong):
                if self.asked_s is not None and frame.number == self.number:
                    self.asked_s = None
                    self.answered_s = now_s
                    self.unsettled = False
            elif isinstance(frame, protocol.Turn) and frame.idle and frame.seen >= self._working.get(frame.run, 0):
                self._working.pop(frame.run, None)

    @property
    def busy(self) -> bool:
        """Something should be happening in there."""
        return bool(self._working) or self.unsettled or self.asked_s is not None

    @property
    def _patience_s(self) -> float:
        return min(self.ping_after_s, self.turn_timeout_s / 2)

    def host_paused(self, now_s: float) -> None:
        """The host is not reading now: silence up to `now_s` is its own doing."""
        self.answered_s = now_s
        if self.asked_s is not None:
            self.asked_s = now_s

    def due(self, now_s: float) -> Literal["ping", "kill"] | None:
        """What to do now. "ping": send `Ping(number)`; the watch has already started."""
        if self.asked_s is not None:
            return "kill" if now_s - self.asked_s >= self.turn_timeout_s - self._patience_s else None
        if self.busy and now_s - self.answered_s >= self._patience_s:
            self.number += 1
            self.asked_s = now_s
            return "ping"
        return None
