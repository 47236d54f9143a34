"""Instance states and the table of allowed moves.

    queued ──► running ◄──► waiting          (running: code is or may be executing; waiting: rests on disk)
       │          │            │
       └──────────┴────────────┴──► paused ──► queued           pause, resume
                  │            ├──► held ────► queued           mismatch or repeated death; resume tries again
                  │            └──► undoing ─► failed | terminated    finished steps are undone, the latest first
                  ├──► complete | failed
       any state that is not final ──► terminated
       any state but undoing ──► queued                         restart; of a failed one also retry

`TABLE[operation][state]` says what an operation asked from outside does in each state. A test walks the whole table.
"""

from __future__ import annotations

from typing import Final, Literal

from executor.core.errors import Conflict

State = Literal["queued", "running", "waiting", "paused", "held", "undoing", "complete", "failed", "terminated"]
Operation = Literal[
    "send_event",
    "pause",
    "resume",
    "terminate",
    "terminate_undoing",
    "restart",
    "retry",
    "update",
    "ask",
    "set_attributes",
    "delete",
]
Answer = Literal["do", "nothing", "finished", "refuse"]
"""do it; it is so already, change nothing; refuse: the instance has ended; refuse: not in this state."""

STATES: Final[tuple[State, ...]] = (
    "queued",
    "running",
    "waiting",
    "paused",
    "held",
    "undoing",
    "complete",
    "failed",
    "terminated",
)
FINAL: Final[frozenset[State]] = frozenset({"complete", "failed", "terminated"})
ACTIVE: Final[frozenset[State]] = frozenset({"queued", "running", "undoing"})
"""States whose instances are activated again when an executor starts."""


def _row(
    *,
    active: Answer,
    paused: Answer,
    held: Answer,
    undoing: Answer,
    ended: Answer = "finished",
    failed: Answer | None = None,
    terminated: Answer = "finished",
) -> dict[State, Answer]:
    return {
        "queued": active,
        "running": active,
        "waiting": active,
        "paused": paused,
        "held": held,
        "undoing": undoing,
        "complete": ended,
        "failed": failed or ended,
        "terminated": terminated,
    }


TABLE: Final[dict[Operation, dict[State, Answer]]] = {
    "send_event": _row(active="do", paused="do", held="do", undoing="refuse"),
    "pause": _row(active="do", paused="nothing", held="refuse", undoing="refuse"),
    "resume": _row(active="nothing", paused="do", held="do", undoing="nothing"),
    "terminate": _row(active="do", paused="do", held="do", undoing="do", terminated="nothing"),
    "terminate_undoing": _row(active="do", paused="do", held="do", undoing="nothing", terminated="nothing"),
    "restart": _row(active="do", paused="do", held="do", undoing="refuse", ended="do", terminated="do"),
    "retry": _row(active="refuse", paused="refuse", held="refuse", undoing="refuse", failed="do"),
    "update": _row(active="do", paused="refuse", held="refuse", undoing="refuse"),
    "ask": _row(active="do", paused="do", held="refuse", undoing="refuse"),
    "set_attributes": _row(active="do", paused="do", held="do", undoing="do"),
    "delete": _row(active="refuse", paused="refuse", held="refuse", undoing="refuse", ended="do", terminated="do"),
}

_PARTICIPLE: Final[dict[Operation, str]] = {
    "send_event": "take events",
    "pause": "be paused",
    "resume": "be resumed",
    "terminate": "be terminated",
    "terminate_undoing": "be terminated",
    "restart": "be restarted",
    "retry": "be retried",
    "update": "take updates",
    "ask": "be asked",
    "set_attributes": "get other attributes",
    "delete": "be deleted",
}


def check(operation: Operation, state: State, instance_id: str) -> bool:
    """True: do it. False: it is so already. Raises Conflict (`instance_finished`, `invalid_state`)."""
    answer = TABLE[operation][state]
    if answer == "finished":
        raise Conflict(
            f'instance "{instance_id}" is {state} and cannot {_PARTICIPLE[operation]}',
            code="instance_finished",
            hint="Restart it." if operation == "retry" else "Start a new instance under another id.",
            state=state,
        )
    if answer == "refuse":
        if operation == "delete":
            hint = "Terminate it first."
        elif operation == "retry" and state != "undoing":
            hint = "Only what has failed is retried. Restart it to begin again."
        elif state == "undoing":
            hint = "Wait until it is undone, or terminate it."
        else:
            hint = "Resume or terminate it."
        raise Conflict(
            f'instance "{instance_id}" is {state} and cannot {_PARTICIPLE[operation]}',
            code="invalid_state",
            hint=hint,
            state=state,
        )
    return answer == "do"
