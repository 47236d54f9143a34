"""Options that a caller names for a start, checked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from executor.core import attributes
from executor.core.entries import StartOptions
from executor.core.errors import Refused
from executor.views import StartRequest
from executor.workflow.durations import duration_ms
from executor.workflow.flow import PRIORITY_MAX

NO_OPTIONS = StartOptions()


def check(request: StartRequest, now_ms: int) -> StartOptions | None:
    """The options that a request names, None if it names none. Raises Refused (`bad_request`) naming the option."""
    start_at_ms = _start_at_ms(request, now_ms)
    priority = 0 if request.priority is None else request.priority
    if not -PRIORITY_MAX <= priority <= PRIORITY_MAX:
        raise Refused(f"priority is {priority}, not between -{PRIORITY_MAX} and {PRIORITY_MAX}", code="bad_request")
    retention = _retention_ms(request.retention or {})
    options = StartOptions(
        start_at_ms=start_at_ms,
        attributes=attributes.encode(request.attributes or {}),
        priority=priority,
        unload=request.unload or "",
        retain_complete_ms=retention.get("complete"),
        retain_failed_ms=retention.get("failed"),
    )
    return None if options == NO_OPTIONS else options


def _start_at_ms(request: StartRequest, now_ms: int) -> int | None:
    if request.at is not None:
        if request.delay is not None:
            raise Refused("delay and at are both given", code="bad_request", hint="Give one of them.")
        at_ms = _utc_ms(request.at)
        return at_ms if at_ms > now_ms else None
    if request.delay is None:
        return None
    delay_ms = _duration_ms(request.delay, "delay")
    return now_ms + delay_ms if delay_ms else None


def _utc_ms(at: datetime) -> int:
    if at.tzinfo is None or at.utcoffset() is None:
        raise Refused("at has no time zone", code="bad_request", hint="Write datetime.now(UTC), or .astimezone().")
    return round(at.timestamp() * 1000)


def _retention_ms(retention: Mapping[str, str | float]) -> dict[str, int]:
    for name in retention:
        if name not in ("complete", "failed"):
            raise Refused(
                f'retention has "{name[:40]}"; it takes "complete", and "failed" for failed and terminated instances',
                code="bad_request",
            )
    return {name: _duration_ms(value, f"retention {name}") for name, value in retention.items()}


def _duration_ms(value: str | float, what: str) -> int:
    try:
        return duration_ms(value, of=what)
    except (TypeError, ValueError) as wrong:
        raise Refused(str(wrong), code="bad_request") from None
