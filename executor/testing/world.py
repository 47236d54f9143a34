"""The executor of a test: it decides by the real rules, keeps everything in memory, and owns the clock.

Entries are delivered, the run goes as far as it can and asks, what it asks for becomes entries: as in production, but
in one thread, without a disk. When nothing executes, the clock jumps to the next moment that brings something about.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Literal

from executor.core import decide
from executor.core.entries import Started, StartOptions
from executor.core.failure import ErrorFact
from executor.sandbox.protocol import Ask, Update
from executor.testing import inside
from executor.testing.answers import Errors
from executor.testing.clock import VirtualClock
from executor.testing.failures import StepStuck
from executor.testing.hosted import Hosted
from executor.testing.process import Process
from executor.testing.runs import Runs
from executor.testing.tree import WorkingTree

COMMIT = "0" * 40
"""What `event.commit` is in a test: the working tree is none."""
JUMPS_MAX = 10_000
"""How often the clock may jump in one call: a run that only ever sleeps would never give it back."""
ERRORS_KEPT_MAX = 1_000
_FOR_EVER = 1 << 62
ORDER_S = 0.05
"""For so long of real time the outcome of a step waits for those of steps that began before it."""


class World(Runs):
    """All instances of one test, and its clock."""

    def __init__(
        self, clock: VirtualClock, tree: WorkingTree, process: Process, *, unloads: bool, patience_s: float
    ) -> None:
        super().__init__(clock, tree, process, unloads=unloads)
        self.patience_s = patience_s
        self.errors: Errors = {}
        self.is_closed = False

    # --- from outside

    def start(self, id: str, workflow: str, payload: bytes, options: StartOptions | None = None) -> Hosted:
        """A new instance, which has not begun."""
        hosted = Hosted(id)
        seed = blake2b(id.encode(), digest_size=16, person=b"perdure testing").digest()
        self.hosted[id] = hosted
        self.append(hosted, Started(self.clock.now_ms, workflow, COMMIT, payload, seed, options))
        return hosted

    def drive(
        self, done: Callable[[], bool] = lambda: False, *, until_ms: int | None = None
    ) -> Literal["done", "rests", "jumps"]:
        """Let everything go on until `done()`, or until all rests: nothing can go on without the clock passing
        `until_ms` (None: without it moving at all), or after JUMPS_MAX jumps. Raises WorkflowFailure."""
        jumps = 0
        with inside.driving(self._keep_error):
            while True:
                if self.is_closed:
                    return "done" if done() else "rests"
                self.settle()
                for failures in (self.process.steps.refusals, self.failures):
                    if failures:
                        raise failures.pop(0)
                if done():
                    return "done"
                if self.is_executing:
                    self._wait()
                    continue
                wake_ms = self._next_wake_ms()
                if wake_ms is None or wake_ms > max(until_ms or 0, self.clock.now_ms):
                    return "rests"
                if jumps == JUMPS_MAX:
                    return "jumps"
                self.clock.move_to(wake_ms)
                self._wake()
                jumps += 1

    def ask(
        self, hosted: Hosted, question: Callable[[int], Ask | Update], done: Callable[[], bool]
    ) -> Literal["done", "rests", "jumps"]:
        """Have its run in memory and live, give it `question(number of the run)`, and drive until `done()`."""
        hosted.is_kept, hosted.is_resting = True, False
        self.touch(hosted)
        try:
            self.drive()
            if hosted.number is None:
                return "rests"
            with inside.driving(self._keep_error):
                self.process.handle(question(hosted.number))
            return self.drive(lambda: done() or hosted.is_over, until_ms=_FOR_EVER)
        finally:
            hosted.is_kept = False
            self.touch(hosted)
            self.drive()

    @property
    def is_executing(self) -> bool:
        """Steps of some run execute."""
        return any(hosted.number is not None and not hosted.is_quiet for hosted in self.by_number.values())

    def close(self) -> None:
        self.is_closed = True
        with inside.driving(self._keep_error):
            for hosted in list(self.hosted.values()):
                self.drop(hosted)
            self.process.close()

    # --- time

    def _next_wake_ms(self) -> int | None:
        wakes = (hosted.next_wake_ms() for hosted in self.hosted.values())
        return min((wake_ms for wake_ms in wakes if wake_ms is not None), default=None)

    def _wake(self) -> None:
        for hosted in self.hosted.values():
            wake_ms = hosted.next_wake_ms()
            if wake_ms is not None and wake_ms <= self.clock.now_ms:
                self.append(hosted, *decide.on_clock(hosted.instance, self.clock.now_ms).entries)
                hosted.is_resting = False

    def _wait(self) -> None:
        """Real time passes, until something comes of what executes."""
        behind = [hosted for hosted in self.by_number.values() if hosted.reports]
        if self.process.wait(ORDER_S if behind else self.patience_s):
            return
        if behind:
            for hosted in behind:
                self.journal_reports(hosted, of_all=True)
            return
        names = [f"{hosted.id}: {', '.join(hosted.instance.executing) or '?'}" for hosted in self.by_number.values()]
        raise StepStuck(
            f"nothing came of the steps that execute for {self.patience_s:g} s of real time ({'; '.join(names)}). "
            "Mock them, or give WorkflowTest(…, patience_s=…) more."
        )

    def _keep_error(self, error: BaseException, fact: ErrorFact) -> None:
        if len(self.errors) >= ERRORS_KEPT_MAX:
            self.errors.pop(next(iter(self.errors)))
        self.errors[fact.type, fact.message] = error
