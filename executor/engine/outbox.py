"""Outbox: what is posted to one sandbox and not taken yet, in order, made into messages only when one can be sent.

A journal is posted as a reference and cut into chunks while it is taken, so that a sandbox which takes nothing costs
the host one message, whatever its runs have recorded. Everything else counts in `posted_bytes`; nearly all of it
answers what the sandbox asked for, so whoever reads the sandbox's frames stops reading above POSTED_BYTES_MAX.
"""

from __future__ import annotations

from collections import deque

from executor.core.instance import Instance
from executor.core.journal import Journal
from executor.core.visible import is_visible
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
    """Entries `at`+1 … `end` of a run, still to be sent. `journal` only grows, and is the resident's own."""

    __slots__ = ("at", "carried", "cuts", "end", "journal", "run")

    def __init__(self, run: int, journal: Journal, at: int, end: int, instance: Instance) -> None:
        self.run = run
        self.journal = journal
        self.at = at
        self.end = end
        self.cuts, self.carried = instance.cuts, instance.carried

    def chunk(self) -> Entries:
        """The next entries, of about CHUNK_BYTES together, at least one or as many as are to be skipped."""
        first, size, skipped = self.at, 0, 0
        shown: list[bytes | int] = []
        journal, cuts, carried = self.journal, self.cuts, self.carried
        while self.at < self.end and size < CHUNK_BYTES:
            data = journal.get(self.at + 1)
            if data is None:
                kept_from = min(journal.kept_from(self.at + 1), self.end + 1)
                skipped += kept_from - 1 - self.at
                self.at = kept_from - 1
                continue
            self.at += 1
            if not is_visible(data, self.at, cuts, carried):
                skipped += 1
                continue
            if skipped:
                shown.append(skipped)
                skipped = 0
            shown.append(data)
            size += len(data)
        if skipped:
            shown.append(skipped)
        return Entries(self.run, first + 1, shown)


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

    def post_journal(self, run: int, journal: Journal, first: int, end: int, instance: Instance) -> None:
        """Queue the entries `first` … `end` (sequences) of a run; they are looked up in `journal` when they are sent.

        Those that are not visible to the run of `instance` are left out."""
        self._posted.append(_Journal(run, journal, first - 1, end, instance))
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
        return _FRAME_BYTES + sum(len(entry) for entry in frame.entries if type(entry) is bytes)
    parts: list[bytes] = getattr(frame, "chunks", None) or [getattr(frame, "data", b"")]  # those with a facet's bytes
    return _FRAME_BYTES + sum(map(len, parts))
