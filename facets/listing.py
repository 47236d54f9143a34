"""Listings of a tenant's instances: pages of a search, over the state database and the tail.

The database's part is a few ranges of an index (ranges.py), merged with what the tail has; rows are read no further
than the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from itertools import chain, islice

import msgspec

from facets import search
from facets.index import Snapshot
from facets.ranges import At, Ranges, Rows, find_stored
from facets.records import InstanceRow
from facets.search import CREATED, Place, Query
from facets.tail import View


def list_rows(
    snapshot: Snapshot, view: View, tenant: str, wanted: Query, *, after: Place | None, limit: int
) -> list[InstanceRow]:
    """Rows of a tenant behind the place `after`."""
    return list(islice(walk(snapshot, view, tenant, wanted, after=after), limit))


def count_rows(snapshot: Snapshot, view: View, tenant: str, wanted: Query, *, limit: int) -> int:
    """How many there are, or `limit` if there are more."""
    anyhow = msgspec.structs.replace(wanted, order=CREATED, is_descending=True)
    return sum(1 for _ in islice(walk(snapshot, view, tenant, anyhow, after=None), limit))


def walk(snapshot: Snapshot, view: View, tenant: str, wanted: Query, *, after: Place | None) -> Rows:
    """All of them, one after the other; not to be used beyond the snapshot."""
    overlay = view.overlay(tenant, snapshot.folded)
    stored = None if overlay.hides_all else find_stored(snapshot, tenant, wanted)
    fits = _fits(wanted)
    ahead = [row for row in overlay.present() if fits(row)]
    for part in search.parts(wanted):
        if after is None or after.part <= part:
            start = after.at if after is not None and after.part == part else None
            ways, is_in_order = ([], True) if stored is None else Ranges(snapshot, wanted, part, stored).rows(start)
            kept = [(row for row in rows if not overlay.hides(row.instance) and fits(row)) for rows in ways]
            if is_in_order:
                yield from _merged(wanted, part, start, kept, iter(ahead))
            else:
                yield from _merged(wanted, part, start, [], chain(*kept, ahead))


def _merged(wanted: Query, part: int, start: At | None, ways: Sequence[Rows], others: Rows) -> Rows:
    """The rows of one part behind `start`, in its order; those of `others` are in none yet."""
    is_down = search.is_descending(wanted, part)

    def placed(rows: Rows) -> Iterator[tuple[At, InstanceRow]]:
        for row in rows:
            place = search.place_of(wanted, row.generation, row.updated_at_ms, row.attributes)
            if place.part == part and (start is None or (place.at < start if is_down else place.at > start)):
                yield place.at, row

    in_order = sorted(placed(others), key=_at, reverse=is_down)
    return (row for _, row in merge(*map(placed, ways), in_order, key=_at, reverse=is_down))


def _at(placed: tuple[At, InstanceRow]) -> At:
    return placed[0]


def _fits(wanted: Query) -> Callable[[InstanceRow], bool]:
    meets = search.compile_where(wanted.where)
    states = set(wanted.states)

    def fits(row: InstanceRow) -> bool:
        return (
            (not states or row.state in states)
            and (wanted.workflow is None or row.workflow == wanted.workflow)
            and (wanted.commit is None or row.commit == wanted.commit)
            and (wanted.created_from_ms is None or row.created_at_ms >= wanted.created_from_ms)
            and (wanted.created_to_ms is None or row.created_at_ms < wanted.created_to_ms)
            and (wanted.updated_from_ms is None or row.updated_at_ms >= wanted.updated_from_ms)
            and (wanted.updated_to_ms is None or row.updated_at_ms < wanted.updated_to_ms)
            and meets(row.attributes)
        )

    return fits
