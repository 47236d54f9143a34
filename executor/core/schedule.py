"""Schedules: a description in, the times at which it fires out. Pure: the present is an argument.

A time is an integer of milliseconds since the Unix epoch. Times of one schedule are strictly increasing, whatever the
clocks do: see `core.wall_clock`.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError

from executor.core.errors import Refused
from executor.core.wall_clock import EPOCH, least, next_s
from executor.workflow.durations import duration_ms

Overlap = Literal["skip", "queue", "cancel", "allow"]
CatchUp = Literal["none", "last", "all"]

CRON_CHARS_MAX = 200
EVERY_MS_MIN = 1_000
LATE_MS = 60_000
"""A firing that comes later than this (and the jitter) was missed: what becomes of it is the catch-up policy's."""
CATCH_UP_ALL_MS = 86_400_000
"""How far `catch_up="all"` reaches back unless told; without a bound a year of minutes would come at once."""
PLAN_MAX = 100
"""Firings planned at once; the rest follows in the next plan."""

DECLARED_MAX = 50

_DAY_S = 86_400
_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_ZONE = re.compile(r"(?!posix/|right/|localtime$|posixrules$)[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}")


class ScheduleSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When and how a schedule fires; made by `parse_spec`. One of `cron` and `every_ms` is set.

    `start_ms`: not before; `end_ms`: before it. An interval counts from `start_ms`, else from the epoch.
    `catch_up_window_ms` None: a day for "all", however long for "last".
    """

    cron: str | None = None
    every_ms: int | None = None
    timezone: str = "UTC"
    start_ms: int | None = None
    end_ms: int | None = None
    overlap: Overlap = "skip"
    catch_up: CatchUp = "last"
    catch_up_window_ms: int | None = None
    jitter_ms: int = 0


class Plan(msgspec.Struct, frozen=True):
    """What is to be done about the times behind one moment and up to another.

    `fire`: these, in order. `missed`: first and last of those that are not fired. `cursor_ms`: the time up to which
    nothing is left to decide.
    """

    fire: tuple[int, ...]
    missed: tuple[int, int] | None
    cursor_ms: int


# --- reading a description


def parse_spec(
    *,
    cron: str | None = None,
    every: Any = None,
    timezone: str = "UTC",
    start: str | None = None,
    end: str | None = None,
    overlap: str = "skip",
    catch_up: str = "last",
    catch_up_window: Any = None,
    jitter: Any = 0,
) -> ScheduleSpec:
    """A schedule that fires at least once in the next 50 years after its start. Raises Refused (`bad_request`)."""
    if (cron is None) == (every is None):
        raise _bad("needs either cron or every", 'Write cron="0 6 * * *" or every="10 minutes".')
    _zone(timezone)
    spec = ScheduleSpec(
        cron=None if cron is None else _cron(cron),
        every_ms=None if every is None else _duration(every, "every", least_ms=EVERY_MS_MIN),
        timezone=timezone,
        start_ms=_moment(start, "start", timezone),
        end_ms=_moment(end, "end", timezone),
        overlap=_choice(overlap, "overlap", Overlap),
        catch_up=_choice(catch_up, "catch_up", CatchUp),
        catch_up_window_ms=None if catch_up_window is None else _duration(catch_up_window, "catch_up_window"),
        jitter_ms=_duration(jitter, "jitter"),
    )
    if spec.jitter_ms > _DAY_S * 1000:
        raise _bad(f"has a jitter of {spec.jitter_ms} ms", "A day is the most.")
    first = next_ms(spec, (spec.start_ms or 0) - 1)
    if first is None:
        what = f'cron "{spec.cron}"' if spec.cron is not None else f"every {spec.every_ms} ms"
        bounds = " before its end" if spec.end_ms is not None else ""
        raise _bad(f"never fires{bounds}: {what}", "Check day and month, start and end.")
    return spec


def parse_declared(value: Any) -> tuple[ScheduleSpec, Any]:
    """What a workflow's class attribute says (a cron text, or the arguments of Schedule): the schedule, its payload.

    Raises Refused (`bad_request`)."""
    if isinstance(value, str):
        return parse_spec(cron=value), None
    if not isinstance(value, dict):
        raise _bad(f"is {value!r:.80}", 'Write "0 6 * * *" or Schedule(…).')
    arguments = dict(value)
    payload = arguments.pop("payload", None)
    unknown = sorted(arguments.keys() - _ARGUMENTS)
    if unknown:
        raise _bad(f"has no argument {unknown[0]!r:.80}", f"Arguments are {', '.join(sorted(_ARGUMENTS))}, payload.")
    for name in ("cron", "timezone", "start", "end", "overlap", "catch_up"):
        if not isinstance(arguments.get(name, ""), str | None):
            raise _bad(f"has {name}={arguments[name]!r:.80}", "Write a text.")
    return parse_spec(**{name: argument for name, argument in arguments.items() if argument is not None}), payload


def parse_declarations(value: Any) -> list[tuple[ScheduleSpec, Any]]:
    """All schedules that the class attribute `schedule` declares, one or a list, as `parse_declared` reads each."""
    found = value if isinstance(value, list) else [value]
    if len(found) > DECLARED_MAX:
        raise _bad(f"is one of {len(found)} of the same workflow", f"The limit is {DECLARED_MAX}.")
    return [parse_declared(one) for one in found]


_ARGUMENTS = {"cron", "every", "timezone", "start", "end", "overlap", "catch_up", "catch_up_window", "jitter"}


def _bad(what: str, hint: str) -> Refused:
    return Refused(f"the schedule {what}", code="bad_request", hint=hint)


def _cron(text: str) -> str:
    fields = _NICKNAMES.get(text.strip().lower(), text).split()
    if len(text) > CRON_CHARS_MAX or len(fields) != 5:
        raise _bad(
            f'has cron "{text[:80]}", which is not five fields', 'Minute, hour, day, month, weekday: "0 6 * * 1-5".'
        )
    try:
        CronSim(" ".join(fields), EPOCH)
    except (CronSimError, AssertionError, TypeError, ValueError) as error:
        # Some texts that are no cron fields end the library's parser with an error of another kind.
        reason = str(error) if isinstance(error, CronSimError) else "it cannot be read"
        hint = "That day is in none of these months." if reason == "Bad day-of-month" and _is_day(fields[2]) else None
        raise _bad(f'has cron "{text[:80]}": {reason}', hint or "Fields are those of Debian's cron.") from None
    return " ".join(fields)


def _is_day(field: str) -> bool:
    return field.isascii() and field.isdigit() and 1 <= int(field[:3]) <= 31


@lru_cache(maxsize=1_000)
def _zone(name: str) -> ZoneInfo:
    try:
        if _ZONE.fullmatch(name):
            return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        pass
    raise _bad(f'has timezone "{name[:80]}", which is not known', 'Names are as "Europe/Berlin"; see the IANA list.')


def _duration(value: Any, name: str, *, least_ms: int = 0) -> int:
    try:
        found = duration_ms(value, of=name)
    except (TypeError, ValueError) as error:
        raise _bad(f"is wrong: {error}", 'Durations are as "10 minutes".') from None
    if found < least_ms:
        raise _bad(f"has {name} of {found} ms", f"The least is {least_ms} ms.")
    return found


def _moment(text: str | None, name: str, timezone: str) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=_zone(timezone))
        return round(aware.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise _bad(f'has {name} "{text[:80]}", which is no date', 'Dates are ISO 8601: "2027-01-31T06:00".') from None


def _choice(value: str, name: str, choices: Any) -> Any:
    if value not in get_args(choices):
        known = ", ".join(get_args(choices))
        raise _bad(f"has {name}={value[:40]!r}", f"It is one of {known}.")
    return value


# --- times


def next_ms(spec: ScheduleSpec, after_ms: int) -> int | None:
    """The first time after `after_ms`. None: there is none, or none within 50 years."""
    after_ms = after_ms if spec.start_ms is None else max(after_ms, spec.start_ms - 1)
    if spec.every_ms is not None:
        anchor = spec.start_ms or 0
        found: int | None = anchor + ((after_ms - anchor) // spec.every_ms + 1) * spec.every_ms
    else:
        assert spec.cron is not None, "a schedule has cron or every"
        try:
            second = next_s(spec.cron, _zone(spec.timezone), after_ms // 1000)
        except (OverflowError, ValueError):  # beyond the year 9999
            second = None
        found = None if second is None else second * 1000
    return None if found is None or (spec.end_ms is not None and found >= spec.end_ms) else found


def upcoming(spec: ScheduleSpec, after_ms: int, count: int) -> list[int]:
    """The next `count` times, fewer if there are no more."""
    found: list[int] = []
    at: int | None = after_ms
    while len(found) < count:
        at = next_ms(spec, after_ms if at is None else at)
        if at is None:
            break
        found.append(at)
    return found


# --- what is due


def jitter_ms(spec: ScheduleSpec, name: str, at_ms: int) -> int:
    """How much later than `at_ms` it is fired: from 0 to the schedule's jitter, always the same for the same time."""
    if not spec.jitter_ms:
        return 0
    digest = hashlib.sha256(f"jitter\0{name}\0{at_ms}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (spec.jitter_ms + 1)


def due_ms(spec: ScheduleSpec, name: str, after_ms: int) -> int | None:
    """When the first time after `after_ms` is fired."""
    at = next_ms(spec, after_ms)
    return None if at is None else at + jitter_ms(spec, name, at)


def plan(spec: ScheduleSpec, name: str, cursor_ms: int, now_ms: int) -> Plan:
    """What to do about the times after `cursor_ms` that are due by `now_ms`; see `Plan`. A clock that was set back
    behind the cursor gives an empty plan: no time comes twice."""
    late_ms = now_ms - LATE_MS - spec.jitter_ms
    punctual: list[int] = []
    at = next_ms(spec, max(cursor_ms, late_ms))
    while at is not None and at + jitter_ms(spec, name, at) <= now_ms and len(punctual) < PLAN_MAX:
        punctual.append(at)
        at = next_ms(spec, at)
    first = next_ms(spec, cursor_ms)
    if first is None or first > late_ms:
        return Plan(tuple(punctual), None, punctual[-1] if punctual else cursor_ms)
    newest = _newest(spec, cursor_ms, late_ms)
    if spec.catch_up == "all":
        window = CATCH_UP_ALL_MS if spec.catch_up_window_ms is None else spec.catch_up_window_ms
        behind = max(cursor_ms, now_ms - window - 1)
        caught = _up_to(spec, behind, late_ms)
        missed = (first, _newest(spec, cursor_ms, behind)) if first <= behind else None
        # With a full portion of late ones, those in time are left to the next plan: order is kept.
        fire = caught if len(caught) == PLAN_MAX else caught + punctual
        return Plan(tuple(fire), missed, (fire or [newest])[-1])
    window = now_ms if spec.catch_up_window_ms is None else spec.catch_up_window_ms
    is_wanted = spec.catch_up == "last" and not punctual and now_ms - newest <= window
    fire = [newest] if is_wanted else punctual
    if not is_wanted:
        return Plan(tuple(fire), (first, newest), max([newest, *punctual]))
    return Plan(tuple(fire), (first, _newest(spec, cursor_ms, newest - 1)) if first < newest else None, newest)


def _up_to(spec: ScheduleSpec, after_ms: int, until_ms: int) -> list[int]:
    """The times in (after, until], the first of them if they are very many."""
    found: list[int] = []
    at = next_ms(spec, after_ms)
    while at is not None and at <= until_ms and len(found) < PLAN_MAX:
        found.append(at)
        at = next_ms(spec, at)
    return found


def _newest(spec: ScheduleSpec, after_ms: int, until_ms: int) -> int:
    """The newest time in (after, until], where there is one."""

    def none_follows(at_ms: int) -> bool:
        following = next_ms(spec, at_ms)
        return following is None or following > until_ms

    return least(none_follows, after_ms, until_ms)


# --- names


def declared_name(workflow: str, position: int) -> str:
    """The name of a schedule that a workflow's class declares, the `position`-th (from 1). Nobody can give such a name
    to another schedule."""
    return f"{workflow}:{position}"


def instance_id(name: str, at_ms: int) -> str:
    """The id of the instance that the schedule `name` starts for the time `at_ms`: always the same."""
    shown = re.sub(r"[^A-Za-z0-9_.+-]", "-", name)[:50]
    moment = (datetime.fromtimestamp(at_ms // 1000, UTC)).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(f"{name}\0{at_ms}".encode()).hexdigest()[:12]
    return f"{shown if shown[0].isalnum() or shown[0] == '_' else 's' + shown}-{moment}-{digest}"
