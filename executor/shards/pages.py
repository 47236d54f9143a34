"""A page of a listing from pages of several parts.

Each part lists its own in the query's order, so the merge takes whichever part's next row comes first by what the
order is about, and among equals by their making. The cursor says for each part where it goes on: pages join to one
list, which instances that begin meanwhile do not shift.

    layout : position . position …       of each part: "" from its beginning, "!" nothing more, else its own cursor
"""

from __future__ import annotations

from collections.abc import Sequence

from executor.adapters.state import facets_query
from executor.core.search import Query
from executor.ports import StoredRow
from facets import search

ENDED = "!"


def merged_page(
    query: Query,
    found: Sequence[tuple[list[StoredRow], str | None]],
    positions: Sequence[str | None],
    *,
    limit: int,
    layout: int,
) -> tuple[list[StoredRow], str | None]:
    """`limit` rows of the parts' pages `found`, which were asked for `limit` + 1 rows behind `positions`; and the
    cursor of the next page (None: this was the last)."""
    wanted = facets_query(query)
    lists = [[(_place(wanted, row), row) for row in rows] for rows, _ in found]
    taken = [0] * len(lists)
    merged: list[StoredRow] = []
    while len(merged) < limit:
        heads = [index for index, rows in enumerate(lists) if taken[index] < len(rows)]
        if not heads:
            break
        first = _first(wanted, {index: lists[index][taken[index]] for index in heads})
        merged.append(lists[first][taken[first]][1])
        taken[first] += 1
    if all(taken[index] == len(rows) for index, rows in enumerate(lists)):
        return merged, None
    nexts: list[str] = []
    for index, rows in enumerate(lists):
        if not rows:
            nexts.append(ENDED)
        elif taken[index]:
            nexts.append(search.cursor(wanted, rows[taken[index] - 1][0]))
        else:
            # Right before its first row: what begins meanwhile stays out.
            nexts.append(positions[index] or search.cursor(wanted, search.before(wanted, rows[0][0])))
    return merged, f"{layout}:{'.'.join(nexts)}"


def _place(wanted: search.Query, row: StoredRow) -> search.Place:
    return search.place_of(wanted, row.generation, row.row.updated_at_ms, row.row.attributes)


def _first(wanted: search.Query, heads: dict[int, tuple[search.Place, StoredRow]]) -> int:
    """The part whose head comes first. Generations are each part's own: the time of creation stands for them."""
    part = min(place.part for place, _ in heads.values())
    keys = {
        index: (*place.at[:-1], row.row.created_at_ms) for index, (place, row) in heads.items() if place.part == part
    }
    choose = max if search.is_descending(wanted, part) else min
    best = choose(keys.values())
    return next(index for index, key in keys.items() if key == best)
