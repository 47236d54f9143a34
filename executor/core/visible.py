"""Visible: which entries of a journal the run replays.

All of them, but for traces of how it was executed, and for what a new execution left behind: after Continued only that
entry, what follows it and the events that nobody had read; after Restarted what came before the step it goes back to,
the events since, and what follows. The places in the journal stay what they are: the run is told how many it skips.
"""

from __future__ import annotations

from collections.abc import Sequence

from executor.core.entries import HIDDEN_TAGS
from executor.core.instance import Instance

_TAG = 18
"""Where the tag is in the stored form of an entry with fewer than 16 fields: all that are hidden."""


def is_visible(instance: Instance, sequence: int, stored: bytes) -> bool:
    """Whether the run is sent the entry at `sequence`."""
    if stored[_TAG] in HIDDEN_TAGS:
        return False
    for first, last in instance.cuts:
        if first <= sequence <= last:
            return sequence in instance.carried
    return True


def visible(instance: Instance, stored: Sequence[bytes], first: int, last: int) -> list[bytes | int]:
    """Entries `first` to `last` as the run is sent them: a number stands for so many that are left out.

    `stored` is the whole journal.
    """
    shown: list[bytes | int] = []
    skipped = 0
    for sequence in range(first, last + 1):
        data = stored[sequence - 1]
        if is_visible(instance, sequence, data):
            if skipped:
                shown.append(skipped)
                skipped = 0
            shown.append(data)
        else:
            skipped += 1
    if skipped:
        shown.append(skipped)
    return shown
