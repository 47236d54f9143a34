"""FacetSender: what sandboxes ask of their facets, and what they may not ask."""

import threading

import pytest
import trio
import trio.testing

from executor.core.entries import Held
from executor.core.errors import Corrupt
from executor.ports import Pages
from executor.sandbox.protocol import (
    PAGE_CHUNK_MAX,
    PAGE_CHUNKS_MAX,
    Activate,
    FacetFailed,
    FacetImage,
    FacetPages,
    NeedFacet,
    NeedPages,
)
from facets.pages import FETCH_COUNT_MAX
from tests.executor.engine.world import COMMIT, ScriptedHost, ScriptedSandbox, World, world

KEY = ("acme", "i-1")
PAGES = Pages(65536, 7, 1, [b"", b"packed"])


def silent(seen):
    return [], False


@pytest.fixture
def host():
    host = ScriptedHost()
    host.scripts["Silent"] = silent
    return host


async def begun(w: World, key: tuple[str, str] = KEY) -> tuple[int, ScriptedSandbox]:
    """The number of a new run, and the sandbox that it is in."""
    await w.engine.start(key, workflow="Silent", commit=COMMIT, payload=b"\xc0")
    with trio.fail_after(30):
        while True:
            for frame in w.host.log:
                if isinstance(frame, Activate) and frame.instance == key[1]:
                    return frame.run, w.host.living[-1]
            await trio.sleep(0.002)


async def answers(host: ScriptedHost, count: int = 1) -> list[object]:
    with trio.fail_after(30):
        while True:
            found = [frame for frame in host.log if isinstance(frame, FacetImage | FacetPages | FacetFailed)]
            if len(found) >= count:
                return found
            await trio.sleep(0.002)


async def condemned(host: ScriptedHost) -> None:
    with trio.fail_after(30):
        while not any(reason == "protocol" for _, reason in host.killed):
            await trio.sleep(0.002)


def test_both_sides_agree_how_much_may_be_asked_for() -> None:
    assert PAGE_CHUNKS_MAX == FETCH_COUNT_MAX


async def test_a_small_facet_comes_as_a_whole(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        run, sandbox = await begun(w)
        sandbox.say([NeedFacet(run)])
        assert await answers(host) == [FacetImage(run, 0, 0, b"")]


async def test_a_large_facet_comes_in_pages(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        run, sandbox = await begun(w)
        asked = []
        w.store.facet = lambda *key: PAGES
        w.store.pages = lambda *question: asked.append(question) or PAGES
        sandbox.say([NeedFacet(run)])
        await answers(host)
        sandbox.say([NeedPages(run, 5, 1, 2)])
        assert await answers(host, 2) == [FacetPages(run, 0, *PAGES), FacetPages(run, 5, *PAGES)]
        assert asked == [(*KEY, 1, 2)]


@pytest.mark.parametrize(
    ("number", "first", "count"),
    [(1, 0, PAGE_CHUNKS_MAX + 1), (1, 0, -1), (1, -1, 1), (1, PAGE_CHUNK_MAX, 1), (0, 0, 1), (1, 2**63, 1)],
)
async def test_a_question_out_of_bounds_breaks_the_protocol(tmp_path, host, number, first, count):
    async with world(tmp_path, host=host) as w:
        run, sandbox = await begun(w)
        w.store.pages = lambda *question: pytest.fail("it must not be read")
        sandbox.say([NeedPages(run, number, first, count)])
        await condemned(host)


async def test_the_facet_of_another_run_cannot_be_asked_for(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        run, sandbox = await begun(w)
        asked = []
        w.store.pages = lambda *question: asked.append(question) or PAGES
        sandbox.say([NeedPages(run + 77, 1, 0, 1), NeedFacet(run + 77), NeedPages(run, 1, 0, 1)])
        assert await answers(host) == [FacetPages(run, 1, *PAGES)]
        assert asked == [(*KEY, 0, 1)]


async def test_asking_on_without_taking_breaks_the_protocol(tmp_path, host):
    """A sandbox that asks for everything and reads nothing must not fill the host's memory."""
    async with world(tmp_path, host=host) as w:
        run, sandbox = await begun(w)
        read, go_on = [], trio.Event()

        async def send(frames):
            await go_on.wait()

        sandbox.send = send
        w.store.pages = lambda *question: read.append(question) or PAGES
        sandbox.say([NeedPages(run, number, 0, 1) for number in range(1, 50)])
        await condemned(host)
        assert len(read) <= 1
        go_on.set()


async def test_one_answer_for_a_sandbox_is_in_memory_at_a_time(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        runs = [(await begun(w, ("acme", f"i-{number}")))[0] for number in range(4)]
        sandbox = w.host.living[-1]
        read, sent, go_on = [], [], trio.Event()

        async def send(frames):
            sent.extend(frames)
            await go_on.wait()

        sandbox.send = send
        w.store.pages = lambda *question: read.append(question) or PAGES
        sandbox.say([NeedPages(run, 1, 0, 1) for run in runs])
        with trio.fail_after(30):
            while not sent:
                await trio.sleep(0.002)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(read) == 1
        go_on.set()
        with trio.fail_after(30):
            while len(sent) < 4:
                await trio.sleep(0.002)


async def test_a_facet_that_cannot_be_read_holds_its_instance_and_wakes_the_statement(tmp_path, host):
    def damaged(*question):
        raise Corrupt("a chunk is damaged", code="corrupt_store")

    async with world(tmp_path, host=host) as w:
        run, sandbox = await begun(w)
        w.store.pages = damaged
        sandbox.say([NeedPages(run, 3, 0, 1)])
        assert await answers(host) == [FacetFailed(run, 3, "a chunk is damaged")]
        await w.until(KEY, "held")
        held = w.journal(KEY)[-1]
        assert isinstance(held, Held)
        assert held.code == "corrupt_store"


async def test_an_answer_that_comes_too_late_is_dropped(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        run, sandbox = await begun(w)
        reading, go_on = threading.Event(), threading.Event()

        def slow(*question):
            reading.set()
            assert go_on.wait(5)
            return PAGES

        w.store.pages = slow
        sandbox.say([NeedPages(run, 1, 0, 1)])
        await trio.to_thread.run_sync(reading.wait)
        await w.engine.terminate(KEY)
        go_on.set()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert not any(isinstance(frame, FacetPages) for frame in host.log)
