"""`stream=True`: bytes of a step in the instance's facet, and what becomes of ordinary results that are too large."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from hashlib import sha256
from typing import Any

import pytest

from executor.core.commands import StepDone, StepError
from executor.core.replay import asked
from executor.sandbox.step_streams import blob_of
from executor.workflow import Blob, NotHere
from facets.delta import apply_all
from facets.facet import Facet
from facets.limits import Limits
from tests.executor.sandbox.steps_world import Owner, World, current, really, virtually

KIB = 1024
DATA = bytes(range(256)) * (600 * KIB // 256) + b"end"


def image_of(owner: Owner) -> bytes:
    return apply_all(b"", [owner.report.delta], bytes_max=Limits().facet_bytes_max)


def in_pieces(size: int = 100_000) -> Iterator[bytes]:
    for at in range(0, len(DATA), size):
        yield DATA[at : at + size]


async def async_pieces() -> AsyncIterator[bytes]:
    for piece in in_pieces():
        yield piece


class AsyncFile:
    def __init__(self) -> None:
        self.file = io.BytesIO(DATA)

    async def read(self, size: int) -> bytes:
        return self.file.read(size)

    async def close(self) -> None:
        self.file.close()


async def gives_bytes() -> bytes:
    return DATA


async def gives_async_file() -> AsyncFile:
    return AsyncFile()


SOURCES: dict[str, Callable[[], Any]] = {
    "bytes": lambda: DATA,
    "bytearray": lambda: bytearray(DATA),
    "view": lambda: memoryview(DATA),
    "generator": in_pieces,
    "list": lambda: list(in_pieces(7_000)),
    "file": lambda: io.BytesIO(DATA),
    "async bytes": gives_bytes,
    "async generator": async_pieces,
    "async file": gives_async_file,
    "lambda of a coroutine": lambda: gives_bytes(),  # it is what is tested
    "lambda of an async generator": lambda: async_pieces(),  # likewise
}


@pytest.mark.parametrize("source", SOURCES)
def test_stream_is_in_the_facet_and_its_description_in_the_journal(source: str) -> None:
    async def main(world: World) -> None:
        owner = await world.outcome(SOURCES[source], stream=True)
        report = owner.report
        assert isinstance(report, StepDone), report.error
        blob = blob_of(report.value)
        assert (report.form, blob.size, blob.sha256) == ("stream", len(DATA), sha256(DATA).hexdigest())
        assert len(report.value) < 200
        assert owner.facet._holder is None
        connection = sqlite3.connect(":memory:")
        connection.deserialize(image_of(owner))
        rows = connection.execute("select id, part, data from perdure_streams order by part").fetchall()
        connection.close()
        assert [(stream, part, len(data)) for stream, part, data in rows] == [
            (blob.id, 0, 256 * KIB),
            (blob.id, 1, 256 * KIB),
            (blob.id, 2, len(DATA) - 512 * KIB),
        ]
        assert b"".join(data for _, _, data in rows) == DATA

    really(main)


def test_blob_is_read_in_a_later_step() -> None:
    async def main(world: World) -> None:
        owner = await world.outcome(in_pieces, stream=True)
        blob, image = blob_of(owner.report.value), image_of(owner)

        def use(given: Blob) -> list[Any]:
            return [given.read() == DATA, [len(part) for part in given.chunks()]]

        async def use_async(given: Blob) -> list[Any]:
            return use(given)

        for function in (use, use_async):
            owner = await world.outcome(function, blob, owner=world.owner(image))
            assert owner.result == [True, [256 * KIB, 256 * KIB, len(DATA) - 512 * KIB]]
        assert owner.report.delta is None

    really(main)


def test_empty_stream_has_no_parts() -> None:
    async def main(world: World) -> None:
        owner = await world.outcome(lambda: b"", stream=True)
        blob = blob_of(owner.report.value)
        assert (blob.size, blob.sha256) == (0, sha256().hexdigest())
        owner = await world.outcome(Blob.read, blob, owner=world.owner())
        assert owner.result == b""

    really(main)


def test_blob_of_another_facet_cannot_be_read() -> None:
    blob = Blob(1, 5, sha256(b"12345").hexdigest())

    async def main(world: World) -> None:
        empty = await world.outcome(Blob.read, blob)
        assert empty.error.message == "the bytes of this Blob (5, sha256 5994471abb01…) are not in this facet"
        image = image_of(await world.outcome(in_pieces, stream=True))
        other = await world.outcome(Blob.read, blob, owner=world.owner(image))
        assert other.error.message == empty.error.message

    really(main)


def test_blob_is_read_in_steps_only() -> None:
    blob = Blob(1, 5, "")
    with pytest.raises(NotHere, match="outside of a step; its bytes are in the facet of a running instance"):
        blob.read()


def test_digest_of_what_is_asked_with_a_blob_is_the_same_in_every_process() -> None:
    assert asked("step", "use", (Blob(1, 5, "aa"),), {}).hex() == "4af7b32b0388ecff1d35186f64f916ee"


def test_streams_of_two_steps_have_different_ids_and_a_second_attempt_the_same() -> None:
    async def main(world: World) -> None:
        ids = [
            blob_of((await world.outcome(lambda: b"x", stream=True, path=path, number=number)).report.value).id
            for path, number in (("a#1", 1), ("a#1", 2), ("a#2", 1))
        ]
        assert ids[0] == ids[1] != ids[2]

    really(main)


def test_file_is_closed_when_it_is_read() -> None:
    file = io.BytesIO(DATA)

    async def main(world: World) -> None:
        await world.outcome(lambda: file, stream=True)
        assert file.closed

    really(main)


def test_failed_stream_leaves_nothing_and_closes_its_source() -> None:
    closed: list[bool] = []

    def broken() -> Iterator[bytes]:
        try:
            yield DATA
            raise ValueError("half-way")
        finally:
            closed.append(True)

    async def main(world: World) -> None:
        owner = await world.outcome(broken, stream=True)
        assert owner.error.message == "half-way"
        assert closed == [True]
        names = await world.outcome(
            lambda: len(current()._runtime.facet_execute("select * from sqlite_master", [])),  # type: ignore[union-attr]
            owner=Owner(world),
        )
        assert names.result == 0

    really(main)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("text", "a step with stream=True returned a str; encode it: text.encode()"),
        (
            7,
            (
                "a step with stream=True returned a int; "
                "return bytes, an iterator of bytes, or a file opened for reading bytes"
            ),
        ),
        (["text"], "a step with stream=True gave a piece of type str; give bytes"),
        (io.StringIO("text"), "a step with stream=True gave a piece of type str; give bytes"),
        (
            [bytes(16 * KIB * KIB + 1)],
            (
                "a piece of a stream is 16777217 bytes, the limit is 16777216. "
                "Give it in smaller pieces: a generator, or a file opened for reading bytes."
            ),
        ),
        (
            [bytes(1 << 20)] * 9,
            (
                "a stream does not fit into the facet: one step may change 9437184 bytes of it, and it may have 8388608. "
                "Give less, in parts by several steps, or keep it outside and return a reference."
            ),
        ),
    ],
    ids=["text", "number", "texts", "text file", "large piece", "large stream"],
)
def test_wrong_stream_says_what_is_wrong(given: Any, message: str) -> None:
    async def main(world: World) -> None:
        owner = await world.outcome(lambda: given, stream=True)
        assert owner.error.message == message

    really(main)


def test_tenants_sql_can_read_streams_and_neither_write_nor_change_them() -> None:
    facet = Facet()
    facet.begin_step()
    facet.execute_as_platform("create table perdure_streams (id, part, data)")
    facet.execute_as_platform("insert into perdure_streams values (?, ?, ?)", [1, 0, b"x"])
    assert facet.execute("select id from perdure_streams")[0]["id"] == 1
    for sql in (
        "insert into perdure_streams values (2, 0, x'00')",
        "update perdure_streams set data = x'00'",
        "delete from PERDURE_streams",
        "drop table perdure_streams",
        "alter table perdure_streams add column more",
        "create index mine on perdure_streams (id)",
        "create trigger mine after insert on perdure_streams begin select 1; end",
        "create table perdure_other (x)",
        "create view perdure_view as select 1",
        "insert into perdure_streams values (?, ?, ?)",
    ):
        with pytest.raises(Exception, match="changing a table perdure_… is not allowed in a facet") as caught:
            facet.execute(sql, [2, 0, b"x"] if "?" in sql else ())
        assert caught.value.code == "facet_sql_forbidden"  # type: ignore[attr-defined]
    assert [tuple(row) for row in facet.execute("select * from perdure_streams")] == [(1, 0, b"x")]
    facet.rollback_step()
    facet.close()


def test_sensitive_result_is_marked() -> None:
    async def function() -> str:
        return "secret"

    async def main(world: World) -> None:
        assert (await world.outcome(function, sensitive=True)).report.form == "sensitive"
        assert (await world.outcome(function)).report.form == "value"

    virtually(main)


def test_result_over_the_limit_names_limit_and_way_out() -> None:
    async def function() -> bytes:
        return bytes(1024 * 1024)

    async def main(world: World) -> None:
        report = (await world.outcome(function)).report
        assert isinstance(report, StepError)
        assert report.error.message == (
            "result is 1048581 bytes encoded, the limit is 1048576. "
            "Give bytes by a step with stream=True, or keep large results in the facet or outside, "
            "and return a reference."
        )
        assert (report.error.code, report.error.retryable) == ("payload_too_large", False)

    virtually(main)
