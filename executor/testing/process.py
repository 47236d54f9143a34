"""The inside of a sandbox, in this process: the real program of one (`executor.sandbox.child`), on a loop of its own.

Nothing here decides anything: frames go in, frames come out, and `wait` lets what executes go on in real time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.protocol import FromSandbox, ToSandbox
from executor.sandbox.runs import Child
from executor.sandbox.threads import Job, LoopExecutor, StepPool
from executor.testing.mocks import Mock, MockedSteps, Rules
from executor.testing.tree import WorkingTree


class Threads(StepPool):
    """A pool that is made when the first sync step comes, and that nobody waits for at the end: a thread whose step
    does not end is left alone."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: StepPool | None = None

    def submit(self, job: Job) -> None:
        if self._pool is None:
            self._pool = StepPool(self.count)
        self._pool.submit(job)

    def close(self) -> None:
        if self._pool is not None:
            for _ in range(self.count):
                self._pool._jobs.put(None)


class Process:
    """See the module. `on_question` is given what is sent while a step blocks everything (its facet is asked for)."""

    def __init__(self, tree: WorkingTree, limits: ChildLimits, rules: Rules[Mock], *, only_mocks: bool) -> None:
        self.loop = asyncio.new_event_loop()
        self.inbox: list[FromSandbox] = []
        self.on_question: Callable[[], None] = lambda: None
        self.problems: list[str] = []
        self._threads = Threads(limits.step_threads)
        # The tree is all that a run needs of a bundle.
        self._child = Child(self.loop, self._threads, cast("Any", tree), limits, self._sent, self._ask)
        self.steps = MockedSteps(self.loop, self._threads, tree.files, limits, rules=rules, only_mocks=only_mocks)
        self._child.steps = self.steps
        self.loop.set_default_executor(LoopExecutor(self._threads).as_executor())
        self.loop.set_exception_handler(self._report)

    def handle(self, *frames: ToSandbox) -> None:
        """Give frames in; what they bring about at once is in `inbox` afterwards."""
        self._child.handle(list(frames))

    def wait(self, patience_s: float) -> bool:
        """Let what executes go on until something was sent. False: nothing was, in so many seconds."""
        until = self.loop.time() + patience_s
        alarm = self.loop.call_later(patience_s, self.loop.stop)
        try:
            while not self.inbox and self.loop.time() < until:
                self.loop.run_forever()
        finally:
            alarm.cancel()
        return bool(self.inbox)

    def close(self) -> None:
        """Cancel what is left, and let it clean up for a moment."""
        left = [task for task in asyncio.all_tasks(self.loop) if not task.done()]
        for task in left:
            task.cancel()
        if left:
            self.loop.run_until_complete(asyncio.wait(left, timeout=1.0))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self._threads.close()
        self.loop.close()

    def _ask(self) -> None:
        self.on_question()

    def _sent(self, frames: list[FromSandbox]) -> None:
        self.inbox += frames
        if self.loop.is_running():
            self.loop.stop()

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Problems on the loop of the steps: of callbacks, and of tasks that nobody awaits."""
        del loop
        error = context.get("exception")
        self.problems.append(f"{context.get('message')}: {type(error).__name__}: {error}")
