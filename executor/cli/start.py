"""`perdure start`: make an instance."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from cyclopts import Parameter

from executor.cli.app import app
from executor.cli.arguments import Payload, attribute_of, payload_of
from executor.cli.common import Of, show, show_value, tables


@app.command
def start(
    workflow: str,
    payload: Payload = "null",
    *,
    id: str | None = None,
    channel: str = "live",
    commit: str | None = None,
    delay: str | None = None,
    at: datetime | None = None,
    attribute: tuple[str, ...] = (),
    priority: int | None = None,
    keep_complete: str | None = None,
    keep_failed: str | None = None,
    unload: Literal["every-wait"] | None = None,
    wait: Annotated[bool, Parameter(negative="")] = False,
    timeout: float | None = None,
    of: Of,
) -> None:
    """Start an instance of WORKFLOW.

    Parameters
    ----------
    payload
        JSON; @FILE reads a file, - reads standard input.
    id
        The instance's id. Default: a new one. The same id and payload again is the same instance.
    commit
        Pin this commit instead of the channel's.
    delay
        Begin after this: "1 hour".
    at
        Begin then: 2030-01-31T06:00:00+00:00; without a zone it is this machine's.
    attribute
        A search attribute, NAME=VALUE; VALUE is JSON, or text as it is. May be repeated.
    priority
        -100 to 100; higher goes first among the tenant's own.
    keep_complete, keep_failed
        How long it is kept once it has ended: "30 days".
    unload
        every-wait drops its run at every wait.
    wait
        Wait for the result and print it.
    timeout
        Longest wait, in seconds.
    """
    value = payload_of(payload)
    with of.connect() as platform:
        run = platform.tenant(of.tenant).start(
            workflow,
            value,
            id=id,
            channel=channel,
            commit=commit,
            delay=delay,
            at=None if at is None else at.astimezone() if at.tzinfo is None else at,
            attributes=dict(map(attribute_of, attribute)) or None,
            priority=priority,
            retention=_given(complete=keep_complete, failed=keep_failed),
            unload=unload,
        )
        if wait:
            show_value(of, run.result(timeout=timeout))
            return
        found = run.status()
    show(of, found, tables().status)


def _given(**values: str | None) -> dict[str, str] | None:
    return {name: value for name, value in values.items() if value is not None} or None
