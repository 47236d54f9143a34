"""Journal: an instance's stored entries by sequence, as far as it still needs them.

What is before an execution that began by continue_as_new counts no more, but for the first entry and the events that
nobody had read then (`carrying.py`). The newest of it stays on disk for readers, and none of it is read for the
instance: what one that goes on for ever costs to activate does not grow.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable


class Journal:
    """All entries from sequence `first` on, and of those before it the `earlier` ones. Entries are only added."""

    __slots__ = ("_earlier", "_order", "_recent", "first")

    def __init__(
        self, recent: Iterable[bytes] = (), *, first: int = 1, earlier: dict[int, bytes] | None = None
    ) -> None:
        self.first = first
        self._earlier = earlier or {}
        self._order = sorted(self._earlier)
        self._recent = list(recent)

    def __len__(self) -> int:
        """The sequence of the last entry."""
        return self.first - 1 + len(self._recent)

    @property
    def kept(self) -> int:
        """How many entries there are in memory."""
        return len(self._order) + len(self._recent)

    @property
    def size(self) -> int:
        """Bytes of what is in memory."""
        return sum(map(len, self._recent)) + sum(map(len, self._earlier.values()))

    def size_before(self, sequence: int) -> int:
        """Bytes of those of them that come before it."""
        earlier = sum(len(data) for at, data in self._earlier.items() if at < sequence)
        return earlier + sum(map(len, self._recent[: max(0, sequence - self.first)]))

    def append(self, entry: bytes) -> None:
        self._recent.append(entry)

    def get(self, sequence: int) -> bytes | None:
        """The entry; None: it is not needed any more."""
        place = sequence - self.first
        return self._recent[place] if place >= 0 else self._earlier.get(sequence)

    def kept_from(self, sequence: int) -> int:
        """The first sequence from this one on whose entry there is; one after the last if there is none."""
        if sequence >= self.first:
            return sequence
        place = bisect_left(self._order, sequence)
        return self._order[place] if place < len(self._order) else self.first

    def copy(self) -> Journal:
        """As it is now: entries that are added to one are not in the other."""
        return Journal(self._recent, first=self.first, earlier=self._earlier)

    def upto(self, sequence: int) -> Journal:
        """As it was when that entry, which is not before `first`, was the last one."""
        return Journal(self._recent[: sequence - self.first + 1], first=self.first, earlier=self._earlier)

    def recent(self) -> list[bytes]:
        """The entries from `first` on."""
        return self._recent[:]

    def earlier(self) -> dict[int, bytes]:
        """Those before `first`, in order."""
        return {sequence: self._earlier[sequence] for sequence in self._order}

    def without_past(self, first: int, needed: Collection[int]) -> Journal:
        """The journal from `first` on, with those entries before it that are `needed`. This one stays as it is."""
        earlier = {sequence: data for sequence in needed if (data := self.get(sequence)) is not None}
        return Journal(self._recent[first - self.first :], first=first, earlier=earlier)
