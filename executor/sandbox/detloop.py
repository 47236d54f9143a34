"""The deterministic asyncio event loop on which `run()` executes.

It has no selector, no threads and no clock of its own. It is driven from outside: an entry is delivered, the ready
callbacks run until none is left, and whatever the run has asked for by then is collected. What it guarantees:
  - callbacks run in the order in which they became ready;
  - time is the logical time that the driver sets, and does not move while callbacks run;
  - timers (`asyncio.sleep`, `asyncio.timeout`, `call_later`) are durable: the driver is asked for each, and fires it;
  - tasks and futures hash by a sequence number: sets of them (asyncio's own as well) iterate equally everywhere.
Everything that touches the outside (sockets, threads, processes, signals) raises NotHere, naming the step as the place.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, TypeVarTuple, Unpack

from executor.workflow.errors import NotHere

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

Outer = tuple[asyncio.AbstractEventLoop | None, Any]
"""What `DetLoop.enter` took the place of."""

CALLBACKS_MAX = 1_000_000
"""Callbacks for one entry. More is a loop that spins (`while …: await asyncio.sleep(0)`) and would never end."""
_CLOSE_TRIES_MAX = 20


class Timers(Protocol):
    """The driver's side of durable timers."""

    def start_timer(self, timer: DurableTimer) -> None: ...

    def cancel_timer(self, timer: DurableTimer) -> None: ...


class _Nobody:
    """Driver of a loop that is over."""

    __slots__ = ()

    def start_timer(self, timer: DurableTimer) -> None:
        del timer
        raise not_in_run("a timer after its end")

    def cancel_timer(self, timer: DurableTimer) -> None:
        del timer


class DetFuture(asyncio.Future[Any]):
    """A future of the deterministic loop. It gets its number when somebody first asks for its hash: hardly any does,
    and when is as deterministic as the code that asks."""

    __slots__ = ("_sequence",)

    _sequence: int

    def __hash__(self) -> int:
        try:
            return self._sequence
        except AttributeError:
            self._sequence = self.get_loop()._next_hash()  # type: ignore[attr-defined]  # it is a DetLoop
            return self._sequence


class DetTask(asyncio.Task[Any]):
    """A task of the deterministic loop."""

    __slots__ = ("_sequence",)

    _sequence: int

    def __init__(self, coroutine: Coroutine[Any, Any, Any], *, loop: DetLoop, sequence: int, **options: Any) -> None:
        self._sequence = sequence
        super().__init__(coroutine, loop=loop, **options)

    def __hash__(self) -> int:
        return self._sequence


class DetHandle(asyncio.Handle):
    """A callback of the loop. Its base in all but making, which takes a third of the time: each step has some."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context,
    ) -> None:
        self._context = context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class DurableTimer(asyncio.TimerHandle):
    """A timer of the run; `until_ms` is in logical time. The driver keeps its own key of it in `key`."""

    __slots__ = ("key", "until_ms")

    until_ms: int
    key: object


class DetLoop(asyncio.AbstractEventLoop):
    """See the module. `hash_base` parts the hashes of one instance's tasks from those of others in the same process."""

    def __init__(self, timers: Timers, *, hash_base: int) -> None:
        self.now_ms = 0
        self.problems: list[str] = []
        self._timers = timers
        self._hash = hash_base & 0x0FFF_FFFF_FFFF_FFFF
        self._hash_base = self._hash
        self._ready: list[asyncio.Handle] = []
        self._tasks: list[DetTask] = []
        self._made_count = 0
        self._tasks_prune_at = 32
        self._generators: list[AsyncGenerator[Any, Any]] | None = None
        self._generators_prune_at = 32
        self._closed = False

    # --- for the driver

    def run_ready(self) -> None:
        """Run callbacks until none is ready. Raises RuntimeError after CALLBACKS_MAX of them."""
        count = 0
        while self._ready:
            batch, self._ready = self._ready, []
            count += len(batch)
            if count > CALLBACKS_MAX:
                raise RuntimeError(
                    f"run() made {CALLBACKS_MAX} turns without waiting for anything durable; "
                    "wait with step.sleep() or step.wait_for_event() instead of spinning"
                )
            for handle in batch:
                if not handle._cancelled:  # what cancelled() tells
                    try:
                        handle._run()
                    except (SystemExit, KeyboardInterrupt):
                        # The task keeps it as its exception; raised any further it would end the process of all runs.
                        continue

    @property
    def is_quiescent(self) -> bool:
        return not self._ready

    def enter(self) -> Outer:
        """Make this the running loop of the thread. Give what it returns to `leave`, without an await in between."""
        outer = asyncio._get_running_loop(), sys.get_asyncgen_hooks()
        asyncio._set_running_loop(self)
        sys.set_asyncgen_hooks(self._generator_begins, _leave_alone)
        return outer

    @staticmethod
    def leave(outer: Outer) -> None:
        """The loop that was running before is running again."""
        loop, hooks = outer
        sys.set_asyncgen_hooks(*hooks)
        asyncio._set_running_loop(loop)

    @contextmanager
    def running(self) -> Generator[None]:
        """Make this the running loop of the thread, for as long as its callbacks run."""
        outer = self.enter()
        try:
            yield
        finally:
            self.leave(outer)

    def fire(self, timer: DurableTimer) -> None:
        """The timer is due."""
        if not timer.cancelled():
            self._ready.append(timer)

    def live_tasks(self) -> list[DetTask]:
        """Tasks that are not done, oldest first."""
        return [task for task in self._tasks if not task.done()]

    def open_generators(self) -> list[AsyncGenerator[Any, Any]]:
        """Async generators that were begun and not exhausted, oldest first."""
        generators = self._generators or ()
        return [generator for generator in generators if getattr(generator, "ag_frame", None) is not None]

    def unretrieved(self) -> list[tuple[str, BaseException]]:
        """Exceptions of finished tasks that nobody looked at, with the tasks' names; each is told once."""
        found: list[tuple[str, BaseException]] = []
        for task in self._tasks:
            if task.done() and not task.cancelled() and getattr(task, "_log_traceback", False):
                error = task.exception()
                if error is not None:
                    found.append((task.get_name(), error))
        return found

    def dispose(self) -> None:
        """Close every coroutine and generator that is left, without a further turn of the loop.

        Tenant code sees GeneratorExit. One that awaits while it is being closed is closed again, a bounded number of
        times; then it is left suspended, as `graveyard` keeps it from being closed by the collector.
        """
        self._closed = True
        self._ready.clear()
        for task in reversed(self.live_tasks()):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is pending on purpose
            coroutine = task.get_coro()
            if coroutine is not None:
                _close(coroutine.close)
        for generator in self.open_generators():
            _close(lambda generator=generator: _close_generator(generator))  # type: ignore[misc]
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.exception()  # looked at: the collector has nothing to complain of
        self._ready.clear()
        self._tasks.clear()
        self._generators = None

    def abandon(self) -> None:
        """Run nothing more of it: what is left stays as it is, to be disposed of."""
        self._ready.clear()

    def forget(self) -> None:
        """After `dispose`, or when all is done: let go of the driver and of what was made."""
        self._closed = True
        self._ready.clear()
        self._tasks.clear()
        self._timers = _Nobody()

    @property
    def is_simple(self) -> bool:
        """There was never a task but the first, nor an async generator: nothing can be left when that task is done."""
        return self._made_count <= 1 and not self._generators

    def _next_hash(self) -> int:
        self._hash += 1
        return self._hash

    def _generator_begins(self, generator: AsyncGenerator[Any, Any]) -> None:
        if self._generators is None:
            self._generators = []
        if len(self._generators) >= self._generators_prune_at:
            self._generators = self.open_generators()
            self._generators_prune_at = 2 * len(self._generators) + 32
        self._generators.append(generator)

    # --- for asyncio and tenant code

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        del enabled

    def time(self) -> float:
        return self.now_ms / 1000

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return self._closed

    def call_soon(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = DetHandle(callback, args, self, contextvars.copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self._call_in(round(delay * 1000), delay > 0, callback, args, context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self._call_in(round(when * 1000) - self.now_ms, when > self.time(), callback, args, context)

    def _call_in(
        self,
        delay_ms: int,
        is_later: bool,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> asyncio.TimerHandle:
        until_ms = self.now_ms + (max(delay_ms, 1) if is_later else 0)
        timer = DurableTimer(until_ms / 1000, callback, args, self, context)
        timer.until_ms = until_ms
        timer.key = None
        if is_later:
            timer._scheduled = True  # type: ignore[attr-defined]  # or a cancel() of it would not reach the loop
            self._timers.start_timer(timer)
        else:
            self._ready.append(timer)
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if isinstance(handle, DurableTimer) and not self._closed:
            self._timers.cancel_timer(handle)

    def create_future(self) -> DetFuture:
        return DetFuture(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, _T] | Generator[Any, None, _T],
        *,
        name: object = None,
        context: contextvars.Context | None = None,
        **options: Any,
    ) -> asyncio.Task[_T]:
        if options.get("eager_start"):
            raise NotHere("eager tasks are not available in run()")
        sequence = self._next_hash()
        name = f"Task-{sequence - self._hash_base}" if name is None else str(name)
        task = DetTask(coro, loop=self, sequence=sequence, name=name, context=context)  # type: ignore[arg-type]
        # asyncio's own set of all tasks is the process's: it would only grow by the tasks of sleeping runs.
        asyncio.tasks._unregister_task(task)
        if len(self._tasks) >= self._tasks_prune_at:
            self._tasks = [task for task in self._tasks if not task.done() or getattr(task, "_log_traceback", False)]
            self._tasks_prune_at = 2 * len(self._tasks) + 32
        self._tasks.append(task)
        self._made_count += 1
        return task

    def get_task_factory(self) -> None:
        return None

    def get_exception_handler(self) -> None:
        return None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep the problem for the run's output; asyncio calls it for callbacks that raise."""
        if not self._closed:
            error = context.get("exception")
            told = f"{type(error).__name__}: {error}" if error is not None else ""
            self.problems.append(": ".join(part for part in (str(context.get("message", "")), told) if part))

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    async def shutdown_asyncgens(self) -> None:
        pass

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  # asyncio's name
        pass


def _refused(name: str) -> Callable[..., Any]:
    def refuse(self: DetLoop, *_args: object, **_options: object) -> Any:
        del self
        raise not_in_run(f"{name}()")

    refuse.__name__ = name
    return refuse


def not_in_run(call: str) -> NotHere:
    """The error for whatever would make a run depend on something that is not in its journal."""
    return NotHere(
        f"{call} is not available in run(), which must do the same on every replay; "
        'put the work into a step: await step.do("name", function)'
    )


for _name in vars(asyncio.AbstractEventLoop):
    if not _name.startswith("_") and _name not in vars(DetLoop):
        setattr(DetLoop, _name, _refused(_name))


def new_loop(timers: Timers, *, hash_base: int) -> DetLoop:
    """A loop. (Type checkers take what is refused above for abstract.)"""
    return DetLoop(timers, hash_base=hash_base)  # type: ignore[abstract]


NO_LOOP = new_loop(_Nobody(), hash_base=0)
"""Stands for the loop of a run that has not begun, or has been dropped."""
NO_LOOP.forget()

graveyard: list[object] = []
"""Coroutines that would not be closed. They stay suspended: the collector would run their code again."""


def _close(close: Callable[[], object]) -> None:
    for _ in range(_CLOSE_TRIES_MAX):
        try:
            close()
        except RuntimeError:  # it awaited something while it was closed
            continue
        except BaseException:  # noqa: S110  # tenant code's own error while it is thrown away: nobody is left to see it
            pass
        return
    graveyard.append(close)


def _close_generator(generator: AsyncGenerator[Any, Any]) -> None:
    closing = generator.aclose()
    try:
        closing.send(None)
    except StopIteration:
        return
    raise RuntimeError("the generator awaits while it is closed")


def _leave_alone(generator: AsyncGenerator[Any, Any]) -> None:
    """Never called while the loop keeps each generator; there so that another loop's hook is not."""
    del generator


class _GatheringFuture(asyncio.tasks._GatheringFuture):  # type: ignore[name-defined,misc]
    """asyncio.gather's own future, which it does not make by `create_future`; hashed like the others."""

    def __init__(self, children: Any, *, loop: asyncio.AbstractEventLoop) -> None:
        self._sequence = loop._next_hash() if isinstance(loop, DetLoop) else object.__hash__(self)
        super().__init__(children, loop=loop)

    def __hash__(self) -> int:
        return self._sequence


def install() -> None:
    """Make `asyncio.gather` use a future that hashes like the others. Once per process; other loops notice nothing."""
    asyncio.tasks._GatheringFuture = _GatheringFuture  # type: ignore[attr-defined]
