"""Resident: an instance that is in memory, and Run: its one pass of tenant code.

An instance is resident while somebody works on it: a run, a call from outside, a commit under way. A sleeping instance
is not resident: it has no object here, no task, no process.

Invariants:
- there is at most one Resident per key in the Registry, so at most one run per instance;
- `journal` up to sequence `durable` is what the disk holds; the rest of it is on its way there;
- a run is sent entries up to `durable`, never beyond.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from executor.core.entries import AnyEntry, FlowLimit
from executor.core.errors import PerdureError
from executor.core.instance import Instance
from executor.core.journal import Journal
from executor.ports import StoredRow
from executor.sandbox.protocol import Answer, ToSandbox

if TYPE_CHECKING:
    from executor.engine.sandboxes import WarmSandbox

Key = tuple[str, str]
"""Tenant and instance id."""


@dataclass(slots=True)
class Run:
    """`sent`: sequence of the last entry sent. `attempting`: retries that were asked for and have not reported.
    `is_quiet`: by its last Turn nothing executes. `is_quiesced`: it was asked to start nothing more. `execution`: of
    the instance, when it was begun; a run of an earlier one is of no use. `is_released`: the journal says that it is
    gone, so it goes once that is durable, whatever comes in between. `is_only_asked`: it was begun during a pause, to
    answer. `goes_on_at`: what it said before it saw this entry, it said when it was to start nothing. `looked`: bytes
    of unread events that its waits looked through. `blobs`: ids of byte streams that its steps have begun, with the
    steps' paths."""

    number: int
    sandbox: WarmSandbox
    sent: int
    execution: int
    attempting: set[str] = field(default_factory=set)
    is_quiet: bool = False
    is_quiesced: bool = False
    is_released: bool = False
    is_only_asked: bool = False
    goes_on_at: int = 0
    looked: int = 0
    blobs: dict[int, str] | None = None


@dataclass(slots=True)
class Question:
    """A request from outside that waits for the run (asking.py). `frame` makes it for a run's number and its own;
    `update`: the update's id, None for a query. `run`: where it was posted; `deaths`: sandboxes that died since."""

    number: int
    frame: Callable[[int, int], ToSandbox]
    update: str | None
    waiters: int = 1
    run: Run | None = None
    answer: Answer | None = None
    deaths: int = 0


@dataclass(slots=True)
class Resident:
    key: Key
    instance: Instance
    journal: Journal
    durable: int
    is_resting: bool
    summary: bytes = b""
    """As the latest row has it, durable or not."""
    row: StoredRow | None = None
    """The latest durable one."""
    run: Run | None = None
    traces: list[AnyEntry] = field(default_factory=list)
    """How it was executed, to be journaled along with what comes next."""
    unsent: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    """Entries at the end of `journal` that no commit has yet, each with its facet delta."""
    journal_bytes: int = 0
    """Of this execution."""
    history_bytes: int = 0
    """Of the journal in memory."""
    forgotten: int = 1
    """What was before that entry need not be kept: the store knows."""
    is_warned: bool = False
    """Its log says that it comes near a limit."""
    bars: int = 0
    """So many are restarting it: nothing of it may execute now."""
    has_told: bool = False
    """It has ended, and who waits for that knows it (obligations.py)."""
    audit_at_ms: int = 0
    asks_again: bool = False
    """It waits for children that have been silent for long, and looks after them now; and not again before then."""
    tend_at_ms: int = 0
    """What it owes to others is not due in the wake index before then."""
    asked: dict[int, Question] = field(default_factory=dict)
    """By number: they keep its run, and need one."""
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
        """Tenant code has something to do, or to answer."""
        instance = self.instance
        return (
            not self.is_lost
            and not self.bars
            and instance.sequence > 0
            and instance.outcome is None
            and instance.held is None
            and instance.delayed_until_ms is None
            and (bool(self.asked) or (instance.paused is None and not self.is_resting))
        )

    @property
    def priority(self) -> int:
        """Among its tenant's own."""
        options = self.instance.start.options
        return 0 if options is None else options.priority

    @property
    def limits(self) -> tuple[FlowLimit, ...]:
        """What it queues behind."""
        options = self.instance.start.options
        return () if options is None else options.limits

    @property
    def is_evictable(self) -> bool:
        """Nobody works on it: it can leave memory."""
        return self.holds == 0 and self.run is None and self.is_settled and not self.needs_run

    @property
    def can_wait_on_disk(self) -> bool:
        """Nothing of it is in memory only, though it has something to do: it can be read again when its turn comes."""
        return self.holds == 0 and self.run is None and self.is_settled and not self.deaths
