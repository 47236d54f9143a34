"""Disk: what is left of a store's files when the power goes, or the disk fails. The fault model of the simulation.

The files are real files in a temporary folder, so that SQLite's locks and shared memory work as always; they hold what
a running machine sees (its page cache). Beside each the disk keeps what is on the platters, and every write since the
last fsync of that file.

The model:
- A write is seen at once by everybody, and is on the platters when an fsync of its file has returned, not before.
- Power loss: each sector holds any one of the contents it has had since the last fsync of its file: so writes are lost,
  torn and reordered among each other, in one file and between files. The length of a file is any one it has had.
  A truncation happens as a whole or not at all, and what was written after it only if it did.
- The name of a new file is durable with its first fsync. A deletion is durable at once if the caller asked for it;
  otherwise the old file may come back. With the first fsync of a new journal or write-ahead file SQLite's own layer
  fsyncs the directory: all names and deletions in it are durable then.
- A killed process loses nothing: what it wrote is in the page cache still, and a later power loss may take it.
- A failed fsync: each unsynced sector may have reached the platters or not; those that did not are clean for the
  kernel, so no later fsync writes them. Readers see the new content or the old one.
- A full disk takes a part of a write that would make a file longer, and says so. A failed write takes a part as well.
- A failed read gives nothing.
Sectors are never damaged besides: a write changes no byte outside its range (SQLite counts on that as well).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

import apsw

Loss = Literal["lost", "kept", "drawn", "early", "late"]
"""What survives of what was not fsynced: nothing; all; any content of each sector; what was written before some moment;
only what was written after it."""
LOSSES: tuple[Loss, ...] = ("lost", "kept", "drawn", "early", "late")

FaultKind = Literal["sync", "write", "read"]


@dataclass(slots=True)
class Fault:
    """The next operation of this kind fails, from operation number `after` on (on files whose name holds `where`)."""

    kind: FaultKind
    after: int
    where: str = ""
    times: int = 1


@dataclass(slots=True)
class DiskFile:
    """`durable`: on the platters (None: not even the name). `changes`: (operation, offset, bytes) and
    (operation, size, None) for truncations, since the last fsync."""

    durable: bytes | None
    changes: list[tuple[int, int, bytes | None]] = field(default_factory=list)
    size: int = 0

    def synced(self) -> bytes:
        """The content with all changes."""
        view = bytearray(self.durable or b"")
        for _, at, content in self.changes:
            _change(view, at, content)
        return bytes(view)

    def survivors(self, sector_bytes: int, pick: Callable[[list[int]], int]) -> bytes:
        """A content after a power loss; `pick` chooses among versions, given the operations that made them (0: old)."""
        cuts = [0, *(operation for operation, _, content in self.changes if content is None)]
        last_cut = cuts[pick(cuts)]  # the last truncation that happened
        end_at = next((cut for cut in cuts if cut > last_cut), math.inf)
        view = bytearray(self.durable or b"")
        sizes: list[tuple[int, int]] = [(0, len(view))]
        versions: dict[int, list[tuple[int, bytes]]] = {}

        def sector_of(number: int) -> bytes:
            return bytes(view[number * sector_bytes : (number + 1) * sector_bytes])

        for operation, at, content in self.changes:
            if operation >= end_at:
                break
            if content is None:
                _change(view, at, None)
                sizes = [(operation, at)]
                versions = {
                    number: [(made, old[: at - number * sector_bytes]) for made, old in found]
                    for number, found in versions.items()
                    if number * sector_bytes < at
                }
                continue
            touched = range(at // sector_bytes, -(-(at + len(content)) // sector_bytes))
            for number in touched:
                versions.setdefault(number, [(0, sector_of(number))])
            _change(view, at, content)
            for number in touched:
                versions[number].append((operation, sector_of(number)))
            if len(view) != sizes[-1][1]:
                sizes.append((operation, len(view)))
        size = sizes[pick([operation for operation, _ in sizes])][1]
        cut_to = [at for made, at, content in self.changes if content is None and made <= last_cut]
        kept = min([len(self.durable or b""), *cut_to])
        found = bytearray((self.durable or b"")[:kept][:size]).ljust(size, b"\0")
        for sector, contents in versions.items():
            content = contents[pick([operation for operation, _ in contents])][1].ljust(sector_bytes, b"\0")
            at = sector * sector_bytes
            if at < size:
                found[at : at + sector_bytes] = content[: size - at]
        return bytes(found)


def _change(view: bytearray, at: int, content: bytes | None) -> None:
    if content is None:
        if at < len(view):
            del view[at:]
        else:
            view.extend(bytes(at - len(view)))
        return
    if at > len(view):
        view.extend(bytes(at - len(view)))
    view[at : at + len(content)] = content


class Disk:
    """All files under `root`. `operations` counts writes, truncations, fsyncs and deletions, over all files."""

    def __init__(self, root: Path, random: Random, *, sector_bytes: int = 512) -> None:
        self.root = root
        self.random = random
        self.sector_bytes = sector_bytes
        self.files: dict[str, DiskFile] = {}
        self.ghosts: dict[str, DiskFile] = {}
        """Deleted files that may come back."""
        self.operations = 0
        self.syncs: list[str] = []
        self.faults: list[Fault] = []
        self.hits: set[str] = set()
        self.capacity: int | None = None
        """Bytes of all files together; None: endless."""
        self.off_at: int | None = None
        """The power goes in the middle of this operation."""
        self.is_off = False
        self.is_confusing = False
        """A failed fsync made a file look old again: whoever has it open may read nonsense."""
        self.on_off: Callable[[], None] = lambda: None

    # --- what happens to it

    def turn_off(self) -> None:
        """From now on nothing works until `turn_on`."""
        if not self.is_off:
            self.is_off = True
            self.on_off()

    def calm_down(self) -> None:
        """Nothing more is planned to go wrong."""
        self.off_at = self.capacity = None
        self.is_confusing = False
        self.faults.clear()

    def turn_on(self, loss: Loss) -> None:
        """After a power loss with this outcome; every handle must be closed by now. "kept": the process was killed."""
        self.is_off = False
        if loss == "kept":
            return
        for name in list(self.ghosts):
            new = self.files.get(name)
            if loss != "lost" and (new is None or new.durable is None) and self.random.random() < 0.5:
                self.files[name] = self.ghosts[name]
        self.ghosts.clear()
        pick = self._picker(loss)
        for name, file in list(self.files.items()):
            path = Path(name)
            if file.durable is None and (loss == "lost" or self.random.random() < 0.3):
                del self.files[name]
                path.unlink(missing_ok=True)
                continue
            file.durable = file.survivors(self.sector_bytes, pick)
            file.size = len(file.durable)
            file.changes.clear()
            path.write_bytes(file.durable)
        for path in self.root.rglob("*-shm"):
            path.unlink()  # memory, not a file

    def _picker(self, loss: Loss) -> Callable[[list[int]], int]:
        random = self.random
        moments = [change[0] for file in self.files.values() for change in file.changes]
        cut = random.choice(moments) if moments else 0
        match loss:
            case "lost":
                return lambda operations: 0
            case "kept":
                return lambda operations: len(operations) - 1
            case "drawn":
                return lambda operations: random.randrange(len(operations))
            case "early":
                return lambda operations: max((index for index, at in enumerate(operations) if at <= cut), default=0)
            case "late":
                return lambda operations: len(operations) - 1 if operations[-1] >= cut else 0

    # --- operations, called by the VFS

    def opened(self, name: str) -> DiskFile:
        """The file of this name; a new one if there is none."""
        file = self.files.get(name)
        if file is None:
            found = Path(name).read_bytes() if Path(name).exists() else None
            file = self.files[name] = DiskFile(found, size=len(found or b""))
        return file

    def write(self, name: str, offset: int, content: bytes, base: Callable[[bytes], None]) -> None:
        """Write through to `base`, or a part of it."""
        self._refuse_if_off()
        file = self.files[name]
        self.operations += 1
        growth = offset + len(content) - file.size
        if self.capacity is not None and growth > 0 and self.used + growth > self.capacity:
            self._write_part(file, offset, content, base)
            self.hits.add("full")
            raise apsw.FullError("no space left on the simulated disk")
        if self._strikes("write", name):
            self._write_part(file, offset, content, base)
            raise apsw.IOError("the simulated disk failed a write")
        self._note(file, offset, content)
        base(content)
        self._maybe_off()

    def _write_part(self, file: DiskFile, offset: int, content: bytes, base: Callable[[bytes], None]) -> None:
        length = min(self.random.randrange(len(content) + 1), max(file.size - offset, 0))
        if length:
            self._note(file, offset, content[:length])
            base(content[:length])

    def _note(self, file: DiskFile, at: int, content: bytes | None) -> None:
        file.changes.append((self.operations, at, content))
        file.size = at if content is None else max(file.size, at + len(content))

    def truncate(self, name: str, size: int, base: Callable[[], None]) -> None:
        self._refuse_if_off()
        self.operations += 1
        self._note(self.files[name], size, None)
        base()
        self._maybe_off()

    def sync(self, name: str) -> None:
        self._refuse_if_off()
        file = self.files[name]
        self.operations += 1
        self.syncs.append(name)
        if self._strikes("sync", name):
            file.durable = file.survivors(self.sector_bytes, self._picker("drawn"))
            file.changes.clear()
            if self.random.random() < 0.5:
                file.size = len(file.durable)
                Path(name).write_bytes(file.durable)
                self.is_confusing = True
            raise apsw.IOError("the simulated disk failed an fsync")
        self._maybe_off()  # in the middle: nothing is promised yet
        if file.durable is None and name.endswith(("-journal", "-wal")):
            self._sync_directory(Path(name).parent)
        file.durable = file.synced()
        file.changes.clear()
        self.ghosts.pop(name, None)

    def _sync_directory(self, folder: Path) -> None:
        for name, file in self.files.items():
            if Path(name).parent == folder and file.durable is None:
                file.durable = b""
        self.ghosts = {name: file for name, file in self.ghosts.items() if Path(name).parent != folder}

    def delete(self, name: str, base: Callable[[], None], *, is_durable: bool) -> None:
        self._refuse_if_off()
        self.operations += 1
        file = self.files.pop(name, None)
        base()
        if file is not None and file.durable is not None and not is_durable:
            self.ghosts[name] = file
        self._maybe_off()

    def before_read(self, name: str) -> None:
        self._refuse_if_off()
        if self._strikes("read", name):
            raise apsw.IOError("the simulated disk failed a read")

    @property
    def used(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def _strikes(self, kind: FaultKind, name: str) -> bool:
        for fault in self.faults:
            if fault.kind == kind and self.operations >= fault.after and fault.where in Path(name).name:
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                self.hits.add(kind)
                return True
        return False

    def _maybe_off(self) -> None:
        if self.off_at is not None and self.operations >= self.off_at:
            self.turn_off()
            raise apsw.IOError("the simulated machine has no power")

    def _refuse_if_off(self) -> None:
        if self.is_off:
            raise apsw.IOError("the simulated machine has no power")
