"""Visible: which entries of a journal the run replays.

All of them, but for traces of how it was executed, and for what a new execution left behind: after Continued only that
entry, what follows it and the events that nobody had read; after Restarted what came before the step it goes back to,
the events since, and what follows. The places in the journal stay what they are: the run is told how many it skips.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from executor.core.codec import trace_tag
from executor.core.entries import HIDDEN_TAGS

Cuts = Sequence[tuple[int, int]]


def is_visible(stored: bytes, sequence: int, cuts: Cuts, carried: Collection[int]) -> bool:
    """Whether the run is sent this entry. `cuts` and `carried` are the instance's."""
    if trace_tag(stored) in HIDDEN_TAGS:
        return False
    for first, last in cuts:
        if first <= sequence <= last:
            return sequence in carried
    return True
