"""Listings of a tenant's instances: pages of a search, over the state database and the tail.

The database's part is a few ranges of an index, each in the order of the listing, merged with what the tail has; rows
are read no further than the page. Which ranges: those that the order walks, unless a condition on an attribute leaves
fewer. An order that the chosen ranges do not have is made by sorting, only ever of few (SORTED_MAX) rows, or of keys
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import merge
from itertools import chain, islice
from typing import Any, NamedTuple

import msgspec

from facets import attributes, search
from facets.database import listed, query
from facets.index import COLUMNS, OF_TENANT, VERSION_COUNT_MAX, Snapshot
from facets.records import InstanceRow
from facets.search import CREATED, UPDATED, Condition, Place, Query
from facets.tail import View

SORTED_MAX = 2_000
"""Matches of a condition that are sorted rather than met along the way of the order."""

_Rows = Iterator[InstanceRow]
_At = tuple[Any, ...]  # see search.Place


class _Stored(NamedTuple):
    """What the database has of the tenant that fits state, workflow and commit: how much, and where."""

    tenant: int
    states: list[int]
    versions: list[int] | None  # None: whatever the version
    places: list[tuple[int, int]]  # (version, state)
    number: int


def list_rows(
    snapshot: Snapshot, view: View, tenant: str, wanted: Query, *, after: Place | None, limit: int
) -> list[InstanceRow]:
    """Rows of a tenant behind the place `after`."""
    return list(islice(walk(snapshot, view, tenant, wanted, after=after), limit))


def count_rows(snapshot: Snapshot, view: View, tenant: str, wanted: Query, *, limit: int) -> int:
    """How many there are, or `limit` if there are more."""
    anyhow = msgspec.structs.replace(wanted, order=CREATED, is_descending=True)
    return sum(1 for _ in islice(walk(snapshot, view, tenant, anyhow, after=None), limit))


def walk(snapshot: Snapshot, view: View, tenant: str, wanted: Query, *, after: Place | None) -> _Rows:
    """All of them, one after the other; not to be used beyond the snapshot."""
    overlay = view.overlay(tenant, snapshot.folded)
    stored = None if overlay.hides_all else _find_stored(snapshot, tenant, wanted)
    fits = _fits(wanted)
    ahead = [row for row in overlay.present() if fits(row)]
    for part in search.parts(wanted):
        if after is None or after.part <= part:
            start = after.at if after is not None and after.part == part else None
            ways = [] if stored is None else _ranges(snapshot, wanted, part, start, stored)
            kept = [(row for row in rows if not overlay.hides(row.instance) and fits(row)) for rows in ways]
            yield from _merged(wanted, part, start, [*kept, iter(ahead)])


def _merged(wanted: Query, part: int, start: _At | None, ways: list[_Rows]) -> _Rows:
    """The rows of one part behind `start`, in its order; the last of `ways` are in none yet."""
    is_down = search.is_descending(wanted, part)

    def placed(rows: _Rows) -> Iterator[tuple[_At, InstanceRow]]:
        for row in rows:
            place = search.place_of(wanted, row.generation, row.updated_at_ms, row.attributes)
            if place.part == part and (start is None or (place.at < start if is_down else place.at > start)):
                yield place.at, row

    *stored, ahead = map(placed, ways)
    in_order = sorted(ahead, key=_at, reverse=is_down)
    return (row for _, row in merge(*stored, in_order, key=_at, reverse=is_down))


def _at(placed: tuple[_At, InstanceRow]) -> _At:
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


def _find_stored(snapshot: Snapshot, tenant: str, wanted: Query) -> _Stored | None:
    rows = list(
        query(
            snapshot.connection,
            "SELECT version.tenant, tally.state, tally.version, tally.number FROM version "  # noqa: S608 - own names
            "JOIN tally ON tally.version = version.id JOIN state ON state.id = tally.state "
            f"WHERE version.{OF_TENANT} AND tally.number > 0 "
            "AND (?2 = '[]' OR state.name IN (SELECT value FROM json_each(?2))) "
            'AND (?3 IS NULL OR version.workflow = ?3) AND (?4 IS NULL OR version."commit" = ?4)',
            (tenant, listed(wanted.states), wanted.workflow, wanted.commit),
        )
    )
    if not rows:
        return None
    versions = sorted({version for _, _, version, _ in rows})
    return _Stored(
        rows[0][0],
        sorted({state for _, state, _, _ in rows}),
        None if wanted.workflow is None and wanted.commit is None else versions,
        [(version, state) for _, state, version, _ in rows],
        sum(number for _, _, _, number in rows),
    )


class _Sql:
    """A WHERE clause that grows, with its values."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.values: list[Any] = []

    def add(self, text: str, *values: Any) -> None:
        self.parts.append(text)
        self.values += values

    def text(self) -> str:
        return " AND ".join(self.parts) or "1"


def _ranges(snapshot: Snapshot, wanted: Query, part: int, start: _At | None, stored: _Stored) -> list[_Rows]:
    """Ranges of the database, each in the order of the listing, that have all that fits (and more)."""
    order = search.order_of(wanted, part)
    condition, number = _narrowest(snapshot, wanted, stored)
    if condition is not None and order == CREATED and number <= stored.number:
        return _along_condition(snapshot, wanted, condition, start, stored)
    if order != CREATED and min(number, stored.number) <= SORTED_MAX:
        if condition is not None and number <= stored.number:
            found = _along_condition(snapshot, wanted, condition, None, stored, is_down=True)
        else:
            found = _along_creation(snapshot, wanted, None, stored, is_down=True)
        return [_merged(wanted, part, start, [chain.from_iterable(found)])]
    if order == CREATED:
        return _along_creation(snapshot, wanted, start, stored, is_down=search.is_descending(wanted, part))
    if order == UPDATED:
        return [_along_updates(snapshot, wanted, start, stored)]
    return [_along_attribute(snapshot, wanted, start, stored)]


def _narrowest(snapshot: Snapshot, wanted: Query, stored: _Stored) -> tuple[Condition | None, int]:
    """The condition that the fewest stored instances meet, and how many these are, counted up to COUNT_MAX."""
    best: tuple[Condition | None, int] = (None, stored.number + 1)
    for condition in wanted.where:
        if search.needs_attribute(condition):
            clause = _attribute_clause(stored.tenant, condition)
            bound = max(1, min(search.COUNT_MAX, best[1]))
            sql = f"SELECT count(*) FROM (SELECT 1 FROM attribute WHERE {clause.text()} LIMIT {bound})"  # noqa: S608
            number: int = snapshot.connection.execute(sql, tuple(clause.values)).get
            if number < best[1]:
                best = (condition, number)
    return best


def _attribute_clause(tenant: int, condition: Condition) -> _Sql:
    """The rows of table `attribute` that meet a condition."""
    clause = _Sql()
    clause.add("attribute.tenant = ? AND attribute.name = ?", tenant, condition.name)
    if condition.operator == "exists":
        return clause
    places = [attributes.placed(value) for value in condition.values]
    if condition.operator == "in":
        values = ",".join(["(?, ?)"] * len(places)) or "(NULL, NULL)"
        clause.add(f"(attribute.kind, attribute.value) IN (VALUES {values})", *(each for one in places for each in one))
        return clause
    [(kind, value)] = places
    if condition.operator == "!=":
        clause.add("NOT (attribute.kind = ? AND attribute.value = ?)", kind, value)
        return clause
    clause.add("attribute.kind = ?", kind)
    if condition.operator == "prefix":
        clause.add("attribute.value >= ?", value)
        end = _after_prefix(str(value))
        if end is not None:
            clause.add("attribute.value < ?", end)
        return clause
    clause.add(f"attribute.value {condition.operator} ?", value)
    return clause


def _after_prefix(prefix: str) -> str | None:
    """The first text behind all that begin with `prefix`; None: there is none. Texts stand in code points' order."""
    for place in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[place])
        if code < 0x10FFFF:
            following = 0xE000 if code + 1 == 0xD800 else code + 1  # surrogates are no text
            return prefix[:place] + chr(following)
    return None


def _instance_clause(wanted: Query, stored: _Stored, *, has_states: bool = True) -> _Sql:
    """What of the search the columns of an instance's row decide."""
    clause = _Sql()
    if has_states:
        clause.add("instance.state IN (SELECT value FROM json_each(?))", listed(stored.states))
        if stored.versions is not None:
            clause.add("instance.version IN (SELECT value FROM json_each(?))", listed(stored.versions))
    for column, first, last in (
        ("created_at_ms", wanted.created_from_ms, wanted.created_to_ms),
        ("updated_at_ms", wanted.updated_from_ms, wanted.updated_to_ms),
    ):
        if first is not None:
            clause.add(f"instance.{column} >= ?", first)
        if last is not None:
            clause.add(f"instance.{column} < ?", last)
    return clause


def _along_creation(
    snapshot: Snapshot, wanted: Query, start: _At | None, stored: _Stored, *, is_down: bool
) -> list[_Rows]:
    """The tenant's instances by state; or by version and state, if those are named and not too many."""
    places: list[tuple[int, ...]]
    if stored.versions is None or len(stored.versions) > VERSION_COUNT_MAX:
        places = [(stored.tenant, state) for state in stored.states]
        column = "tenant"
    else:
        places = [*stored.places]
        column = "version"
    found: list[_Rows] = []
    for place in places:
        clause = _Sql()
        clause.add(f"{column} = ? AND state = ?", *place)
        if start is not None:
            clause.add(f"key {'<' if is_down else '>'} ?", start[0])
        if stored.versions is not None and column == "tenant":
            clause.add("version IN (SELECT value FROM json_each(?))", listed(stored.versions))
        rest = _instance_clause(wanted, stored, has_states=False)
        if rest.parts:
            clause.add(rest.text(), *rest.values)
        found.append(_select(snapshot, f"FROM instance WHERE {clause.text()} ORDER BY key {_way(is_down)}", clause))
    return found


def _along_condition(
    snapshot: Snapshot,
    wanted: Query,
    condition: Condition,
    start: _At | None,
    stored: _Stored,
    *,
    is_down: bool | None = None,
) -> list[_Rows]:
    """The instances that meet one condition, in the order of creation."""
    down = wanted.is_descending or wanted.order != CREATED if is_down is None else is_down
    clause = _attribute_clause(stored.tenant, condition)
    if start is not None:
        clause.add(f"attribute.key {'<' if down else '>'} ?", start[0])
    inner = clause.text()
    rest = _instance_clause(wanted, stored)
    clause.values += rest.values
    # The limit keeps SQLite from sorting whole rows: first the keys, which come sorted from the index if it is for one
    # value, and then row by row.
    return [
        _select(
            snapshot,
            f"FROM (SELECT attribute.key AS met FROM attribute WHERE {inner} "  # noqa: S608 - own text
            f"ORDER BY attribute.key {_way(down)} LIMIT -1) CROSS JOIN instance ON instance.key = met "
            f"WHERE {rest.text()}",
            clause,
        )
    ]


def _along_updates(snapshot: Snapshot, wanted: Query, start: _At | None, stored: _Stored) -> _Rows:
    down = wanted.is_descending
    clause = _instance_clause(wanted, stored)
    clause.add("instance.tenant = ?", stored.tenant)
    if start is not None:
        clause.add(f"(instance.updated_at_ms, instance.key) {'<' if down else '>'} (?, ?)", *start)
    return _select(
        snapshot,
        f"FROM instance INDEXED BY instance_updated WHERE {clause.text()} "
        f"ORDER BY instance.updated_at_ms {_way(down)}, instance.key {_way(down)}",
        clause,
    )


def _along_attribute(snapshot: Snapshot, wanted: Query, start: _At | None, stored: _Stored) -> _Rows:
    """The instances that have the attribute which gives the order, in that order."""
    down = wanted.is_descending
    name = wanted.attribute
    clause = _Sql()
    clause.add("attribute.tenant = ? AND attribute.name = ?", stored.tenant, name)
    for condition in wanted.where:
        if condition.name == name and condition.operator in {"=", "<", "<=", ">", ">=", "prefix"}:
            more = _attribute_clause(stored.tenant, condition)
            clause.add(more.text(), *more.values)
    if start is not None:
        clause.add(f"(attribute.kind, attribute.value, attribute.key) {'<' if down else '>'} (?, ?, ?)", *start)
    rest = _instance_clause(wanted, stored)
    clause.add(rest.text(), *rest.values)
    way = _way(down)
    return _select(
        snapshot,
        f"FROM attribute CROSS JOIN instance ON instance.key = attribute.key WHERE {clause.text()} "
        f"ORDER BY attribute.kind {way}, attribute.value {way}, attribute.key {way}",
        clause,
    )


def _way(is_down: bool) -> str:
    return "DESC" if is_down else "ASC"


def _select(snapshot: Snapshot, rest: str, clause: _Sql) -> _Rows:
    """Rows of the database, read no further than they are asked for."""
    sql = f"SELECT {COLUMNS} {rest}"
    return (InstanceRow(*found) for found in query(snapshot.connection, sql, tuple(clause.values)))
