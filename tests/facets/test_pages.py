"""Pages: chunks as they are stored and sent, and what a sandbox holds of a large facet."""

from unittest import mock

import apsw
import pytest

from facets import delta, pages
from facets.errors import Corrupt, FacetError, Refused
from facets.facet import Facet
from facets.image import PageImage, Paging
from facets.limits import Limits
from facets.pages import CHUNK_BYTES, Fetched, PageCache, Pages, check_chunk, pack_chunk, raw_chunk, unpack_chunk

MAX = 16 * 1024 * 1024
NOISE = bytes(number * number * 31 >> 3 & 0xFF for number in range(CHUNK_BYTES))


class Host:
    """The host's end: it answers with the last of its images."""

    def __init__(self, image: bytes = b"") -> None:
        self.image = image
        self.asked: list[tuple[int, int]] = []

    def fetch(self, first: int, count: int) -> Fetched:
        self.asked.append((first, count))
        return self.now(first, count)

    def now(self, first: int, count: int) -> Fetched:
        pieces = [self.image[at * CHUNK_BYTES : (at + 1) * CHUNK_BYTES] for at in range(first, first + count)]
        packed = [pack_chunk(piece.ljust(CHUNK_BYTES, b"\0")) for piece in pieces if piece]
        return Fetched(delta.stamp_of(self.image), first, packed)

    def apply(self, change: bytes) -> None:
        self.image = delta.apply(self.image, change, bytes_max=MAX)


def filled(rows: int = 2000) -> bytes:
    facet = Facet(limits=Limits(facet_bytes_max=MAX))
    facet.begin_step()
    facet.execute("create table note(id integer primary key, body text)")
    facet.executemany("insert into note values (?, ?)", [(n, f"{n} " * 100) for n in range(rows)])
    facet.commit_step()
    return facet.image()


IMAGE = filled()


def paged(host: Host, *, chunks: int = 64, **limits: int) -> Facet:
    return Facet(
        host.now(0, 1),
        Limits(facet_bytes_max=MAX, **limits),
        fetch=host.fetch,
        cache=PageCache(chunks * CHUNK_BYTES),
    )


# --- chunks


@pytest.mark.parametrize("content", [bytes(CHUNK_BYTES), b"a" * CHUNK_BYTES, NOISE, NOISE[1:] + b"\0"])
def test_a_chunk_comes_back(content: bytes) -> None:
    for packed in (pack_chunk(content), raw_chunk(content)):
        check_chunk(packed)
        assert unpack_chunk(packed) == content
        assert len(packed) <= CHUNK_BYTES + 5
    assert pack_chunk(bytes(CHUNK_BYTES)) == b""


@pytest.mark.parametrize("at", [0, 4, 5, 40])
def test_a_chunk_with_one_wrong_bit_is_corrupt(at: int) -> None:
    packed = bytearray(pack_chunk(b"abc" * 9000 + bytes(CHUNK_BYTES - 27_000)))
    packed[at] ^= 1
    with pytest.raises(Corrupt) as caught:
        unpack_chunk(bytes(packed))
    assert caught.value.code == "facet_chunk_corrupt"


@pytest.mark.parametrize("body", [b"", b"\x02x", b"\x00short", b"\x01garbage", b"\x00" + bytes(CHUNK_BYTES + 1)])
def test_what_is_no_chunk_is_corrupt_though_its_checksum_fits(body: bytes) -> None:
    import zlib

    with pytest.raises(Corrupt):
        unpack_chunk(zlib.crc32(body).to_bytes(4, "little") + body)


# --- fetching


def test_one_row_is_read_by_a_few_chunks() -> None:
    host = Host(IMAGE)
    facet = paged(host)
    facet.begin_step()
    assert facet.execute("select body from note where id = 1234")[0][0] == "1234 " * 100
    assert len(IMAGE) // CHUNK_BYTES > 30
    assert len(host.asked) <= 3
    facet.execute("update note set body = 'new' where id = 1234")
    host.apply(facet.commit_step())
    assert len(host.asked) <= 3  # what is written was read before
    assert Facet.read_only(host.image, Limits(facet_bytes_max=MAX)).execute("select body from note where id = 1234")


def test_reading_in_order_asks_for_more_and_more_at_once() -> None:
    host = Host(IMAGE)
    facet = paged(host, chunks=256)
    facet.begin_step()
    facet.execute("select sum(length(body)) from note")
    counts = [count for _, count in host.asked]
    assert max(counts) == pages.FETCH_COUNT_MAX
    assert len(counts) < len(IMAGE) / CHUNK_BYTES / 3
    chunks = [chunk for first, count in host.asked for chunk in range(first, first + count)]
    assert len(chunks) == len(set(chunks)), "nothing is fetched twice"


def test_the_cache_is_bounded_and_shared() -> None:
    cache = PageCache(8 * CHUNK_BYTES)
    facets = []
    for _ in range(3):
        host = Host(IMAGE)
        facets.append(Facet(host.now(0, 1), Limits(facet_bytes_max=MAX), fetch=host.fetch, cache=cache))
    for facet in facets:
        facet.begin_step()
        assert facet.execute("select count(body) from note")[0][0] == 2000
        assert cache.size <= 8 * CHUNK_BYTES
    for facet in facets:
        facet.discard()
    assert cache.size == 0
    assert facets[0].execute("select count(*) from note where body like '19%'")[0][0] == 111
    assert cache.size == 0, "what is discarded keeps nothing more"


@pytest.mark.parametrize("blocks", [0, 10_000])
@mock.patch.object(pages, "OVERLAY_BLOCKS_MIN", 2)
def test_a_written_block_stays_until_the_host_has_it(blocks: int) -> None:
    host = Host(IMAGE)
    held = paging(host, chunks=1024)
    held.cache.block_count_max = blocks
    image = PageImage(bytes_max=MAX, stamp=delta.stamp_of(IMAGE), paging=held)
    stale = host.image
    connection = opened(image)
    expected = IMAGE
    for number in range(4):
        connection.execute("update note set body = upper(body) || ? where id between 10 and 40", (str(number),))
        expected = delta.apply(expected, change := image.take_delta(), bytes_max=MAX)
        assert change
    assert host.image is stale
    assert image.data() == expected, "read from what was written, as the host still has the old"
    host.image = expected
    assert image.pages is not None
    image.pages._overlay_max = 0
    connection.execute("update note set body = 'last' where id = 1999")
    host.apply(image.take_delta())
    assert len(image._blocks) < 5, "let go"
    assert image.data() == host.image, "from the cache, which was brought up to date, and from the host"


def paging(host: Host, chunks: int = 64) -> Paging:
    return Paging(host.fetch, PageCache(chunks * CHUNK_BYTES), 0)


def opened(image: PageImage) -> apsw.Connection:
    connection = image.connect()
    connection.execute("pragma cache_size = 5")
    return connection


def test_an_answer_of_another_image_is_corrupt() -> None:
    host = Host(IMAGE)
    facet = paged(host)
    facet.begin_step()
    host.image = IMAGE[:-CHUNK_BYTES] + NOISE
    with pytest.raises(Corrupt) as caught:
        facet.execute("select * from note where id = 1500")
    assert caught.value.code == "facet_delta_mismatch"


@pytest.mark.parametrize("shift", [1, -1])
def test_an_answer_to_another_question_is_corrupt(shift: int) -> None:
    host = Host(IMAGE)
    unrelated = Pages(
        lambda first, count: host.now(first + shift, count), PageCache(MAX), delta.stamp_of(IMAGE), size=len(IMAGE)
    )
    with pytest.raises(Corrupt):
        unrelated.block(100)


def test_a_fetch_that_fails_fails_the_statement_and_the_next_one_works() -> None:
    host = Host(IMAGE)
    broken = [True]

    def fetch(first: int, count: int) -> Fetched:
        if broken:
            raise Refused("not now", code="not_now")
        return host.fetch(first, count)

    facet = Facet(host.now(0, 1), Limits(facet_bytes_max=MAX), fetch=fetch)
    for _ in range(2):
        facet.begin_step()
        with pytest.raises(FacetError) as caught:
            facet.execute("update note set body = 'x' where id = 1500")
        assert caught.value.code == "not_now"
        facet.rollback_step()
    broken.clear()
    facet.begin_step()
    facet.execute("update note set body = 'x' where id = 1500")
    host.apply(facet.commit_step())
    assert Facet.read_only(host.image, Limits(facet_bytes_max=MAX)).execute(
        "select count(*) from note where body = 'x'"
    ) == [(1,)]


def test_a_step_may_change_no_more_than_its_limit() -> None:
    host = Host(IMAGE)
    facet = paged(host, delta_bytes_max=64 * 1024)
    facet.begin_step()
    with pytest.raises(Refused) as caught:
        facet.execute("update note set body = 'x' || body")
    assert caught.value.code == "facet_delta_too_large"
    assert len(facet._image._old) <= 64
    facet.rollback_step()
    facet.begin_step()
    assert facet.execute("select count(*) from note where body like 'x%'") == [(0,)]
    facet.execute("update note set body = 'x' || body where id < 50")
    host.apply(facet.commit_step())
    assert facet.image() == host.image


def test_a_small_facet_that_grows_is_paged_from_then_on() -> None:
    host = Host()
    facet = Facet(
        b"",
        Limits(facet_bytes_max=MAX, paged_bytes_min=CHUNK_BYTES),
        fetch=host.fetch,
        cache=PageCache(CHUNK_BYTES * 3),
    )
    facet.begin_step()
    facet.execute("create table note(id integer primary key, body text)")
    host.apply(facet.commit_step())
    assert facet._image.pages is None
    for number in range(60):
        facet.begin_step()
        facet.executemany("insert into note(body) values (?)", [(f"{number} {n} " * 30,) for n in range(300)])
        host.apply(facet.commit_step())
    assert facet._image.pages is not None
    assert len(host.image) > 2 * 1024 * 1024
    assert len(facet._image._blocks) <= 2 * pages.OVERLAY_BLOCKS_MIN, "what is durable does not stay in memory"
    assert facet.image() == host.image


def test_many_small_steps_keep_no_memory_each() -> None:
    host = Host(IMAGE)
    facet = paged(host)
    for number in range(1000):
        facet.begin_step()
        facet.execute("update note set body = ? where id = 7", (f"{number}",))
        host.apply(facet.commit_step())
    assert facet._image.pages is not None
    assert len(facet._image.pages._pending) <= pages.PENDING_COUNT_MIN + 1
