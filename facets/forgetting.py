"""Forgetting: the oldest chunks of journals that are read no more for their instances leave the state database.

A wish says before which entry an instance needs nothing but a few, and how much is to remain for readers nevertheless.
It is carried out beside the fold, a portion in a transaction, and is no record of the log: what a crash cuts off goes
with the next wish. It waits until everything that was durable when it came is folded, so that whoever sees that chunks
are gone sees the entry that made them needless too.

Chunks go whole. The table `forgotten` has a row for each instance of which some were looked at:
    gaps      MessagePack: array of [first, last]: the entries that are gone, in order; nothing else may be missing
    reached   every chunk before this entry was looked at: it is gone, or it was needed then
    counted   the chunks from `reached` up to this entry hold `bytes`
So a wish looks at what came since the one before it and at the few chunks that were needed then, however long the
journal is.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import apsw
import msgspec

from facets.chunks import has_delta, row_id, sequence_of
from facets.database import listed, query, transaction
from facets.erasure import PORTION_BYTES
from facets.errors import Corrupt

logger = logging.getLogger(__name__)

# What it costs to look at a chunk that stays, in bytes that might have been erased instead.
LOOK_BYTES = 64
# Wishes that are kept in memory; beyond that they are dropped, for they come again.
WISHES_MAX = 10_000

Gap = tuple[int, int]
"""First and last sequence of entries that are gone."""


class Wish:
    """`position`: of the log, up to which it has to be folded first. The rest: how far it has been carried out."""

    __slots__ = ("before", "but", "keep_bytes", "key", "looked", "needed", "position")

    def __init__(self, key: int, *, position: int, before: int, but: Sequence[int], keep_bytes: int) -> None:
        self.key = key
        self.position = position
        self.before = before
        self.but = but
        self.keep_bytes = keep_bytes
        self.needed: set[int] | None = None  # first entries of the chunks that have to stay
        self.looked = 0  # chunks before this entry that had been needed once were looked at again


class _Known(msgspec.Struct):
    """A row of the table `forgotten`, without its key."""

    reached: int = 1
    counted: int = 1
    size: int = 0
    had_delta: int = 0
    gaps: list[Gap] = []


class Forgetting:
    """The wishes; thread-safe. `portion` is for the one who writes the state database."""

    def __init__(self, connection: apsw.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._lock = threading.Lock()
        self._wishes: dict[int, Wish] = {}  # by instance, in turn
        self._next: dict[int, Wish] = {}

    def wish(self, wish: Wish) -> None:
        """After the one there is for the same instance, in place of further ones. (In place of that one it would not
        do: of an instance that never rests the newest wish always waits for the fold.)"""
        with self._lock:
            if wish.key in self._wishes:
                self._next[wish.key] = wish
            elif len(self._wishes) < WISHES_MAX:
                self._wishes[wish.key] = wish

    def portion(self, folded: int) -> int:
        """One transaction's share; about how many bytes that was. 0: there is nothing to do as of position `folded`."""
        done = 0
        begun: list[tuple[Wish, bool]] = []
        ready = self._ready(folded)
        if not ready:
            return 0
        try:
            with transaction(self._connection, self._path):
                for wish in ready:
                    cost, is_finished = _carry_out(self._connection, wish, PORTION_BYTES - done)
                    done += cost
                    begun.append((wish, is_finished))
                    if not is_finished or done >= PORTION_BYTES:
                        break
        except BaseException:
            for wish in ready:
                wish.looked = 0
            raise
        with self._lock:
            for wish, is_finished in begun:
                del self._wishes[wish.key]
                after = self._next.pop(wish.key, None) if is_finished else wish
                if after is not None:
                    self._wishes[wish.key] = after  # behind the others: a long journal keeps nobody waiting
        return done

    def _ready(self, folded: int) -> list[Wish]:
        with self._lock:
            return [wish for wish in self._wishes.values() if wish.position <= folded]


def gaps_of(connection: apsw.Connection, key: int) -> list[Gap]:
    """What is missing of an instance's journal on purpose, in order. Raises Corrupt."""
    found = connection.execute("SELECT gaps FROM forgotten WHERE key = ?", (key,)).get
    return [] if found is None else _decode(found)


def had_delta(connection: apsw.Connection, key: int) -> bool:
    """Whether the facet changed with an entry that is gone."""
    return bool(connection.execute("SELECT had_delta FROM forgotten WHERE key = ?", (key,)).get)


def problems(connection: apsw.Connection, key: int) -> list[str]:
    """What is wrong with what is known of an instance. Raises Corrupt."""
    known = _read(connection, key)
    size = sum(size for _, size in _chunks(connection, key, known.reached, known.counted - 1))
    found: list[str] = []
    if size != known.size:
        found.append(f"{known.size} bytes of the journal could be forgotten, there are {size}")
    if known.gaps and known.gaps[-1][1] >= known.reached:
        found.append(f"the journal was looked at up to entry {known.reached}, but its gaps go on")
    return found


def kept(gaps: Sequence[Gap], after: int, last: int) -> Iterator[range]:
    """The sequences behind `after` up to `last` that are in no gap, in order."""
    at = after + 1
    for first, end in gaps:
        if first > last:
            break
        if at < first:
            yield range(at, first)
        at = max(at, end + 1)
    if at <= last:
        yield range(at, last + 1)


def is_gone(gaps: Sequence[Gap], sequence: int) -> bool:
    place = bisect_left(gaps, (sequence + 1, 0)) - 1
    return place >= 0 and sequence <= gaps[place][1]


def add_gap(gaps: list[Gap], first: int, last: int) -> None:
    """Add what is in none of them; neighbours become one."""
    place = bisect_left(gaps, (first, last))
    if place < len(gaps) and gaps[place][0] == last + 1:
        last = gaps.pop(place)[1]
    if place and gaps[place - 1][1] == first - 1:
        place -= 1
        first = gaps.pop(place)[0]
    gaps.insert(place, (first, last))


def _carry_out(connection: apsw.Connection, wish: Wish, bytes_max: int) -> tuple[int, bool]:
    """About `bytes_max` of it. What that cost, and whether it is done."""
    tail_first: int | None = connection.execute("SELECT tail_first FROM instance WHERE key = ?", (wish.key,)).get
    if tail_first is None:
        return LOOK_BYTES, True
    try:
        known = _read(connection, wish.key)
    except Corrupt as error:
        logger.warning("a journal is left as long as it is: %s", error, extra={"instance_key": wish.key})
        return LOOK_BYTES, True
    if wish.before < known.counted:  # an earlier wish went further
        return LOOK_BYTES, True
    cost = LOOK_BYTES
    if wish.needed is None:
        wish.needed = _needed(connection, wish, tail_first)
        cost += LOOK_BYTES * len(wish.but)
    left = _Left(bytes_max - cost)
    was = msgspec.structs.replace(known, gaps=list(known.gaps))
    _count(connection, wish, known, tail_first, left)
    gone = _look_again(connection, wish, known, left)
    if left.is_enough:
        gone += _look_on(connection, wish, known, left)
    if gone:
        _erase(connection, wish.key, known, gone)
    if known != was:
        _write(connection, wish.key, known)
    return cost + left.used, left.is_enough


class _Left:
    """What may still be done in this portion."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.used = 0
        self.is_enough = True

    def take(self, cost: int) -> bool:
        """False: the portion is full, and more is to be done."""
        if self.used >= self._bytes_max:
            self.is_enough = False
            return False
        self.used += cost
        return True


def _needed(connection: apsw.Connection, wish: Wish, tail_first: int) -> set[int]:
    wanted = [1, *(sequence for sequence in wish.but if sequence < wish.before)]
    sql = "SELECT (SELECT max(id) FROM chunk WHERE id BETWEEN ?1 AND ?1 + value) FROM json_each(?2)"
    found = query(connection, sql, (row_id(wish.key, 0), listed([each for each in wanted if each < tail_first])))
    return {sequence_of(identifier) for (identifier,) in found if identifier is not None}


def _chunks(connection: apsw.Connection, key: int, first: int, last: int) -> Iterator[tuple[int, int]]:
    """(first entry, bytes) of the chunks that begin with one of these entries, in order."""
    sql = "SELECT id, length(content) FROM chunk WHERE id BETWEEN ? AND ? ORDER BY id"
    for identifier, size in query(connection, sql, (row_id(key, first), row_id(key, last))):
        yield sequence_of(identifier), size


def _count(connection: apsw.Connection, wish: Wish, known: _Known, tail_first: int, left: _Left) -> None:
    """Chunks that are whole before `wish.before` and have not been counted yet."""
    counted, begun = 0, known.counted
    for first, size in _chunks(connection, wish.key, known.counted, wish.before):
        # Only now it is known where the one before ends: behind `reached` there are no gaps.
        known.size, known.counted, counted = known.size + counted, first, size
        if known.counted > begun and not left.take(LOOK_BYTES):
            return
    if counted and tail_first <= wish.before:
        known.size, known.counted = known.size + counted, tail_first


def _look_again(connection: apsw.Connection, wish: Wish, known: _Known, left: _Left) -> list[tuple[int, int]]:
    """Chunks that an earlier wish needed and this one does not, as (first entry, last entry)."""
    assert wish.needed is not None, "found before"
    gone: list[tuple[int, int]] = []
    passed: int | None = None  # the chunk whose end is not known yet
    if wish.looked >= known.reached:
        return gone
    ends = [first for first, _ in known.gaps]
    for first, size in chain(_chunks(connection, wish.key, wish.looked, known.reached - 1), [(known.reached, 0)]):
        if passed is not None:
            place = bisect_left(ends, passed)
            gone.append((passed, min([first, *ends[place : place + 1]]) - 1))
            passed = None
        wish.looked = first
        if first == known.reached or not left.take(LOOK_BYTES):
            break
        if first not in wish.needed:
            passed = first
            left.used += size
    return gone


def _look_on(connection: apsw.Connection, wish: Wish, known: _Known, left: _Left) -> list[tuple[int, int]]:
    """Further chunks that are not needed, the oldest first, as long as `keep_bytes` remain behind them."""
    assert wish.needed is not None, "found before"
    gone: list[tuple[int, int]] = []
    if known.size <= wish.keep_bytes:
        return gone
    passed: tuple[int, int] | None = None  # the chunk whose end is not known yet
    for first, size in chain(_chunks(connection, wish.key, known.reached, known.counted - 1), [(known.counted, 0)]):
        if passed is not None:
            if passed[0] not in wish.needed:
                gone.append((passed[0], first - 1))
                left.used += passed[1]
            known.reached, known.size = first, known.size - passed[1]
            passed = None
        if first == known.counted or known.size - size < wish.keep_bytes or not left.take(LOOK_BYTES):
            break
        passed = first, size
    wish.looked = known.reached
    return gone


def _erase(connection: apsw.Connection, key: int, known: _Known, gone: Sequence[tuple[int, int]]) -> None:
    ids = listed([row_id(key, first) for first, _ in gone])
    among = "id IN (SELECT value FROM json_each(?))"
    if not known.had_delta and _has_facet(connection, key):
        contents = query(connection, f"SELECT content FROM chunk WHERE {among}", (ids,))  # noqa: S608 - own text
        known.had_delta = int(any(has_delta(content) for (content,) in contents))
    connection.execute(f"DELETE FROM chunk WHERE {among}", (ids,))  # noqa: S608 - own text
    for first, last in gone:
        add_gap(known.gaps, first, last)


def _has_facet(connection: apsw.Connection, key: int) -> bool:
    sql = "SELECT EXISTS(SELECT 1 FROM base WHERE key = ?1) OR EXISTS(SELECT 1 FROM paged WHERE key = ?1)"
    return bool(connection.execute(sql, (key,)).get)


def _read(connection: apsw.Connection, key: int) -> _Known:
    found = connection.execute(
        "SELECT reached, counted, bytes, had_delta, gaps FROM forgotten WHERE key = ?", (key,)
    ).fetchone()
    if found is None:
        return _Known()
    reached, counted, size, delta, gaps = found
    return _Known(reached, counted, size, delta, _decode(gaps))


def _decode(gaps: bytes) -> list[Gap]:
    try:
        return msgspec.msgpack.decode(gaps, type=list[Gap])
    except msgspec.MsgspecError as error:
        raise Corrupt(f"What was forgotten of a journal cannot be read: {error}.", code="journal_corrupt") from error


def _write(connection: apsw.Connection, key: int, known: _Known) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO forgotten(key, reached, counted, bytes, had_delta, gaps) VALUES(?, ?, ?, ?, ?, ?)",
        (key, known.reached, known.counted, known.size, known.had_delta, msgspec.msgpack.encode(known.gaps)),
    )
