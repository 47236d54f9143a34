"""Durations as tenants write them: "10 seconds", "1 day", "500 ms", a number of seconds, or a timedelta."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import TypeAlias

Duration: TypeAlias = str | int | float | timedelta

DURATION_MS_MAX = 100 * 366 * 86_400_000
"""A century: longer is a slip of units, and sums of it with the clock still fit every integer field."""

_UNIT_MS: dict[str, int] = {
    unit: milliseconds
    for units, milliseconds in (
        (("ms", "msec", "millisecond", "milliseconds"), 1),
        (("s", "sec", "secs", "second", "seconds"), 1_000),
        (("min", "mins", "minute", "minutes"), 60_000),
        (("h", "hr", "hrs", "hour", "hours"), 3_600_000),
        (("d", "day", "days"), 86_400_000),
        (("w", "week", "weeks"), 604_800_000),
    )
    for unit in units
}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_WHOLE = re.compile(r"\d+(?:\.\d+)?\s*[a-z]+(?:[\s,]*(?:and\s+)?\d+(?:\.\d+)?\s*[a-z]+)*")
_EXAMPLES = '"10 seconds", "1 day", "1 hour 30 minutes", 2.5 (seconds) or a timedelta'


def duration_ms(value: Duration, *, of: str = "duration") -> int:
    """Milliseconds, rounded, at least 1 for anything above zero.

    Raises TypeError or ValueError; `of` says in the message which argument it was.
    """
    if isinstance(value, str):
        exact = _text_ms(value, of)
    elif isinstance(value, timedelta):
        exact = value / timedelta(milliseconds=1)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{of} is of type {type(value).__name__}; write {_EXAMPLES}")
    else:
        exact = float(value) * 1_000
    if not math.isfinite(exact) or exact < 0:
        raise ValueError(f"{of} is {value!r}; it must be finite and not negative")
    if exact > DURATION_MS_MAX:
        raise ValueError(f"{of} is {value!r}, which is more than 100 years")
    return max(round(exact), 1) if exact > 0 else 0


def _text_ms(text: str, of: str) -> float:
    lowered = text.strip().lower()
    if _WHOLE.fullmatch(lowered) is None:
        raise ValueError(f"{of} is {text!r}, which is not a duration; write {_EXAMPLES}")
    total = 0.0
    for number, unit in _PART.findall(lowered):
        scale = _UNIT_MS.get(unit)
        if scale is None:
            known = "ms, seconds, minutes, hours, days and weeks"
            raise ValueError(f"{of} is {text!r}: {unit!r} is not a unit; units are {known}")
        total += float(number) * scale
    return total
