"""How much one instance may have: replay, memory and the work on its behalf are in proportion to it.

Numbers only: what is over one of them is refused where it comes in (`limit_exceeded`), or holds the instance.
"""

from dataclasses import dataclass

MIB = 1024 * 1024

STEP_COUNT_MAX = 25_000
"""Steps of one execution, unless the platform is configured otherwise; an instance that asks for more is held."""
JOURNAL_ENTRIES_MAX = 200_000
"""Entries of one execution, in which each step has two, and traces come on top: a loop without end must not fill the
disk."""
JOURNAL_BYTES_MAX = 64 * MIB
"""Of one execution, unless the platform is configured otherwise."""
HISTORY_KEPT_BYTES = 64 * MIB
"""Of executions before the present one, stored: the newest, for readers; unless configured otherwise."""
HISTORY_ENTRIES_MAX = 16_000_000
"""Of all executions of an instance together: the store numbers no more."""
HISTORY_BYTES_MAX = 128 * MIB
"""Of what one execution and the restarts in it have: it is read as a whole."""
RESIDENT_BYTES_MAX = 1024 * MIB
"""Of long journals of all instances that have runs, unless the platform is configured otherwise."""
WARN_AT = 0.8
"""From this part of a limit on the status carries a warning."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one execution may have: the part that the platform may be configured to."""

    steps: int = STEP_COUNT_MAX
    journal_entries: int = JOURNAL_ENTRIES_MAX
    journal_bytes: int = JOURNAL_BYTES_MAX


OPEN_MAX = 10_000
"""Steps, sleeps, waits, children, groups and updates that have begun and not ended: each commit looks at them."""
STREAMS_MAX = 1_000
"""Output streams of an instance."""
UNREAD_EVENTS_MAX = 10_000
UNREAD_BYTES_MAX = 16 * MIB
"""Events that nobody has read, and their payloads."""
MATCH_BYTES_MAX = 16 * 1024
"""What a wait asks an event's payload for."""
MATCHES_BYTES_MAX = 512 * 1024
"""Matches of the open waits of an instance, small ones apart: an event is held against all of them at once."""
RESTART_LOOKED_BYTES_MAX = 16 * MIB
"""What the waits that stand again after a restart may look through of the events that were kept, in one call."""
LOOKED_BYTES_MAX = 1024 * MIB
"""Payloads of unread events that the waits with a match of one activation look through."""
EVENT_IDS_KEPT_MAX = 10_000
"""Ids of events of earlier executions that are known: the newest, and those of unread ones."""
UPDATES_CARRIED_MAX = 100
UPDATES_CARRIED_BYTES = 64 * 1024
"""Answers to updates that a new execution still knows, and their size: the newest."""
UPDATES_OPEN_MAX = 1_000
"""Accepted updates that have not ended."""
UPDATES_KEPT_MAX = 10_000
"""Updates that are known by their id: the latest."""
RESTARTS_MAX = 100
"""Restarts from a step that keep what earlier ones left; one from the first line forgets them."""
DEPTH_MAX = 100
"""Instances above a child, from one that no instance started."""
