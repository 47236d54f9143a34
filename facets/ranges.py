"""The database's part of a listing: which ranges of which index have what a search finds, in the order it is listed.

They are the ranges that the order walks, unless a condition on an attribute leaves fewer rows. An order that the chosen
ranges do not have is made by sorting, only ever of few (SORTED_MAX) rows, or of keys alone. Rows are read no further
than they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from facets import attributes, search
from facets.database import listed, query
from facets.index import COLUMNS, OF_TENANT, VERSION_COUNT_MAX, Snapshot
from facets.records import InstanceRow
from facets.search import CREATED, UPDATED, Condition, Query

SORTED_MAX = 2_000
"""Matches of a condition that are sorted rather than met along the way of the order."""

Rows = Iterator[InstanceRow]
At = tuple[Any, ...]
"""See search.Place."""


class Stored(NamedTuple):
    """What the database has of the tenant that fits state, workflow and commit: how much, and where."""

    tenant: int
    states: list[int]
    versions: list[int] | None  # None: whatever the version
    places: list[tuple[int, int]]  # (version, state)
    number: int


def find_stored(snapshot: Snapshot, tenant: str, wanted: Query) -> Stored | None:
    """None: nothing fits."""
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
    return Stored(
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


class Ranges:
    """Of one part of a listing."""

    def __init__(self, snapshot: Snapshot, wanted: Query, part: int, stored: Stored) -> None:
        self._snapshot = snapshot
        self._wanted = wanted
        self._stored = stored
        self._lacked = wanted.attribute if part else None
        self._order = search.order_of(wanted, part)
        self._is_down = search.is_descending(wanted, part)

    def rows(self, start: At | None) -> tuple[list[Rows], bool]:
        """Ranges that together have all rows behind `start` that fit, and others; False: they are few, and not in the
        order of the listing."""
        condition, number = self._narrowest()
        is_narrow = condition is not None and number <= self._stored.number
        if self._order == CREATED:
            if condition is not None and is_narrow:
                return [self._along_condition(condition, start)], True
            return self._along_creation(start), True
        if condition is not None and is_narrow and number <= SORTED_MAX:
            return [self._along_condition(condition, None)], False
        if self._stored.number <= SORTED_MAX:
            return self._along_creation(None), False
        return [self._along_updates(start) if self._order == UPDATED else self._along_attribute(start)], True

    def _narrowest(self) -> tuple[Condition | None, int]:
        """The condition that the fewest stored instances meet, and how many these are, counted up to COUNT_MAX."""
        best: tuple[Condition | None, int] = (None, self._stored.number + 1)
        for condition in self._wanted.where:
            if search.needs_attribute(condition):
                clause = _attribute_clause(self._stored.tenant, condition)
                bound = max(1, min(search.COUNT_MAX, best[1]))
                sql = f"SELECT count(*) FROM (SELECT 1 FROM attribute WHERE {clause.text()} LIMIT {bound})"  # noqa: S608
                number: int = self._snapshot.connection.execute(sql, tuple(clause.values)).get
                if number < best[1]:
                    best = (condition, number)
        return best

    def _along_creation(self, start: At | None) -> list[Rows]:
        """The tenant's instances by state; or by version and state, if those are named and not too many."""
        stored = self._stored
        column, places = "version", list[tuple[int, ...]](stored.places)
        if stored.versions is None or len(stored.versions) > VERSION_COUNT_MAX:
            column, places = "tenant", [(stored.tenant, state) for state in stored.states]
        found: list[Rows] = []
        for place in places:
            clause = _Sql()
            clause.add(f"instance.{column} = ? AND instance.state = ?", *place)
            if start is not None:
                clause.add(f"instance.key {self._past} ?", *start)
            if column == "tenant":
                self._add_versions(clause)
            self._add_rest(clause)
            found.append(self._select(f"FROM instance WHERE {clause.text()} ORDER BY instance.key {self._way}", clause))
        return found

    def _along_condition(self, condition: Condition, start: At | None) -> Rows:
        """The instances that meet one condition, in the order of creation."""
        clause = _attribute_clause(self._stored.tenant, condition)
        if start is not None:
            clause.add(f"attribute.key {self._past} ?", *start)
        rest = self._instance_clause()
        # The limit keeps SQLite from sorting whole rows: first the keys, which come sorted from the index if it is for
        # one value, and then row by row.
        text = (
            f"FROM (SELECT attribute.key AS met FROM attribute WHERE {clause.text()} "  # noqa: S608 - own text
            f"ORDER BY attribute.key {self._way} LIMIT -1) CROSS JOIN instance ON instance.key = met "
            f"WHERE {rest.text()}"
        )
        clause.values += rest.values
        return self._select(text, clause)

    def _along_updates(self, start: At | None) -> Rows:
        clause = self._instance_clause()
        clause.add("instance.tenant = ?", self._stored.tenant)
        if start is not None:
            clause.add(f"(instance.updated_at_ms, instance.key) {self._past} (?, ?)", *start)
        return self._select(
            f"FROM instance INDEXED BY instance_updated WHERE {clause.text()} "
            f"ORDER BY instance.updated_at_ms {self._way}, instance.key {self._way}",
            clause,
        )

    def _along_attribute(self, start: At | None) -> Rows:
        """The instances that have the attribute which gives the order, in that order."""
        name = self._wanted.attribute
        clause = _Sql()
        clause.add("attribute.tenant = ? AND attribute.name = ?", self._stored.tenant, name)
        for condition in self._wanted.where:
            if condition.name == name and condition.operator in {"=", "<", "<=", ">", ">=", "prefix"}:
                more = _attribute_clause(self._stored.tenant, condition)
                clause.add(more.text(), *more.values)
        if start is not None:
            clause.add(f"(attribute.kind, attribute.value, attribute.key) {self._past} (?, ?, ?)", *start)
        rest = self._instance_clause()
        clause.add(rest.text(), *rest.values)
        way = self._way
        return self._select(
            f"FROM attribute CROSS JOIN instance ON instance.key = attribute.key WHERE {clause.text()} "
            f"ORDER BY attribute.kind {way}, attribute.value {way}, attribute.key {way}",
            clause,
        )

    def _instance_clause(self) -> _Sql:
        """What of the search the columns of an instance's row decide."""
        clause = _Sql()
        clause.add("instance.state IN (SELECT value FROM json_each(?))", listed(self._stored.states))
        self._add_versions(clause)
        self._add_rest(clause)
        return clause

    def _add_versions(self, clause: _Sql) -> None:
        if self._stored.versions is not None:
            clause.add("instance.version IN (SELECT value FROM json_each(?))", listed(self._stored.versions))

    def _add_rest(self, clause: _Sql) -> None:
        wanted = self._wanted
        for column, first, last in (
            ("created_at_ms", wanted.created_from_ms, wanted.created_to_ms),
            ("updated_at_ms", wanted.updated_from_ms, wanted.updated_to_ms),
        ):
            if first is not None:
                clause.add(f"instance.{column} >= ?", first)
            if last is not None:
                clause.add(f"instance.{column} < ?", last)
        # No index leads to what is not there: all instances are walked, but those that have it stay in the database.
        absent = {each.name for each in wanted.where if not search.needs_attribute(each)}
        for name in sorted(absent | ({self._lacked} if self._lacked is not None else set())):
            clause.add(
                "instance.key NOT IN (SELECT attribute.key FROM attribute WHERE tenant = ? AND name = ?)",
                self._stored.tenant,
                name,
            )

    @property
    def _way(self) -> str:
        return "DESC" if self._is_down else "ASC"

    @property
    def _past(self) -> str:
        return "<" if self._is_down else ">"

    def _select(self, rest: str, clause: _Sql) -> Rows:
        rows = query(self._snapshot.connection, f"SELECT {COLUMNS} {rest}", tuple(clause.values))
        return (InstanceRow(*found) for found in rows)


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
