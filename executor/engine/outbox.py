"""Outbox: what is posted to one sandbox and not taken yet, in order, made into messages only when one can be sent.

A journal is posted as a reference and cut into chunks while it is taken, so that a sandbox which takes nothing costs
the host one message, whatever its runs have recorded. Everything else counts in `posted_bytes`; nearly all of it
answers what the sandbox asked for, so whoever reads the sandbox's frames stops reading above POSTED_BYTES_MAX.
"""

from __future__ import annotations

from collections import deque

from executor.engine.signal import Signal
from executor.sandbox.protocol import CHUNK_BYTES, Entries, ToSandbox

MESSAGE_BYTES = 512 * 1024
"""A message is closed once it has so many bytes; with one largest frame in it, it still fits the protocol's bound."""
MESSAGE_FRAMES_MAX = 4_096
POSTED_BYTES_MAX = 8 * 1024 * 1024
"""Of frames posted and not taken."""
_FRAME_BYTES = 64
"""What a frame counts besides its contents."""


class _Journal:
    """Entries `at`+1 … `end` of a run, still to be sent. `stored` only grows, and is the resident's own list."""

    __slots__ = ("at", "end", "run", "stored")

    def __init__(self, run: int, stored: list[bytes], at: int, end: int) -> None:
        self.run = run
        self.stored = stored
        self.at = at
        self.end = end

    def chunk(self) -> Entries:
        """The next entries, of about CHUNK_BYTES together, at least one."""
        first, size, stored = self.at, 0, self.stored
        while self.at < self.end and size < CHUNK_BYTES:
            size += len(stored[self.at])
            self.at += 1
        return Entries(self.run, first + 1, stored[first : self.at])


class Outbox:
    """Posted by anybody, taken by the one task that sends."""

    __slots__ = ("_posted", "has_mail", "posted_bytes")

    def __init__(self) -> None:
        self.posted_bytes = 0
        self.has_mail = Signal()
        self._posted: deque[ToSandbox | _Journal] = deque()

    def __len__(self) -> int:
        return len(self._posted)

    def post(self, frame: ToSandbox) -> None:
        """Queue a frame."""
        self.posted_bytes += _size(frame)
        self._posted.append(frame)
        self.has_mail.notify()

    def post_journal(self, run: int, stored: list[bytes], first: int, end: int) -> None:
        """Queue the entries `first` … `end` (sequences) of a run; they are looked up in `stored` when they are sent."""
        self._posted.append(_Journal(run, stored, first - 1, end))
        self.has_mail.notify()

    def take(self) -> list[ToSandbox]:
        """The frames of the next message; none if nothing is posted."""
        posted = self._posted
        message: list[ToSandbox] = []
        size = 0
        while posted and size < MESSAGE_BYTES and len(message) < MESSAGE_FRAMES_MAX:
            following = posted[0]
            if isinstance(following, _Journal):
                frame: ToSandbox = following.chunk()
                if following.at >= following.end:
                    posted.popleft()
                weight = _size(frame)
            else:
                frame = following
                posted.popleft()
                weight = _size(frame)
                self.posted_bytes -= weight
            message.append(frame)
            size += weight
        return message

    def clear(self) -> None:
        """Nobody will take it."""
        self._posted.clear()
        self.posted_bytes = 0


def _size(frame: ToSandbox) -> int:
    if isinstance(frame, Entries):
        return _FRAME_BYTES + sum(map(len, frame.entries))
    parts: list[bytes] = getattr(frame, "chunks", None) or [getattr(frame, "data", b"")]  # those with a facet's bytes
    return _FRAME_BYTES + sum(map(len, parts))
