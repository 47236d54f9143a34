"""What a test fails with. All are AssertionErrors: a test runner shows them as failures, not as errors of its own."""

from __future__ import annotations

from executor.core.entries import StepRef
from executor.workflow import NonRetryableError


class WorkflowFailure(AssertionError):
    """The workflow did not do what the test needs of it."""


class Nondeterminism(WorkflowFailure):
    """A replay asked for something else than the run before it had.

    `recorded` is what the journal has, `requested` what the code asks for now; either may be None: nothing.
    """

    def __init__(self, message: str, recorded: StepRef | None, requested: StepRef | None) -> None:
        super().__init__(message)
        self.recorded = recorded
        self.requested = requested


class NeverEnds(WorkflowFailure):
    """However far the clock is moved, the run does not get there; the message says what it waits for."""


class StepStuck(WorkflowFailure):
    """A step executed for longer, in real time, than the test's `patience_s`."""


class NotMocked(WorkflowFailure, NonRetryableError):
    """With `only_mocks=True`: a step was about to execute for real."""
