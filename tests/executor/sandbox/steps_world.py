"""Attempts without a run: the process's `Steps`, an owner that writes down what it is told, and a clock that jumps.

`VirtualLoop` has its own time: when nothing is ready it goes to the next timer at once. Threads have no place in it, so
what executes in threads is tested on the real clock, in milliseconds.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from executor.core import values
from executor.core.commands import Beat, Emit, StepDone, StepError
from executor.sandbox import output
from executor.sandbox.blobs_inside import Blobs
from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.facets_inside import RunFacet
from executor.sandbox.output import Recorder
from executor.sandbox.protocol import BlobPart, BlobStored, NeedBlob, NeedFacet, NeedPages, Output, PutBlob
from executor.sandbox.step_attempt import Attempt
from executor.sandbox.step_calls import StepCall
from executor.sandbox.steps import Steps
from executor.sandbox.threads import StepPool
from executor.workflow.options import StepOptions
from executor.workflow.step import Step
from facets.pages import PageCache

current = Step(None).current  # type: ignore[arg-type]  # inside a step it asks nobody else
emit = Step(None).emit  # type: ignore[arg-type]


class _Jumping(selectors.SelectSelector):
    """Waits for nobody: what would be waited is added to the loop's time."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("the test waits for ever")
        self.loop.now_s += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now_s = 1_000.0
        selector = _Jumping()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now_s


class Owner:
    """The run, as far as attempts know it. `told` is what it heard, in order."""

    def __init__(self, world: World, image: bytes = b"") -> None:
        self.world = world
        self.told: list[Any] = []
        self.lines: list[Output] = []
        self.recorder = Recorder(1, world.steps.limits, self.lines.append)
        self.recorder.go_live()
        self._image = image
        self.number = 1
        self.stored: dict[int, list[bytes]] = {}
        self.refusal = BlobStored(1, 0)
        self.asked: list[PutBlob | NeedBlob] = []
        self.blobs = Blobs(self, wait_s=10.0)
        self.facet = RunFacet(1, self, world.steps.limits)
        self.page_cache = PageCache(1 << 20)
        self.over = asyncio.Event()

    def attempt_begun(self, attempt: Attempt) -> None:
        self.told.append(f"begun {attempt.attempt}")

    def attempt_lasts(self, attempt: Attempt) -> None:
        self.told.append(f"lasts {attempt.attempt}")

    def attempt_says(self, attempt: Attempt, command: Beat | Emit) -> None:
        self.told.append(command)

    def attempt_over(self, attempt: Attempt, report: StepDone | StepError) -> None:
        self.told.append(report)
        self.over.set()

    @property
    def report(self) -> Any:
        """The one that was made."""
        (report,) = [told for told in self.told if isinstance(told, StepDone | StepError)]
        return report

    @property
    def reports(self) -> list[Any]:
        return [told for told in self.told if isinstance(told, StepDone | StepError)]

    @property
    def result(self) -> Any:
        assert isinstance(self.report, StepDone), self.report
        return values.decode(self.report.value)

    @property
    def error(self) -> Any:
        assert isinstance(self.report, StepError), self.report
        return self.report.error

    # --- Host of the facet

    def need(self, question: NeedFacet | NeedPages | PutBlob | NeedBlob) -> None:
        if isinstance(question, PutBlob | NeedBlob):
            self.asked.append(question)
            self.world.steps.loop.call_soon(self._answer)
            return
        assert isinstance(question, NeedFacet)
        self.world.steps.loop.call_soon(self._answer)

    def _answer_blobs(self) -> None:
        asked, self.asked = self.asked, []
        for question in asked:
            parts = self.stored.setdefault(question.id, [])
            if isinstance(question, NeedBlob):
                data = parts[question.part] if question.part < len(parts) else None
                self.blobs.take(BlobPart(1, question.number, data))
            else:
                if not self.refusal.message:
                    assert question.first == len(parts)
                    parts += question.parts
                self.blobs.take(msgspec.structs.replace(self.refusal, number=question.number))

    def _answer(self) -> None:
        self._answer_blobs()
        if not self.facet.is_loaded:
            self.facet.take_image(0, len(self._image), self._image)

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        self._answer()
        assert is_so()

    def call_on_loop(self, callback: Callable[[], object]) -> None:
        self.world.steps.call_on_loop(callback)


class World:
    """`steps`, and what makes attempts of functions."""

    def __init__(self, threads: int = 0, **limits: Any) -> None:
        loop = asyncio.get_running_loop()
        self.pool = StepPool(threads)
        clock: dict[str, Any] = {"now_s": loop.time} if isinstance(loop, VirtualLoop) else {}
        self.steps = Steps(loop, self.pool, {__file__}, ChildLimits(step_threads=threads, **limits), **clock)

    def owner(self, image: bytes = b"") -> Owner:
        return Owner(self, image)

    def begin(  # it is `step.do` and more
        self,
        function: Callable[..., Any],
        *args: Any,
        owner: Owner | None = None,
        number: int = 1,
        path: str = "s#1",
        details: bytes = b"",
        **options: Any,
    ) -> tuple[Owner, Attempt]:
        owner = owner or self.owner()
        context = contextvars.Context()
        call = StepCall(
            path, "s", bytes(16), "w.py:1", function, args, {}, StepOptions().changed(options), context, b"seed"
        )
        return owner, self.steps.begin(owner, call, number, details)

    async def outcome(self, function: Callable[..., Any], *args: Any, **options: Any) -> Owner:
        """Its owner when it is over."""
        owner, _ = self.begin(function, *args, **options)
        await asyncio.wait_for(owner.over.wait(), 3_600)
        return owner

    @property
    def executing(self) -> int:
        return len(self.steps._executing)

    @property
    def threads_taken(self) -> int:
        return self.steps._threads_taken


@asynccontextmanager
async def world(threads: int = 0, **limits: Any) -> AsyncIterator[World]:
    output.install()
    made = World(threads, **limits)
    try:
        yield made
    finally:
        made.pool.close()
        output.uninstall()


def virtually(main: Callable[[World], Any], **limits: Any) -> Any:
    """The result of `main(world)` on a virtual clock, without threads."""

    async def inside() -> Any:
        async with world(**limits) as made:
            return await main(made)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(inside())


def really(main: Callable[[World], Any], *, threads: int = 2, **limits: Any) -> Any:
    """The result of `main(world)` on the real clock, with threads."""

    async def inside() -> Any:
        async with world(threads, **limits) as made:
            return await main(made)

    return asyncio.run(inside())


async def until(is_so: Callable[[], bool], *, patience_s: float = 10.0) -> None:
    """Let others go on until it is so."""
    end_s = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < end_s, "it never came to be so"
        await asyncio.sleep(0.001)
