"""Wall-clock times of cron texts as real time.

Cron fields are those of Debian's cron, read by cronsim on wall-clock times without a zone. What a wall-clock time is in
real time is decided here, by Debian's two rules:

  fixed     minute and hour do not begin with `*` ("0 6 * * *"). A time that the clocks skip fires at the first moment
            after the gap; one that they show twice fires the first time only. So each day has as many as it should.
  frequent  minute or hour begins with `*` ("*/15 * * * *"). Fires whenever the clock on the wall shows a time that
            fits: not in a gap, and again in an hour that comes again. So there is no hour without.

Moments are seconds since the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - wall-clock arithmetic
_DAY_S = 86_400


def next_s(cron: str, zone: ZoneInfo, after: int) -> int | None:
    """The first moment after `after` at which `cron`, five fields that cronsim takes, fires; None: not in 50 years.

    Raises OverflowError or ValueError beyond the year 9999.
    """
    minute, hour = cron.split(" ")[:2]
    if minute.startswith("*") or hour.startswith("*"):
        return _next_frequent(cron, zone, after)
    return _next_fixed(cron, zone, after)


def _next_fixed(cron: str, zone: ZoneInfo, after: int) -> int | None:
    # In an hour that comes again, or at the end of a gap, some wall-clock times ahead are real times that have been.
    for wall in CronSim(cron, EPOCH + timedelta(seconds=after + _offset(zone, after))):
        first = wall.replace(tzinfo=zone, fold=0)
        second = wall.replace(tzinfo=zone, fold=1)
        early, late = int(first.timestamp()), int(second.timestamp())
        # In a gap the two are the wrong way round: by the clocks before it, and by those after it.
        found = early if early <= late else _transition(zone, late, early)
        if found is not None and found > after:
            return found
    return None


def _next_frequent(cron: str, zone: ZoneInfo, after: int) -> int | None:
    since, offset = after, _offset(zone, after)
    while True:
        wall = next(CronSim(cron, EPOCH + timedelta(seconds=after + offset)), None)
        if wall is None:
            return None
        found = int((wall - EPOCH).total_seconds()) - offset
        change = _transition(zone, since, found)
        if change is None:
            return found
        # From then on the clocks go otherwise: look again by the new ones, beginning with that very second.
        after, since, offset = change - 1, change, _offset(zone, change)


def _offset(zone: ZoneInfo, at: int) -> int:
    """Seconds that the clocks of `zone` are ahead of UTC at the moment `at`."""
    offset = datetime.fromtimestamp(at, zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())


def _transition(zone: ZoneInfo, after: int, until: int) -> int | None:
    """The first moment in (after, until] at which the clocks have changed. Changes are more than a week apart."""
    if zone.key == "UTC":
        return None
    offset = _offset(zone, after)
    while after < until:
        end = min(after + 7 * _DAY_S, until)
        if _offset(zone, end) != offset:
            return least(lambda at: _offset(zone, at) != offset, after, end)
        after = end
    return None


def least(holds: Callable[[int], bool], no: int, yes: int) -> int:
    """The least number for which it holds, of those above `no`, where it does not, and up to `yes`, where it does."""
    while yes - no > 1:
        middle = (no + yes) // 2
        if holds(middle):
            yes = middle
        else:
            no = middle
    return yes
