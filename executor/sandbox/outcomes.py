"""What an entry means to the code that waits for it: a value or an exception."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from executor.core import entries, values
from executor.core.errors import PerdureError
from executor.core.replay import Request, TimedOut
from executor.sandbox import faults
from executor.sandbox.step_calls import declared_result
from executor.sandbox.step_streams import blob_of
from executor.workflow import ChildFailed, ChildHandle, EventTimeout, ReceivedEvent, StepFailed


def settle(future: asyncio.Future[Any], request: Request, what: Any, outcome: object) -> None:
    """Give `future` its outcome. `what`: the step's function, or the command of anything else."""
    if isinstance(outcome, entries.StepSucceeded):  # the rule, so without a further call
        try:
            if outcome.form == "stream":
                future.set_result(blob_of(outcome.value))
            else:
                future.set_result(values.decode(outcome.value, declared=declared_result(what), what="result"))
        except PerdureError as error:
            future.set_exception(error)
    elif isinstance(outcome, entries.StepFailed):
        future.set_exception(_step_failed(outcome))
    elif isinstance(outcome, TimedOut):
        future.set_exception(EventTimeout(request.path, what.type))
    elif isinstance(outcome, entries.EventReceived):
        payload = values.decode(outcome.payload, what="payload")
        future.set_result(ReceivedEvent(payload, outcome.type, outcome.id, moment(outcome.at_ms)))
    elif isinstance(outcome, entries.ChildStarted):
        future.set_result(ChildHandle(request.child or "", what.workflow, outcome.commit))
    elif isinstance(outcome, entries.ChildEnded):
        if outcome.value is not None:
            future.set_result(outcome.value)  # decoded by whoever asked: it knows the declared type
        else:
            future.set_exception(_child_failed(outcome, request))
    else:
        future.set_result(None)


def value_of(entry: entries.StepSucceeded, function: Callable[..., Any]) -> Any:
    """What a step returned. Raises Refused."""
    if entry.form == "stream":
        return blob_of(entry.value)
    return values.decode(entry.value, declared=declared_result(function), what="result")


def moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _step_failed(entry: entries.StepFailed) -> StepFailed:
    error = entry.error
    kind = faults.TIMEOUTS.get(error.type, StepFailed)
    return kind(entry.path, entry.attempt, error.type, error.message, error.traceback)


def _child_failed(entry: entries.ChildEnded, request: Request) -> ChildFailed:
    error = entry.error
    if error is None:
        return ChildFailed(entry.path, request.child or "", entry.state, "", "")
    return ChildFailed(
        entry.path, request.child or "", entry.state, error.type, error.message, error.traceback, error.code
    )
