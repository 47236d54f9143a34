"""Times, as people read them."""

from __future__ import annotations

import datetime as dt


def format_ms(at_ms: int) -> str:
    """RFC 3339 in UTC, to the millisecond."""

    moment = dt.datetime.fromtimestamp(at_ms / 1000, tz=dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
