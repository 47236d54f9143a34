"""Resident: an instance that is in memory, and Run: its one pass of tenant code.

An instance is resident while somebody works on it: a run, a call from outside, a commit under way. A sleeping instance
is not resident: it has no object here, no task, no process.

Invariants:
- there is at most one Resident per key in the Registry, so at most one run per instance;
- `stored[:durable]` is what the disk holds; the rest of `stored` is on its way there;
- a run is sent entries up to `durable`, never beyond.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from executor.core.errors import PerdureError
from executor.core.instance import Instance
from executor.ports import StoredRow

if TYPE_CHECKING:
    from executor.engine.sandboxes import WarmSandbox

Key = tuple[str, str]
"""Tenant and instance id."""


@dataclass(slots=True)
class Run:
    """`sent`: sequence of the last entry sent. `attempting`: retries that were asked for and have not reported.
    `is_quiet`: by its last Turn nothing executes. `is_quiesced`: it was asked to start nothing more."""

    number: int
    sandbox: WarmSandbox
    sent: int
    attempting: set[str] = field(default_factory=set)
    is_quiet: bool = False
    is_quiesced: bool = False


@dataclass(slots=True)
class Resident:
    key: Key
    instance: Instance
    stored: list[bytes]
    durable: int
    is_resting: bool
    summary: bytes = b""
    """As the latest row has it, durable or not."""
    row: StoredRow | None = None
    """The latest durable one."""
    run: Run | None = None
    holds: int = 0
    deaths: int = 0
    died_at: int = -1
    """How often its sandbox died while the journal stood at sequence `died_at`."""
    is_lost: bool = False
    loss: PerdureError | None = None
    """A commit failed (`loss` says why) or the tenant was deleted: what is in memory is not on disk. The object is out
    of the registry and must not be used."""

    @property
    def is_settled(self) -> bool:
        """Nothing is on its way to disk."""
        return self.durable == self.instance.sequence

    @property
    def needs_run(self) -> bool:
        """Tenant code has something to do."""
        instance = self.instance
        return (
            not self.is_lost
            and instance.sequence > 0
            and instance.outcome is None
            and instance.held is None
            and not instance.is_paused
            and not self.is_resting
        )

    @property
    def is_evictable(self) -> bool:
        """Nobody works on it: it can leave memory."""
        return self.holds == 0 and self.run is None and self.is_settled and not self.needs_run

    @property
    def can_wait_on_disk(self) -> bool:
        """Nothing of it is in memory only, though it has something to do: it can be read again when its turn comes."""
        return self.holds == 0 and self.run is None and self.is_settled and not self.deaths
