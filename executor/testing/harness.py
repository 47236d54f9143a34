"""WorkflowTest: a workflow of the working tree, run in the test's own process under a virtual clock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, overload

from executor.core import attributes as search_attributes
from executor.core.entries import StartOptions
from executor.core.errors import Conflict
from executor.core.ids import parse_instance_id
from executor.sandbox.child_limits import ChildLimits
from executor.testing import inside, mocks, tree
from executor.testing.answers import encoded
from executor.testing.clock import VirtualClock
from executor.testing.failures import NeverEnds
from executor.testing.following import Following
from executor.testing.mocks import MISSING, Mock
from executor.testing.process import Process
from executor.testing.run import WorkflowRun
from executor.testing.tree import AnyWorkflow, WorkingTree
from executor.testing.world import JUMPS_MAX, World
from executor.workflow import Duration, Workflow
from executor.workflow.durations import duration_ms

P = TypeVar("P")
R = TypeVar("R")


class WorkflowTest(Generic[P, R]):
    """Runs of one workflow, for one test. Use it as a context manager.

    `run()`, its replays and its rules are those of the platform. Steps execute for real, in this process, unless they
    are mocked; time passes only when nothing executes, and then at once.
    """

    __test__ = False

    @overload
    def __init__(
        self,
        workflow: type[Workflow[P, R]],
        *,
        unload: Literal["every-wait", "never"] = "every-wait",
        now: datetime | None = None,
        workflows: Iterable[AnyWorkflow] = (),
        only_mocks: bool = False,
        patience_s: float = 60.0,
    ) -> None: ...
    @overload
    def __init__(
        self: WorkflowTest[Any, Any],
        workflow: str | os.PathLike[str],
        *,
        unload: Literal["every-wait", "never"] = "every-wait",
        now: datetime | None = None,
        workflows: Iterable[AnyWorkflow] = (),
        only_mocks: bool = False,
        patience_s: float = 60.0,
    ) -> None: ...
    def __init__(
        self,
        workflow: Any,
        *,
        unload: Literal["every-wait", "never"] = "every-wait",
        now: datetime | None = None,
        workflows: Iterable[AnyWorkflow] = (),
        only_mocks: bool = False,
        patience_s: float = 60.0,
    ) -> None:
        """`workflow`: the class, or where it is: "shop.orders:Order", "workflows.py:Order".

        `unload`: "every-wait" drops the run at every wait and replays it, and once more at its end, so that code that
        is not deterministic fails the test (Nondeterminism). `now`: where the clock begins (now). `workflows`: of other
        modules, that this one starts as children. `only_mocks`: the test fails before a step executes that is not
        mocked. `patience_s`: real time that steps may take without any of them ending.
        """
        if unload not in ("every-wait", "never"):
            raise ValueError(f'unload={unload!r} is not "every-wait" or "never"')
        self.workflow: AnyWorkflow = tree.find(workflow)
        self.clock = VirtualClock(now)
        self._tree = WorkingTree(self.workflow, workflows)
        self._unloads = unload == "every-wait"
        self._only_mocks = only_mocks
        self._patience_s = patience_s
        self._world: World | None = None
        self._rules: mocks.Rules[Mock] = mocks.Rules()
        self._waits: mocks.Rules[Mock] = mocks.Rules()
        self._numbers = 0

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a WorkflowTest is of the main thread: sync and async steps are told apart by it")
        if self._world is not None:
            raise RuntimeError("this WorkflowTest is open already; make another")
        inside.enter(self, self._tree.modules())
        try:
            process = Process(self._tree, ChildLimits(), self._rules, only_mocks=self._only_mocks)
            world = World(self.clock, self._tree, process, unloads=self._unloads, patience_s=self._patience_s)
        except BaseException:
            inside.leave(self)
            raise
        world.waits = self._waits
        world.on_settled = Following(world).settle
        self._world = world
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop all runs, cancelling what executes. Journals and results can still be looked at."""
        if self._world is not None and not self._world.is_closed:
            try:
                self._world.close()
            finally:
                inside.leave(self)

    # --- in the place of the world

    def mock_step(
        self,
        step: str,
        function: Callable[..., Any] | None = None,
        /,
        *,
        result: Any = MISSING,
        error: BaseException | type[BaseException] | None = None,
        times: int | None = None,
        occurrence: int | None = None,
    ) -> Mock:
        """Answer attempts of a step by a result, an error, or a function that is called in place of the step's own.

        `step`: a name ("charge": all steps of that name, in whatever group), a name in its groups ("audit/hash"), or a
        path ("charge#2"). `occurrence`: that use of the name only. `times`: so many attempts only, then the next mock
        of that step, or its own function. A child is mocked by the name of its step. What undoes a step is the step
        "undo/charge". Returns the mock, which counts its `calls`.
        """
        rule = mocks.made(step, function, result=result, error=error, times=times, occurrence=occurrence)
        self._rules.add(rule)
        return rule

    def force_timeout(self, step: str, *, times: int | None = None, occurrence: int | None = None) -> Mock:
        """Attempts of that step time out at once, without being made; its retry policy decides what follows."""
        rule = mocks.timeout(step, times, occurrence)
        self._rules.add(rule)
        return rule

    def force_event_timeout(self, wait: str, *, times: int | None = None, occurrence: int | None = None) -> Mock:
        """Waits for an event of that name (or path) time out at once, whatever was sent; no time passes."""
        rule = mocks.timeout(wait, times, occurrence)
        self._waits.add(rule)
        return rule

    @property
    def unused_mocks(self) -> list[Mock]:
        """Mocks that answered nothing: perhaps their names are not those of steps."""
        return [*self._rules.unused(), *self._waits.unused()]

    # --- runs and time

    @overload
    def start(
        self,
        payload: P,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        attributes: Mapping[str, Any] | None = None,
        schedule: str | None = None,
    ) -> WorkflowRun[R]: ...
    @overload
    def start(
        self: WorkflowTest[None, R],
        *,
        id: str | None = None,
        delay: Duration | None = None,
        attributes: Mapping[str, Any] | None = None,
        schedule: str | None = None,
    ) -> WorkflowRun[R]: ...
    def start(
        self,
        payload: Any = None,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        attributes: Mapping[str, Any] | None = None,
        schedule: str | None = None,
    ) -> WorkflowRun[R]:
        """Start a run, and let it go on as far as it can without time passing.

        `delay`: until it begins. `attributes`: what it can be found by. `schedule`: what `event.schedule` tells.
        Raises Refused (the payload is no value, or not of the declared type), Conflict (`instance_exists`).
        """
        world = self._opened
        self._numbers += 1
        name = parse_instance_id(f"run-{self._numbers}" if id is None else id)
        if name in world.hosted:
            raise Conflict(f'an instance "{name}" exists already', code="instance_exists")
        options = None
        if delay is not None or attributes is not None or schedule is not None:
            now_ms = self.clock.now_ms
            options = StartOptions(
                start_at_ms=None if delay is None else now_ms + duration_ms(delay, of="delay="),
                attributes=search_attributes.encode(dict(attributes or {})),
                schedule=schedule,
                scheduled_ms=None if schedule is None else now_ms,
            )
        code = self._tree.workflows[self.workflow.__name__]
        hosted = world.start(name, self.workflow.__name__, encoded(payload, "payload", code.payload_type), options)
        run: WorkflowRun[R] = WorkflowRun(world, hosted)
        world.drive()
        return run

    def run(self, id: str) -> WorkflowRun[Any]:
        """A run of this test, children too. Raises LookupError."""
        found = self._opened.hosted.get(id)
        if found is None:
            raise LookupError(f"there is no run {id!r}; there are {', '.join(self._opened.hosted) or 'none'}")
        return WorkflowRun(self._opened, found)

    @property
    def runs(self) -> list[WorkflowRun[Any]]:
        """All runs, children too, in the order of their starts."""
        return [WorkflowRun(self._opened, hosted) for hosted in self._opened.hosted.values()]

    def advance(self, duration: Duration) -> None:
        """Let so much time pass ("30 days"): sleeps, deadlines and retries come due in their order."""
        world = self._opened
        until_ms = self.clock.now_ms + duration_ms(duration)
        if world.drive(until_ms=until_ms) == "jumps":
            raise NeverEnds(f"{duration} did not pass within {JUMPS_MAX:,} jumps of the clock; advance by less at once")
        self.clock.move_to(until_ms)

    @property
    def _opened(self) -> World:
        if self._world is None:
            raise RuntimeError("open it first: with WorkflowTest(…) as test:")
        return self._world
