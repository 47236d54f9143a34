"""What the instances of the durability tests do: tenant code, and what it must have come to in the end."""

from __future__ import annotations

from typing import Any

from tests.scenarios.crash_server import MARK
from tests.scenarios.witness import Key, World

SOURCE = f'''
import asyncio

from executor.workflow import EventTimeout, Retry, Workflow

VERSION = "@VERSION@"


def work(name, value):
    print("{MARK}")
    return [VERSION, name, value]


class Story(Workflow):
    """Steps, parallel steps, facet writes, a retry, a sleep, a wait that times out, and one that is answered."""

    def note(self, name, value):
        print("{MARK}")
        self.facet.execute("CREATE TABLE IF NOT EXISTS note (version, name, value)")
        self.facet.execute("INSERT INTO note VALUES (?, ?, ?)", (VERSION, name, value))
        return [VERSION, name, value]

    async def run(self, event, step):
        n = event.payload["n"]
        seen = [await step.do("first", self.note, "first", n)]
        seen += await asyncio.gather(step.do("left", work, "left", n), step.do("right", work, "right", n))
        await step.sleep("nap", f"{{event.payload['nap_ms']}} ms")

        @step.do("flaky", retry=Retry(limit=3, delay="5 ms", backoff="constant", jitter=0))
        def flaky():
            noted = self.note("flaky", n)
            if step.current().attempt == 1:
                raise ValueError("the first attempt always fails")
            return noted

        seen.append(await flaky())
        try:
            await step.wait_for_event("never", type="never", timeout="15 ms")
        except EventTimeout:
            seen.append(await step.do("late", work, "late", n))
        go = await step.wait_for_event("go", type="go")
        seen.append(await step.do("last", self.note, "last", go.payload))
        return {{"version": VERSION, "seen": seen}}
'''


def source(marker: str) -> str:
    """A version of the story's code that leaves `marker` in all that it makes."""
    return SOURCE.replace("@VERSION@", marker)


def payload(n: int, nap_ms: int = 20) -> dict[str, Any]:
    return {"n": n, "nap_ms": nap_ms}


def check_story(world: World, key: Key, go: Any) -> None:
    """It completes, on its commit, with the right result and facet. `go`: the payload of its event."""
    expected = world.instances[key]
    result = world.alive.call("result", *key, timeout_s=20)
    status = world.alive.call("status", *key)
    n, version = expected.payload["n"], world.marker_of(key[0], expected.commit)
    assert (status.state, status.commit) == ("complete", expected.commit)
    names = [("first", n), ("left", n), ("right", n), ("flaky", n), ("late", n), ("last", go)]
    assert result == {"version": version, "seen": [[version, name, value] for name, value in names]}
    assert world.rows(key) == [(version, "first", n), (version, "flaky", n), (version, "last", go)]
    expected.is_checked = True
