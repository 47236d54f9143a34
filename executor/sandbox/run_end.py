"""How `run()` ended, as the command that says so."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Sequence
from typing import Any

from executor.core import values
from executor.core.commands import Complete, Continue, Fail
from executor.core.failure import ErrorFact
from executor.sandbox import faults
from executor.workflow import ContinueAsNew


def how_it_ended(
    task: asyncio.Task[Any],
    forgotten: Sequence[tuple[object, str, str]],
    files: Container[str],
    *,
    result_type: Any,
    bytes_max: int,
) -> Complete | Fail | Continue:
    """`forgotten`: coroutines of steps, with name and place, that were never awaited."""
    if task.cancelled():
        return Fail(faults.fact(asyncio.CancelledError("run() cancelled itself"), files, code="workflow_failed"))
    raised = task.exception()
    if raised is not None:
        continued = _continuation(raised)
        if continued is not None:
            return Continue(continued.payload)
        return Fail(faults.fact(raised, files, code="workflow_failed"))
    if forgotten:
        _, name, where = forgotten[0]
        more = f" (and {len(forgotten) - 1} more)" if len(forgotten) > 1 else ""
        message = f"{name!r} at {where}{more} was called but never awaited, so it did not happen; write `await step.…`"
        return Fail(ErrorFact("NeverAwaited", message, where, retryable=False))
    try:
        return Complete(values.encode(task.result(), what="result", declared=result_type, bytes_max=bytes_max))
    except BaseException as error:  # refused, or hostile to be read: the value's methods are tenant code
        return Fail(faults.fact(error, files, code="workflow_failed"))


def _continuation(raised: BaseException) -> ContinueAsNew | None:
    """A TaskGroup wraps what one of its tasks raises."""
    while isinstance(raised, BaseExceptionGroup) and len(raised.exceptions) == 1:
        raised = raised.exceptions[0]
    return raised if isinstance(raised, ContinueAsNew) else None
