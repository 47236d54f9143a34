"""CurrentAttempt: what `step.current()` tells inside a step."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from executor.workflow import runtime
from executor.workflow.errors import NotHere


@dataclass(frozen=True, slots=True)
class CurrentAttempt:
    """The attempt that executes now. `idempotency_key` is the same for all attempts of a step and for no other step."""

    name: str
    attempt: int
    deadline: datetime | None
    idempotency_key: str
    last_heartbeat: Any = None
    """Details of the last heartbeat of the attempt before this one, or of this one before it was lost; else None."""
    _runtime: runtime.AttemptRuntime | None = field(default=None, repr=False, compare=False)

    def heartbeat(self, details: Any = None) -> None:
        """Say that the attempt is alive; from any thread, as often as you like.

        `details`: a value of up to 64 KiB for the next attempt (`last_heartbeat`); without it the last ones stay.
        Raises NotHere once the attempt is over: a thread, which cannot be cancelled, ends by that.
        """
        if self._runtime is None:
            raise NotHere("heartbeat() works inside a step, while its attempt executes")
        self._runtime.heartbeat(details)


def current_attempt() -> CurrentAttempt:
    """Of the step that calls. Raises NotHere."""
    attempt = None if runtime.in_run() else runtime.current_attempt.get()
    if attempt is None:
        raise NotHere("step.current() works inside a step; in run() there is no attempt to tell of")
    return CurrentAttempt(
        attempt.name,
        attempt.attempt,
        attempt.deadline,
        attempt.idempotency_key,
        attempt.last_heartbeat,
        attempt,
    )
