"""Byte streams between sandboxes and the store: what sandboxes may send and ask for, and what they may not."""

import pytest
import trio

from executor.core.blobs import PART_BYTES, PART_COUNT_MAX
from executor.core.errors import Corrupt, Unavailable
from executor.engine import blobs
from executor.engine.blobs import PORTION_PARTS
from executor.sandbox.protocol import BlobPart, BlobStored, NeedBlob, PutBlob
from tests.executor.engine.test_facets import KEY, begun, condemned, silent
from tests.executor.engine.world import ScriptedHost, world


@pytest.fixture
def host():
    host = ScriptedHost()
    host.scripts["Silent"] = silent
    return host


async def answers(host: ScriptedHost, count: int = 1) -> list[object]:
    with trio.fail_after(30):
        while True:
            found = [frame for frame in host.log if isinstance(frame, BlobStored | BlobPart)]
            if len(found) >= count:
                return found
            await trio.sleep(0.002)


async def test_what_was_sent_is_read_part_by_part(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        run, sandbox = await begun(w)
        said = [
            PutBlob(run, 1, "s#1", 7, 0, [b"a" * PART_BYTES, b"b"]),
            NeedBlob(run, 1, 7, 1),
            NeedBlob(run, 2, 7, 2),
            NeedBlob(run, 3, 8, 0),
        ]
        for count, frame in enumerate(said, start=1):
            sandbox.say([frame])
            await answers(host, count)
        assert await answers(host) == [
            BlobStored(run, 1),
            BlobPart(run, 1, b"b"),
            BlobPart(run, 2, None),
            BlobPart(run, 3, None),
        ]


@pytest.mark.parametrize(
    "wrong",
    [
        PutBlob(0, 1, "s#1", 7, 0, []),
        PutBlob(0, 1, "s#1", 7, 0, [b""]),
        PutBlob(0, 1, "s#1", 7, 0, [b"x"] * (PORTION_PARTS + 1)),
        PutBlob(0, 1, "s#1", 7, 0, [bytes(PART_BYTES + 1)]),
        PutBlob(0, 1, "s#1", 7, -1, [b"x"]),
        PutBlob(0, 1, "s#1", 7, PART_COUNT_MAX, [b"x"]),
        PutBlob(0, 1, "s#1", 0, 0, [b"x"]),
        PutBlob(0, 1, "s#1", 2**63, 0, [b"x"]),
        PutBlob(0, 1, "s" * 1025, 7, 0, [b"x"]),
        NeedBlob(0, 1, 7, -1),
        NeedBlob(0, 1, 7, PART_COUNT_MAX),
        NeedBlob(0, 1, -7, 0),
    ],
    ids=lambda frame: f"{type(frame).__name__}",
)
async def test_a_frame_of_another_form_breaks_the_protocol(tmp_path, host, wrong):
    async with world(tmp_path, host=host) as w:
        run, sandbox = await begun(w)
        w.store.put_blob = lambda *question, **more: pytest.fail("it must not be written")
        sandbox.say([type(wrong)(run, *[getattr(wrong, name) for name in wrong.__struct_fields__[1:]])])
        await condemned(host)


@pytest.mark.parametrize("kind", ["put", "need"])
async def test_a_second_question_before_the_answer_breaks_the_protocol(tmp_path, host, kind):
    """Of many runs too: what is in memory here is one portion for each sandbox."""
    async with world(tmp_path, host=host) as w:
        run, sandbox = await begun(w)
        first = PutBlob(run, 1, "s#1", 7, 0, [b"x"]) if kind == "put" else NeedBlob(run, 1, 7, 0)
        other = PutBlob(run + 5, 2, "s#1", 8, 0, [b"x"]) if kind == "put" else NeedBlob(run + 5, 2, 7, 0)
        sandbox.say([first, other])
        await condemned(host)


async def test_a_run_that_is_gone_is_answered_and_writes_nothing(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        run, sandbox = await begun(w)
        sandbox.say([PutBlob(run + 9, 1, "s#1", 7, 0, [b"x"]), NeedBlob(run + 9, 1, 7, 0)])
        found = await answers(host, 2)
        assert sorted(found, key=lambda frame: type(frame).__name__) == [
            BlobPart(run + 9, 1, None, "the run has ended"),
            BlobStored(run + 9, 1, "the run has ended"),
        ]
        assert not w.store.may_have_blobs(1)


async def test_a_later_attempt_takes_the_place_of_an_earlier_one(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        run, sandbox = await begun(w)
        told = [
            PutBlob(run, 1, "s#1", 7, 0, [b"old"]),
            PutBlob(run, 2, "t#1", 8, 0, [b"beside"]),
            PutBlob(run, 3, "s#1", 9, 0, [b"new"]),
            PutBlob(run, 4, "s#1", 7, 1, [b"late"]),
            PutBlob(run, 5, "t#1", 8, 1, [b"on"]),
        ]
        for count, frame in enumerate(told, start=1):
            sandbox.say([frame])
            await answers(host, count)
        late = BlobStored(run, 4, "it is not the stream of an attempt that executes")
        assert await answers(host) == [*(BlobStored(run, number) for number in (1, 2, 3)), late, BlobStored(run, 5)]
        assert [w.store.blob_part(*KEY, blob, 0) for blob in (7, 8, 9)] == [None, b"beside", b"new"]


async def test_what_is_over_the_limit_or_finds_no_room_is_told(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        run, sandbox = await begun(w)

        def full(*_question, **_more):
            raise Unavailable("the disk is full", code="storage_full")

        w.store.put_blob = full
        sandbox.say([PutBlob(run, 1, "s#1", 7, 0, [b"x"])])
        assert await answers(host) == [BlobStored(run, 1, "the disk is full")]


async def test_a_damaged_part_holds_the_instance(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        run, sandbox = await begun(w)

        def damaged(*_question):
            raise Corrupt("Part 0 of a blob does not have its checksum.", code="corrupt_store")

        w.store.blob_part = damaged
        sandbox.say([NeedBlob(run, 1, 7, 0)])
        assert await answers(host) == [BlobPart(run, 1, None, "Part 0 of a blob does not have its checksum.")]
        with trio.fail_after(30):
            while (await w.engine.reads.row(KEY)).row.state != "held":
                await trio.sleep(0.002)


async def test_streams_that_no_entry_names_are_bounded(tmp_path, host, monkeypatch):
    """Else a sandbox could have the executor remember, and spare, one for each path that it makes up."""
    monkeypatch.setattr(blobs, "UNNAMED_MAX", 3)
    async with world(tmp_path, host=host) as w:
        run, sandbox = await begun(w)

        async def put(number: int, path: str, blob: int) -> object:
            sandbox.say([PutBlob(run, number, path, blob, 0, [b"x"])])
            return (await answers(host, number))[-1]

        for number in range(1, 4):
            assert await put(number, f"s#{number}", number) == BlobStored(run, number)
        refused = BlobStored(run, 4, "3 steps give byte streams already")
        assert await put(4, "s#4", 4) == refused
        assert await put(5, "s#2", 5) == BlobStored(run, 5), "a later attempt takes the place of an earlier one"
        resident = w.engine.residents.get(KEY)
        resident.instance.settled.add("s#1")
        assert await put(6, "s#4", 6) == BlobStored(run, 6), "what has ended without one does not count"
        assert resident.run.blobs == {3: "s#3", 5: "s#2", 6: "s#4"}
        assert sorted(w.store.blob_part(*KEY, blob, 0) is not None for blob in range(1, 7)) == [False] * 3 + [True] * 3
