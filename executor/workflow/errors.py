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


class ChildFailed(StepFailed):
    """What `step.call` and `step.start` raise when the child did not come to a result.

    `child_id` is its instance id; `state` says how it ended: "failed", "terminated", or "refused" (it was not started);
    then `error_code` says why: "unknown_workflow", "instance_exists", "singleton_exists".
    """

    def __init__(  # noqa: PLR0917  # its arguments are its facts, as for StepFailed
        self,
        step: str,
        child_id: str,
        state: str,
        error_type: str,
        error_message: str,
        error_traceback: str = "",
        error_code: str = "",
    ) -> None:
        super().__init__(step, 1, error_type, error_message, error_traceback)
        self.args = (step, child_id, state, error_type, error_message)
        self.child_id = child_id
        self.state = state
        self.error_code = error_code

    def __str__(self) -> str:
        if self.state == "terminated":
            return f'child "{self.child_id}" of step "{self.step}" was terminated'
        how = "was refused" if self.state == "refused" else "failed"
        message = f": {self.error_message}" if self.error_message else ""
        return f'child "{self.child_id}" of step "{self.step}" {how}: {self.error_type}{message}'


class PollTimeout(Exception):
    """`step.poll` had no good result before its timeout. `step` is its path, `count` how many results it had, and
    `result` the last of them."""

    def __init__(self, step: str, count: int, result: object) -> None:
        super().__init__(step, count, result)
        self.step = step
        self.count = count
        self.result = result

    def __str__(self) -> str:
        return f'poll "{self.step}" had no good result before its timeout; it had {self.count}'


class InstanceFailed(Exception):
    """Why an instance failed, as an undo function is told: the facts of the exception that `run()` raised."""

    def __init__(self, error_type: str, error_message: str, error_traceback: str = "") -> None:
        super().__init__(error_type, error_message)
        self.error_type = error_type
        self.error_message = error_message
        self.error_traceback = error_traceback

    def __str__(self) -> str:
        return f"{self.error_type}: {self.error_message}" if self.error_message else self.error_type


class ContinueAsNew(BaseException):
    """What `self.continue_as_new(payload)` raises: the execution ends here. Not for handlers of errors to catch."""

    def __init__(self, payload: bytes) -> None:
        super().__init__("run() continues as new")
        self.payload = payload


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
