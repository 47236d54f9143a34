"""Facets in the state database: a base image, the deltas behind it, and some of those before it.

Deltas run both ways, so an image is had from the base either way. The rule of what is kept: all deltas behind the
base, and the newest before it, of those at most `facet_history_bytes_max`; the facet can be had as of every record
since the oldest that is kept. Work stays linear: a base is made anew once the deltas behind it weigh as much as it
does, and old deltas are dropped a quarter of the bound at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import apsw

from facets import delta as deltas
from facets.chunks import pack, row_id, sequence_of, unpack
from facets.database import query
from facets.errors import FacetError, NotFound
from facets.limits import Limits
from facets.tail import STORED_IMAGE_BYTES_MAX

logger = logging.getLogger(__name__)

# A base image is rebuilt once the deltas behind it weigh as much as it does (so the work stays linear), and this much.
REBASE_BYTES_MIN = 16 * 1024
# Or once there are so many of them that applying them would be felt at a wake-up.
REBASE_COUNT = 512
# A base is first deflated quickly, in the way of the fold; and as well as can be when nothing else is to be done.
QUICK_LEVEL, BEST_LEVEL = 1, 9


def store_deltas(connection: apsw.Connection, key: int, added: Sequence[tuple[int, bytes]]) -> None:
    connection.executemany("INSERT INTO delta VALUES(?, ?)", [(row_id(key, number), delta) for number, delta in added])


def take(connection: apsw.Connection, key: int, added: Sequence[tuple[int, bytes]], limits: Limits) -> None:
    """An instance's deltas, as (sequence, delta), at least one, were stored in this transaction: move its base on."""
    count, size = len(added), sum(len(delta) for _, delta in added)
    found = connection.execute(
        "SELECT sequence, length(content), delta_count, delta_bytes FROM base WHERE key = ?", (key,)
    ).fetchone()
    if found is None:
        found = (0, 0, 0, 0)
        connection.execute("INSERT INTO base VALUES(?, 0, ?, 0, 0, 1)", (key, pack(b"")))
    behind, base_size, old_count, old_size = found
    count, size = count + old_count, size + old_size
    connection.execute("UPDATE base SET delta_count = ?, delta_bytes = ? WHERE key = ?", (count, size, key))
    if count >= REBASE_COUNT or size >= max(base_size, REBASE_BYTES_MIN):
        _rebase(connection, key, (behind, added[-1][0]), size, limits)


def _rebase(connection: apsw.Connection, key: int, span: tuple[int, int], size: int, limits: Limits) -> None:
    """The base image goes on from record span[0] to span[1], over `size` bytes of deltas.

    Deltas that do not fit leave the old one: reading them says why.
    """
    behind, upto = span
    base = unpack(connection.execute("SELECT content FROM base WHERE key = ?", (key,)).get)
    try:
        image = deltas.apply_all(base, stored_deltas(connection, key, behind, upto), bytes_max=STORED_IMAGE_BYTES_MAX)
    except FacetError as error:
        logger.warning("an instance's facet cannot be rebuilt: %s", error, extra={"instance_key": key})
        # Not tried again at every fold, but after as much again has come in.
        connection.execute("UPDATE base SET delta_count = 0, delta_bytes = 0 WHERE key = ?", (key,))
        return
    connection.execute(
        "UPDATE base SET sequence = ?, content = ?, delta_count = 0, delta_bytes = 0, is_packed = 0 WHERE key = ?",
        (upto, pack(image, level=QUICK_LEVEL), key),
    )
    bound_history(connection, key, upto, more=size, bytes_max=limits.facet_history_bytes_max)


def bound_history(connection: apsw.Connection, key: int, upto: int, *, more: int, bytes_max: int) -> None:
    """A base as of record `upto` has taken in `more` bytes of deltas: drop the oldest if too many are kept."""
    kept: int = connection.execute(
        "INSERT INTO history VALUES(?1, ?2, 0) ON CONFLICT(key) DO UPDATE SET bytes = bytes + ?2 RETURNING bytes",
        (key, more),
    ).get
    if kept <= bytes_max:
        return
    last = None
    sql = "SELECT id, length(content) FROM delta WHERE id BETWEEN ? AND ? ORDER BY id"
    for identifier, size in query(connection, sql, (row_id(key, 0), row_id(key, upto))):
        if kept <= bytes_max * 3 // 4:
            break
        last, kept = identifier, kept - size
    if last is not None:
        connection.execute("DELETE FROM delta WHERE id BETWEEN ? AND ?", (row_id(key, 0), last))
        connection.execute("UPDATE history SET bytes = ?, oldest = ? WHERE key = ?", (kept, sequence_of(last), key))


def refuse_forgotten(connection: apsw.Connection, key: int, upto: int) -> None:
    """Raises NotFound (`record_not_kept`) if the deltas that led to record `upto` have been dropped."""
    oldest = connection.execute("SELECT oldest FROM history WHERE key = ?", (key,)).get or 0
    if upto < oldest:
        raise NotFound(
            f"The facet as of record {upto} is not kept any more; the oldest is that of record {oldest}.",
            code="record_not_kept",
            details={"oldest": oldest},
        )


def stored_deltas(connection: apsw.Connection, key: int, behind: int, upto: int) -> list[bytes]:
    """Deltas of an instance with `behind` < sequence <= `upto`, in order."""
    sql = "SELECT content FROM delta WHERE id > ? AND id <= ? ORDER BY id"
    return [content for (content,) in query(connection, sql, (row_id(key, behind), row_id(key, upto)))]


def image_as_of(connection: apsw.Connection, key: int, upto: int, ahead: Iterable[bytes] = ()) -> bytes:
    """A facet's image as of record `upto`; `ahead`: deltas that are not in the database yet, up to that record.

    Raises NotFound (`record_not_kept`: what led there has been dropped), Corrupt (a delta does not fit).
    """
    refuse_forgotten(connection, key, upto)
    found = connection.execute("SELECT sequence, content FROM base WHERE key = ?", (key,)).fetchone()
    behind, content = found or (0, pack(b""))
    base = unpack(content)
    if upto < behind:
        back = [
            deltas.invert(delta, bytes_max=STORED_IMAGE_BYTES_MAX)
            for delta in reversed(stored_deltas(connection, key, upto, behind))
        ]
        return deltas.apply_all(base, back, bytes_max=STORED_IMAGE_BYTES_MAX)
    forth = [*stored_deltas(connection, key, behind, upto), *ahead]
    return deltas.apply_all(base, forth, bytes_max=STORED_IMAGE_BYTES_MAX)


def pack_some(connection: apsw.Connection, *, bytes_max: int) -> bool:
    """Deflate again, and better, base images of about `bytes_max` in all. False: there are none left."""
    done = 0
    while done < bytes_max:
        found = connection.execute("SELECT key, content FROM base WHERE is_packed = 0 LIMIT 1").fetchone()
        if found is None:
            return False
        key, content = found
        image = unpack(content)
        better = pack(image, level=BEST_LEVEL)
        connection.execute(
            "UPDATE base SET is_packed = 1, content = ? WHERE key = ?",
            (better if len(better) < len(content) else content, key),
        )
        done += len(image)
    return True
