"""`stream=True`: bytes of a step on their way to the executor and back, and what becomes of ordinary results that are too large."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from hashlib import sha256
from typing import Any

import pytest

from executor.core import blobs
from executor.core.commands import StepDone, StepError
from executor.core.replay import asked
from executor.engine import blobs as engine_blobs
from executor.sandbox import step_streams
from executor.sandbox.protocol import BlobStored, PutBlob
from executor.sandbox.step_streams import blob_of
from executor.workflow import Blob, NotHere
from executor.workflow import blob as blob_module
from facets.delta import apply_all
from facets.limits import Limits
from tests.executor.sandbox.steps_world import Owner, World, current, really, until, virtually

KIB = 1024
DATA = bytes(range(256)) * (600 * KIB // 256) + b"end"


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
def test_stream_is_with_the_executor_and_its_description_in_the_journal(source: str) -> None:
    async def main(world: World) -> None:
        owner = await world.outcome(SOURCES[source], stream=True)
        report = owner.report
        assert isinstance(report, StepDone), report.error
        blob = blob_of(report.value)
        assert (report.form, blob.size, blob.sha256) == ("stream", len(DATA), sha256(DATA).hexdigest())
        assert len(report.value) < 200
        assert report.delta is None
        assert [len(part) for part in owner.stored[blob.id]] == [256 * KIB, 256 * KIB, len(DATA) - 512 * KIB]
        assert b"".join(owner.stored[blob.id]) == DATA

    really(main)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_portion_leaves_only_when_the_one_before_is_durable(is_async: bool) -> None:
    given: list[int] = []

    def pieces() -> Iterator[bytes]:
        for number in range(12):
            given.append(number)
            yield bytes(512 * KIB)

    async def async_pieces() -> AsyncIterator[bytes]:
        for piece in pieces():
            yield piece

    async def main(world: World) -> None:
        owner = world.owner()
        answer, owner._answer = owner._answer, lambda: None  # type: ignore[method-assign]
        world.begin(async_pieces if is_async else pieces, owner=owner, stream=True)
        for count in range(1, 7):
            await until(lambda: len(owner.asked) == 1)
            assert given == list(range(2 * count)), "nothing more is asked of the step meanwhile"
            [asked] = owner.asked
            assert isinstance(asked, PutBlob)
            assert (asked.first, [len(part) for part in asked.parts]) == (4 * (count - 1), [256 * KIB] * 4)
            answer()
        await until(lambda: bool(owner.reports))
        assert blob_of(owner.report.value).size == 6 * KIB * KIB

    really(main)


def test_streams_written_at_once_take_turns() -> None:
    async def main(world: World) -> None:
        owner = world.owner()
        answer, owner._answer = owner._answer, lambda: None  # type: ignore[method-assign]
        for number in range(3):
            world.begin(lambda: bytes(3 * 1024 * KIB), owner=owner, stream=True, path=f"s#{number}")
        paths: list[str] = []
        while len(owner.reports) < 3:
            await until(lambda: len(owner.asked) == 1 or len(owner.reports) == 3)
            for question in owner.asked:
                assert isinstance(question, PutBlob)
                paths.append(question.path)
            answer()
        assert len(paths) == 9
        assert sorted(len(parts) for parts in owner.stored.values()) == [12, 12, 12]

    really(main, threads=3)


def test_blob_is_read_in_a_later_step() -> None:
    async def main(world: World) -> None:
        owner = await world.outcome(in_pieces, stream=True)
        blob, stored = blob_of(owner.report.value), owner.stored

        def use(given: Blob) -> list[Any]:
            return [given.read() == DATA, [len(part) for part in given.chunks()]]

        async def use_async(given: Blob) -> list[Any]:
            return use(given)

        async def use_slowly(given: Blob) -> list[Any]:
            parts = [part async for part in given]
            return [b"".join(parts) == DATA, [len(part) for part in parts]]

        for function in (use, use_async, use_slowly):
            owner = world.owner()
            owner.stored = stored
            await world.outcome(function, blob, owner=owner)
            assert owner.result == [True, [256 * KIB, 256 * KIB, len(DATA) - 512 * KIB]]
        assert owner.report.delta is None

    really(main)


def test_empty_stream_has_no_parts() -> None:
    async def main(world: World) -> None:
        owner = await world.outcome(lambda: b"", stream=True)
        blob = blob_of(owner.report.value)
        assert (blob.size, blob.sha256) == (0, sha256().hexdigest())
        assert owner.stored == {}
        owner = await world.outcome(Blob.read, blob, owner=world.owner())
        assert owner.result == b""

    really(main)


def test_blob_of_another_instance_cannot_be_read() -> None:
    blob = Blob(1, 5, sha256(b"12345").hexdigest())

    async def main(world: World) -> None:
        empty = await world.outcome(Blob.read, blob)
        assert empty.error.message == (
            "the bytes of this Blob (5, sha256 5994471abb01…) are not there: "
            "they belong to another instance, or to an execution that is over"
        )
        owner = world.owner()
        owner.stored = {1: [b"1234"]}
        other = await world.outcome(Blob.read, blob, owner=owner)
        assert other.error.message == empty.error.message

    really(main)


def test_blob_is_read_in_steps_only() -> None:
    blob = Blob(1, 5, "")
    with pytest.raises(NotHere, match="outside of a step; its bytes are with a running instance"):
        blob.read()


def test_another_blob_is_something_else_to_ask_for() -> None:
    digest = asked("step", "use", (Blob(1, 5, "aa"),), {})
    assert digest == asked("step", "use", (Blob(1, 5, "aa"),), {})
    assert digest.hex() == "70f6794197ea1e415520c7ce3efae927"
    others = [(Blob(2, 5, "aa"),), (Blob(1, 6, "aa"),), (Blob(1, 5, "ab"),), ([Blob(2, 5, "aa")],)]
    assert len({digest, *(asked("step", "use", other, {}) for other in others)}) == 5
    assert asked("step", "use", ({"in": Blob(1, 5, "aa")},), {}) != asked(
        "step", "use", ({"in": Blob(2, 5, "aa")},), {}
    )


def test_parts_are_of_one_size_on_both_sides() -> None:
    assert blob_module.PART_BYTES == blobs.PART_BYTES
    assert step_streams.PORTION_PARTS == engine_blobs.PORTION_PARTS


def test_every_attempt_has_a_stream_of_its_own() -> None:
    async def main(world: World) -> None:
        ids = {
            blob_of((await world.outcome(lambda: b"x", stream=True, path=path, number=number)).report.value).id
            for path, number in (("a#1", 1), ("a#1", 2), ("a#2", 1))
        }
        assert len(ids) == 3
        assert 0 < min(ids) <= max(ids) <= blobs.ID_MAX

    really(main)


def test_stream_leaves_the_facet_to_the_step() -> None:
    """What it writes there is one transaction with its result, whenever in between it does; reading does not take it."""

    def gives() -> Iterator[bytes]:
        runtime = current()._runtime
        runtime.facet_execute("create table t (n)", [])
        for number in range(40):
            runtime.facet_execute("insert into t values (?)", [number])
            yield bytes(100 * KIB)

    async def main(world: World) -> None:
        owner = await world.outcome(gives, stream=True)
        report = owner.report
        assert blob_of(report.value).size == 4_000 * KIB
        connection = sqlite3.connect(":memory:")
        connection.deserialize(apply_all(b"", [report.delta], bytes_max=Limits().facet_bytes_max))
        assert connection.execute("select count(*) from t").fetchone() == (40,)
        connection.close()

    really(main)


@pytest.mark.parametrize(
    ("refusal", "message", "code", "is_retryable"),
    [
        (
            BlobStored(1, 0, "The streams would have 9 bytes, the limit is 8.", is_too_large=True),
            (
                "The streams would have 9 bytes, the limit is 8. Give less, or keep it outside and return a reference; "
                "self.continue_as_new() lets go of the streams so far."
            ),
            "payload_too_large",
            False,
        ),
        (BlobStored(1, 0, "the disk is full"), "a stream cannot be written: the disk is full", "step_failed", True),
    ],
    ids=["too large", "full disk"],
)
def test_portion_that_is_not_taken_fails_the_attempt(
    refusal: BlobStored, message: str, code: str, is_retryable: bool
) -> None:
    async def main(world: World) -> None:
        for source in (in_pieces, async_pieces):
            owner = world.owner()
            owner.refusal = refusal
            await world.outcome(source, owner=owner, stream=True)
            assert owner.error.message == message
            assert (owner.error.code, owner.error.retryable) == (code, is_retryable)

    really(main)


def test_attempt_that_ran_out_of_time_sends_nothing_more() -> None:
    async def main(world: World) -> None:
        owner = world.owner()
        answer, owner._answer = owner._answer, lambda: None  # type: ignore[method-assign]
        world.begin(lambda: bytes(8 * 1024 * KIB), owner=owner, stream=True, timeout=0.5)
        await until(lambda: bool(owner.reports))
        assert owner.error.type == "executor.workflow.StepTimeout"
        answer()
        await until(lambda: world.threads_taken == 0)
        assert [len(parts) for parts in owner.stored.values()] == [4]
        assert not owner.asked

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
    ],
    ids=["text", "number", "texts", "text file", "large piece"],
)
def test_wrong_stream_says_what_is_wrong(given: Any, message: str) -> None:
    async def main(world: World) -> None:
        owner = await world.outcome(lambda: given, stream=True)
        assert owner.error.message == message

    really(main)


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
