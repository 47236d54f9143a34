"""Undo: steps with `undo=` that have succeeded are undone, the latest asked first, one after the other.

What can be undone is known by entries: a step counts from its StepSucceeded on, also if the run had given it up by
then. The phase begins with the entry Undoing; each undo is a step of its own, at "undo/<path>", and a failed one does
not stop the others.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from executor.core import entries
from executor.core.commands import Undone
from executor.core.failure import ErrorFact
from executor.core.replay import UNDO, Replay
from executor.sandbox.outcomes import value_of
from executor.sandbox.run_state import Pending
from executor.sandbox.step_calls import NO_KEYWORDS, StepCall
from executor.workflow import InstanceFailed
from executor.workflow.options import StepOptions


class _Undoable(msgspec.Struct, eq=False):
    """`succeeded` is None until the step's entry is seen; `is_reported`: it is under way."""

    call: StepCall
    succeeded: entries.StepSucceeded | None = None
    is_reported: bool = False


class _Run(Protocol):
    _replay: Replay

    def _add(self, pending: Pending) -> None: ...


class Undos:
    """What one run can undo, and the undoing."""

    __slots__ = ("_error", "_failed", "_left", "_steps", "is_begun")

    def __init__(self) -> None:
        self._steps: dict[str, _Undoable] = {}
        self._left: list[_Undoable] = []
        self._failed: list[str] = []
        self._error: InstanceFailed | None = None
        self.is_begun = False

    def register(self, call: StepCall) -> None:
        """The step is asked for."""
        self._steps[call.path] = _Undoable(call)

    def renew_keys(self, seed: bytes) -> None:
        """They were undone: what is done from now on is something else."""
        for step in self._steps.values():
            step.call.key_seed = seed

    def reported(self, path: str) -> None:
        """An attempt has succeeded; the entry that says so comes next."""
        step = self._steps.get(path)
        if step is not None:
            step.is_reported = True

    def succeeded(self, entry: entries.StepSucceeded) -> None:
        """The entry of a step was seen."""
        step = self._steps.get(entry.path)
        if step is not None:
            step.succeeded = entry

    @property
    def has_work(self) -> bool:
        """Something is to be undone if the run fails now."""
        return any(step.succeeded is not None or step.is_reported for step in self._steps.values())

    def begin(self, run: _Run, error: ErrorFact | None) -> Undone | None:
        """The phase begins. Undone: there is nothing to undo."""
        self.is_begun = True
        self._error = None if error is None else InstanceFailed(error.type, error.message, error.traceback)
        self._left = [step for step in self._steps.values() if step.succeeded is not None]
        return self._next(run)

    def ended(self, run: _Run, pending: Pending, outcome: object) -> Undone | None:
        """One undo has its outcome. Undone: it was the last."""
        if isinstance(outcome, entries.StepFailed):
            self._failed.append(pending.request.path.removeprefix(UNDO))
        return self._next(run)

    def _next(self, run: _Run) -> Undone | None:
        while self._left:
            step = self._left.pop()
            call, entry, undo = step.call, step.succeeded, step.call.options.undo
            assert entry is not None
            assert undo is not None
            request = run._replay.request_undo(call.path, call.where)
            pending = Pending(request, outlives=True)
            pending.call = StepCall(
                request.path,
                call.name,
                request.asked,
                call.where,
                undo.function,
                (value_of(entry, call.function), self._error),
                NO_KEYWORDS,
                StepOptions(retry=undo.retry, timeout_ms=undo.timeout_ms, is_sensitive=call.options.is_sensitive),
                call.context,
                call.key_seed,
            )
            run._add(pending)
            return None
        return Undone(self._failed)
