"""A commit log in memory, for tests of what is built on one. `Disk` is what outlives its owners."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from facets import Corrupt, Fenced, Head, PositionConflict, StoreFailed


@dataclass
class Disk:
    position: int = 0
    epoch: int = 0
    batches: dict[int, bytes] = field(default_factory=dict)


class FakeLog:
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._closed = False

    def claim(self) -> Head:
        self._refuse_if_closed()
        self._disk.epoch += 1
        return self.head()

    def head(self) -> Head:
        return Head(self._disk.position, self._disk.epoch)

    def append(self, head: int, epoch: int, batch: bytes) -> int:
        self._refuse_if_closed()
        if epoch != self._disk.epoch:
            raise Fenced(
                f"The log has another owner: epoch {self._disk.epoch} came after {epoch}.",
                details={"epoch": epoch, "found": self._disk.epoch},
            )
        if head != self._disk.position:
            raise PositionConflict(
                f"The log is at position {self._disk.position}, not at {head}.",
                details={"expected": head, "found": self._disk.position},
            )
        self._disk.position += 1
        self._disk.batches[self._disk.position] = batch
        return self._disk.position

    def read_from(self, position: int) -> Iterator[tuple[int, bytes]]:
        for number in range(position, self._disk.position + 1):
            if number not in self._disk.batches:
                raise Corrupt(
                    f"The log has no position {number}, but its head is {self._disk.position}.", code="log_gap"
                )
            yield number, self._disk.batches[number]

    def trim(self, below: int, *, erase: bool = False) -> bool:
        self._refuse_if_closed()
        for number in [number for number in self._disk.batches if number < below]:
            del self._disk.batches[number]
        return True

    def problems(self) -> list[str]:
        return []

    def close(self) -> None:
        self._closed = True

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreFailed("The log is closed.")
