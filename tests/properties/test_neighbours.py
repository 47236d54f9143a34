"""P9: instances in one process do not influence each other, though they share its modules."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.executor.fake_executor import in_process
from tests.executor.sandbox.programs import ENDS, rich_programs, rich_source, rich_stories
from tests.properties.language import assert_same, job

QUICK = settings.default.max_examples if settings.default is not None else 50
SHARED = """
import contextvars, functools
variable = contextvars.ContextVar("variable", default=0)

@functools.cache
def square(x):
    return x * x

class Job(Workflow):
    local = ()
"""
"""State of the module that a program may well have: a cache, a context variable, and what a class has."""
USES = """
        random.seed(len(self.local))
        variable.set(variable.get() + 1)
        self.local = (*self.local, event.instance_id == "never")
        asyncio.current_task().set_name("mine")
        seen += [square(3), variable.get(), len(self.local), random.random(), asyncio.current_task().get_name()]
"""


def source_with_state(program, end) -> str:
    """The program, with module state that it uses at its beginning and at its end."""
    text = rich_source(program, end)
    text = text.replace("\nclass Job(Workflow):\n", SHARED, 1)
    begin = "        seen = self.seen = []\n"
    assert begin in text
    text = text.replace(begin, begin + USES.lstrip("\n"), 1)
    at = max(
        text.rindex(ending) for ending in ("return seen", "raise Value", "if event.payload is None") if ending in text
    )
    return text[:at].rstrip(" ") + USES.lstrip("\n") + " " * 8 + text[at:]


@settings(max_examples=max(QUICK // 2, 5))
@given(rich_programs, st.sampled_from(ENDS), st.lists(rich_stories, min_size=2, max_size=4), st.sets(st.integers(0, 3)))
def test_interleaved_instances_of_the_whole_language_equal_separate_ones(program, end, stories, evicted) -> None:
    """P9: whatever the order in which they go on, some of them evicted at every turn."""

    async def main() -> None:
        text = source_with_state(program, end)
        alone = []
        for story in stories:
            async with in_process(text) as executor:
                alone.append(await executor.play(job(story)))
        async with in_process(text) as executor:
            together = await asyncio.gather(
                *(executor.play(job(story), evict=number in evicted) for number, story in enumerate(stories))
            )
        for one, other in zip(alone, together, strict=True):
            assert_same(one, other)

    asyncio.run(main())
