"""Commit: entries of one resident on their way to disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from executor.core.errors import PerdureError
from executor.engine.resident import Resident
from executor.engine.signal import Landing
from executor.ports import Row

if TYPE_CHECKING:
    from executor.engine.engine import Engine


class Commit:
    """Entries of one resident on their way to disk, and the row as of the last of them."""

    __slots__ = ("_engine", "error", "landing", "resident", "row", "sequence")

    def __init__(self, engine: Engine, resident: Resident, sequence: int, row: Row, landing: Landing | None) -> None:
        self._engine = engine
        self.resident = resident
        self.sequence = sequence
        self.row = row
        self.landing = landing
        self.error: PerdureError | None = None
        """Why it was not written, once `landing` is set."""

    def done(self, error: PerdureError | None) -> None:
        """The committer's answer."""
        self.error = error
        self._engine.committed(self, error)
