"""Exceptions that tenant code raises or catches."""

from __future__ import annotations


class NonRetryableError(Exception):
    """Raise it in a step to fail the step at once, whatever its retry policy allows."""


class StepFailed(Exception):
    """What `run()` sees when a step has failed for good: retries are used up, or the error is not retryable.

    The original exception stays where it was raised; here are its facts: `error_type` (qualified name), `error_message`
    and `error_traceback` (text). `step` is the step's path ("charge#1"), `attempts` how often it was tried.
    """

    def __init__(
        self, step: str, attempts: int, error_type: str, error_message: str, error_traceback: str = ""
    ) -> None:
        super().__init__(step, attempts, error_type, error_message)
        self.step = step
        self.attempts = attempts
        self.error_type = error_type
        self.error_message = error_message
        self.error_traceback = error_traceback

    def __str__(self) -> str:
        times = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        message = f": {self.error_message}" if self.error_message else ""
        return f'step "{self.step}" failed after {times}: {self.error_type}{message}'


class StepTimeout(StepFailed):
    """A StepFailed whose last attempt ran longer than the step's `timeout`."""


class HeartbeatTimeout(StepTimeout):
    """A StepTimeout whose last attempt sent no heartbeat for longer than the step's `heartbeat`."""


class EventTimeout(Exception):
    """`wait_for_event` saw no event of its `type` before its timeout. `step` is the wait's path."""

    def __init__(self, step: str, type: str) -> None:
        super().__init__(step, type)
        self.step = step
        self.type = type

    def __str__(self) -> str:
        return f'wait "{self.step}" ended without an event of type {self.type!r}'


class NotHere(RuntimeError):
    """The call is not possible at this place: its message says where it is, and what to write instead."""


class FacetBusy(Exception):
    """Another step of this instance holds the facet. Retryable; `async with self.facet.exclusive():` waits instead."""
