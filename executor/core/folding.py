"""Folding: journals to instances. What restarts go back to is kept until they come, so it takes one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from executor.core import codec
from executor.core.entries import AnyEntry, Restarted
from executor.core.errors import Corrupt
from executor.core.instance import NONE, NONE_SET, Instance


def fold(journal: Sequence[AnyEntry], *, base: Instance | None = None) -> Instance:
    """The instance whose journal this is. `base`: the instance as of the entry before; it is changed."""
    wanted = Counter(entry.after for entry in journal if isinstance(entry, Restarted))
    kept: dict[int, Instance] = {}
    instance = base if base is not None else Instance()
    if wanted[instance.sequence]:
        kept[instance.sequence] = instance.copy()
    for entry in journal:
        if isinstance(entry, Restarted):
            past = kept.get(entry.after)
            if past is None or not instance.begin_at <= entry.after <= instance.sequence:
                raise Corrupt(f"a restart goes back to entry {entry.after}", code="corrupt_journal")
            wanted[entry.after] -= 1
            instance = restarted(instance, past.copy() if wanted[entry.after] else kept.pop(entry.after), entry)
        else:
            instance.apply(entry)
        if wanted and wanted[instance.sequence]:
            kept[instance.sequence] = instance.copy()
    return instance


def restarted(before: Instance, past: Instance, entry: Restarted) -> Instance:
    """The instance after a restart: `past`, as it was after entry `entry.after`, but for what came from outside since.

    `past` is changed, and is the answer.
    """
    kept = set(past.carried)
    if entry.keeps_events:
        # Every event of the execution is in one of them.
        for event in sorted((*before.unread.values(), *before.consumed.values()), key=lambda each: each.sequence):
            if event.sequence > entry.after:
                past.take_event(event.sequence, event.event)
                kept.add(event.sequence)
    still = {child.request.child for child in past.children.values()}
    since = {c.request.child for c in before.children.values() if c.request.close == "terminate"} - still
    past.to_close = {*before.to_close, *since} - still or NONE_SET
    # How it ended may be in what counts no more, and is told only once: ask for it again, as if it was not started.
    for path, request in past.awaiting.items():
        if past.children[path].is_started:
            past.ask_for_child(path, request)
    past.cuts = (*past.cuts, (entry.after + 1, before.sequence))
    past.carried = kept or NONE_SET
    past.event_count = before.event_count
    past.attributes = before.attributes
    past.emitted = before.emitted
    past.undone = before.undone
    past.execution = before.execution + 1
    past.executing = NONE
    past.paused = past.undoing = past.held = past.outcome = None
    past.sequence = before.sequence + 1
    past.chain = codec.chain_after(before.chain, entry)
    past.updated_at_ms = entry.at_ms
    past.resolved_at = past.sequence
    return past
