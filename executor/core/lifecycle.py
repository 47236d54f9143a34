"""Instance states and the table of allowed moves.

    queued ──► running ◄──► waiting          (running: code is or may be executing; waiting: rests on disk)
       │          │            │
       └──────────┴────────────┴──► paused ──► queued           pause, resume
                  │            └──► held ────► queued           mismatch or repeated death; resume tries again
                  ├──► complete | failed
       any state that is not final ──► terminated

`TABLE[operation][state]` says what an operation asked from outside does in each state. A test walks the whole table.
"""

from __future__ import annotations

from typing import Final, Literal

from executor.core.errors import Conflict

State = Literal["queued", "running", "waiting", "paused", "held", "complete", "failed", "terminated"]
Operation = Literal["send_event", "pause", "resume", "terminate", "delete"]
Answer = Literal["do", "nothing", "finished", "refuse"]
"""do it; it is so already, change nothing; refuse: the instance has ended; refuse: not in this state."""

STATES: Final[tuple[State, ...]] = (
    "queued",
    "running",
    "waiting",
    "paused",
    "held",
    "complete",
    "failed",
    "terminated",
)
FINAL: Final[frozenset[State]] = frozenset({"complete", "failed", "terminated"})
ACTIVE: Final[frozenset[State]] = frozenset({"queued", "running"})
"""States whose instances are activated again when an executor starts."""


def _row(
    *,
    active: Answer,
    paused: Answer,
    held: Answer,
    ended: Answer = "finished",
    terminated: Answer = "finished",
) -> dict[State, Answer]:
    return {
        "queued": active,
        "running": active,
        "waiting": active,
        "paused": paused,
        "held": held,
        "complete": ended,
        "failed": ended,
        "terminated": terminated,
    }


TABLE: Final[dict[Operation, dict[State, Answer]]] = {
    "send_event": _row(active="do", paused="do", held="do"),
    "pause": _row(active="do", paused="nothing", held="refuse"),
    "resume": _row(active="nothing", paused="do", held="do"),
    "terminate": _row(active="do", paused="do", held="do", terminated="nothing"),
    "delete": _row(active="refuse", paused="refuse", held="refuse", ended="do", terminated="do"),
}

_PARTICIPLE: Final[dict[Operation, str]] = {
    "send_event": "take events",
    "pause": "be paused",
    "resume": "be resumed",
    "terminate": "be terminated",
    "delete": "be deleted",
}


def check(operation: Operation, state: State, instance_id: str) -> bool:
    """True: do it. False: it is so already. Raises Conflict (`instance_finished`, `invalid_state`)."""
    answer = TABLE[operation][state]
    if answer == "finished":
        raise Conflict(
            f'instance "{instance_id}" is {state} and cannot {_PARTICIPLE[operation]}',
            code="instance_finished",
            hint="Start a new instance under another id.",
            state=state,
        )
    if answer == "refuse":
        hint = "Terminate it first." if operation == "delete" else "Resume or terminate it."
        raise Conflict(
            f'instance "{instance_id}" is {state} and cannot {_PARTICIPLE[operation]}',
            code="invalid_state",
            hint=hint,
            state=state,
        )
    return answer == "do"
