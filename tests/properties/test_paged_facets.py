"""Laws of large facets: one that is fetched in pages equals one that is whole, byte for byte, in image and deltas.

Whatever is fetched when, however little the cache holds, however far the host lags behind what was committed.
"""

from unittest import mock

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facets import delta, pages
from facets.image import PageImage, Paging
from facets.pages import CHUNK_BYTES, Fetched, PageCache, pack_chunk

MAX = 4 * 1024 * 1024
SMALL_COUNTS = {"OVERLAY_BLOCKS_MIN": 8, "PENDING_COUNT_MIN": 2}

keys = st.integers(0, 400)
sizes = st.sampled_from([0, 1, 60, 300, 900, 1100, 5000, 30_000])
tables = st.sampled_from(["one", "two"])
writes = st.one_of(
    st.builds("insert or replace into {} values ({}, printf('%.{}c', 'x'))".format, tables, keys, sizes),
    st.builds("insert or replace into {} values ({}, zeroblob({}))".format, tables, keys, sizes),
    st.builds("update {} set body = body || 'x' where id between {} and {}".format, tables, keys, keys),
    st.builds("delete from {} where id between {} and {}".format, tables, keys, keys),
    st.builds("insert into words values ('{} alpha {}')".format, keys, keys),
    st.builds("insert into {0} select id + 1000 + {1}, body from {0} where id < 40".format, tables, keys),
)
others = st.sampled_from(
    [
        "select count(*), sum(length(body)) from one",
        "select max(id) from two",
        "create index one_body on one(body)",
        "drop index one_body",
        "create table three as select * from one",
        "drop table three",
        "pragma incremental_vacuum(30)",
        "vacuum",
        "rollback",
        "savepoint s",
        "rollback to s",
        "release s",
    ]
)
controls = st.sampled_from(["begin", "commit", "durable", "durable", "look", "reopen"])
actions = st.lists(st.one_of(writes, writes, writes, others, controls), min_size=5, max_size=40)


class Host:
    """The host's end: images as of each commit; it answers with the one that is durable."""

    def __init__(self) -> None:
        self.images = [b""]
        self.durable = 0
        self.answers = 0

    def fetch(self, first: int, count: int) -> Fetched:
        self.answers += 1
        image = self.images[self.durable]
        pieces = [image[at * CHUNK_BYTES : (at + 1) * CHUNK_BYTES] for at in range(first, first + count)]
        return Fetched(
            delta.stamp_of(image), first, [pack_chunk(piece.ljust(CHUNK_BYTES, b"\0")) for piece in pieces if piece]
        )


def attempt(connection: apsw.Connection, sql: str) -> list[object] | None:
    try:
        return list(connection.execute(sql))
    except (apsw.SQLError, apsw.ConstraintError, apsw.FullError):
        return None


def connected(image: PageImage, page_bytes: int, *, is_spilling: bool) -> apsw.Connection:
    connection = image.connect(page_bytes=page_bytes)
    connection.execute(f"pragma auto_vacuum=incremental; pragma max_page_count={MAX // page_bytes}")
    if is_spilling:
        connection.execute("pragma cache_size=5; pragma cache_spill=2")
    return connection


@pytest.mark.parametrize("bytes_min", [0, 100_000])
@mock.patch.multiple(pages, **SMALL_COUNTS)
@given(
    actions=actions,
    page_bytes=st.sampled_from([512, 1024, 4096]),
    chunks=st.integers(2, 6),
    is_spilling=st.booleans(),
)
def test_a_paged_image_equals_a_whole_one(
    bytes_min: int, actions: list[str], page_bytes: int, chunks: int, is_spilling: bool
) -> None:
    host = Host()
    cache = PageCache(chunks * CHUNK_BYTES)
    paging = Paging(host.fetch, cache, bytes_min)
    whole = PageImage(bytes_max=MAX)
    paged = PageImage(bytes_max=MAX, paging=paging)
    at_whole, at_paged = (connected(image, page_bytes, is_spilling=is_spilling) for image in (whole, paged))

    def both(sql: str) -> None:
        assert attempt(at_whole, sql) == attempt(at_paged, sql)
        assert at_whole.in_transaction == at_paged.in_transaction
        if not at_whole.in_transaction:
            change = whole.take_delta()
            assert paged.take_delta() == change
            if change:
                host.images.append(whole.data())

    both(
        "begin; create table one(id integer primary key, body); create table two(id primary key, body) without rowid;"
        "create virtual table words using fts5(body); commit"
    )
    both(
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < 300) "
        "insert into one select i, printf('%.900c', 'y') from n"
    )
    host.durable = len(host.images) - 1
    for sql in ["reopen", *actions]:
        match sql:
            case "durable":
                host.durable = min(host.durable + 2, len(host.images) - 1)
            case "look":
                # Also what SQLite has in its own cache is read again.
                at_paged.execute("pragma shrink_memory")
                both("select * from one")
            case "reopen":
                # The sandbox dies; what is not durable is lost to both.
                del host.images[host.durable + 1 :]
                image = host.images[-1]
                at_whole.close(force=True)
                at_paged.close(force=True)
                whole = PageImage(image, bytes_max=MAX)
                paged = (
                    PageImage(bytes_max=MAX, stamp=delta.stamp_of(image), paging=paging)
                    if len(image) > bytes_min
                    else PageImage(image, bytes_max=MAX, paging=paging)
                )
                at_whole, at_paged = (connected(each, page_bytes, is_spilling=is_spilling) for each in (whole, paged))
            case _:
                both(sql)
    both("commit")
    assert cache.size <= max(chunks, 2) * CHUNK_BYTES
    assert paged.size == whole.size
    assert paged.data() == whole.data()
