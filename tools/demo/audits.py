"""The instances of the story: audits of releases."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from executor.platform import Run
from executor.views import Status
from tools.demo.claims import Stopped
from tools.demo.releases import Release

WORKFLOW = "ReleaseAudit"
APPROVER = "kim"
WAIT_S = 45.0


@dataclass(slots=True)
class Audit:
    """An instance, what it audits, and the version it was started on."""

    run: Run[Any]
    release: Release
    version: str

    def send_chunks(self, *, first: int = 0) -> None:
        """The archive as events; their ids make sending them again harmless."""
        for number, chunk in enumerate(self.release.chunks):
            if number >= first:
                self.run.send_event("chunk", chunk, id=f"chunk-{number}")

    def approve(self) -> None:
        self.run.send_event("approval", {"by": APPROVER}, id="approval")

    def until(self, condition: Callable[[Status], bool], what: str) -> Status:
        """The first status that fulfils `condition`. Raises Stopped if it does not come to that."""
        deadline = time.monotonic() + WAIT_S
        while True:
            status = self.run.status()
            if condition(status):
                return status
            if status.is_final or status.state == "held" or time.monotonic() > deadline:
                error = f": {status.error.message}" if status.error else ""
                raise Stopped(f"instance {self.run.id} was expected {what}, but is {status.state}{error}")
            time.sleep(0.02)

    def mark(self, sequence: int) -> str:
        """The hash chain of a journal at an entry: equal chains mean equal journals up to there."""
        (item,) = self.run.journal(after=sequence - 1, limit=1)
        return item.chain


def waits_for(kind: str, name: str) -> Callable[[Status], bool]:
    """Whether an instance rests on a sleep or event of that name (the part before the occurrence)."""

    def waits(status: Status) -> bool:
        found = status.waiting_for
        return status.state == "waiting" and found is not None and found.kind == kind and found.name.startswith(name)

    return waits


def has_looked_at_some(status: Status) -> bool:
    """Past the entries for three chunks at most and the first steps: in the middle of the files."""
    return status.sequence >= 18


def rests_on(status: Status) -> str:
    found = status.waiting_for
    if found is None:
        return ""
    if found.kind == "event":
        return f'an event "{found.type}"'
    left_s = ((found.until_ms or 0) - time.time() * 1000) / 1000
    return f"{found.kind} {found.name.partition('#')[0]}, {left_s:.0f} s more"
