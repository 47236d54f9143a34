"""Workflow and Event: what tenants derive from and receive."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, overload

from executor.workflow import handlers, runtime
from executor.workflow.errors import NotHere
from executor.workflow.step import Step

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # type checkers carry it; tenants need not install it

    P = TypeVar("P", default=Any)
    R = TypeVar("R", default=Any)
else:
    from typing import TypeVar

    P = TypeVar("P")
    R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Event(Generic[P]):
    """Why this instance runs: its payload and identity. `timestamp` (UTC) is when it was started.

    `schedule`: the name of the schedule that started it for the time `scheduled_at` (UTC), which may be long past.
    """

    payload: P
    timestamp: datetime
    instance_id: str
    workflow: str
    commit: str
    schedule: str | None = None
    scheduled_at: datetime | None = None


class Row(Protocol):
    """A row of a result: a tuple whose items are also found by column name."""

    @overload
    def __getitem__(self, key: int, /) -> Any: ...
    @overload
    def __getitem__(self, key: str, /) -> Any: ...
    def __len__(self) -> int: ...
    def keys(self) -> list[str]: ...


class Facet:
    """The instance's own SQLite database, inside steps only.

    What a step writes is committed together with the step's result, and rolled back with a failed attempt. The first
    use takes the facet until the step ends.
    """

    __slots__ = ()

    def execute(self, sql: str, parameters: runtime.Parameters = ()) -> list[Row]:
        """Run one statement and give all its rows."""
        return _attempt("self.facet.execute()").facet_execute(sql, parameters)

    def executemany(self, sql: str, parameters: Sequence[runtime.Parameters]) -> None:
        """Run one statement for each item of `parameters`."""
        _attempt("self.facet.executemany()").facet_executemany(sql, parameters)

    def exclusive(self) -> AbstractAsyncContextManager[None]:
        """In an async step, wait until no other step holds the facet; then it is this step's until the step ends."""
        return _attempt("self.facet.exclusive()").facet_exclusive()


_FACET = Facet()


class Workflow(Generic[P, R]):
    """A durable program: derive from it and write `async def run(self, event, step)`.

    `Workflow[Signup, Report]` declares the types of payload and result: JSON types, dataclasses or models. Code in
    `run()` must do the same on every replay: time, randomness and asyncio are made so; everything else that can differ
    (files, network, environment) belongs into a step.
    """

    async def run(self, event: Event[P], step: Step) -> R:
        raise NotImplementedError(f"{type(self).__name__} does not define `async def run(self, event, step)`")

    update = staticmethod(handlers.update)
    query = staticmethod(handlers.query)

    @property
    def facet(self) -> Facet:
        return _FACET

    @property
    def status(self) -> Any:
        """What the instance shows of itself: any value of up to 4 KiB, set in `run()`, seen in its status and in lists.

        None until it is set. Change it by setting it anew: what it gives is a copy.
        """
        return _run("self.status").get_status()

    @status.setter
    def status(self, value: Any) -> None:
        _run("self.status").set_status(value)

    def set_attributes(self, **attributes: str | float | bool | datetime | None) -> None:
        """Change search attributes of the instance, in `run()`; None takes one away."""
        _run("self.set_attributes()").set_attributes(attributes)

    def continue_as_new(self, payload: Any = None) -> NoReturn:
        """End this execution in `run()`, and begin it anew with `payload`, an empty journal and the same facet."""
        _run("self.continue_as_new()").continue_as_new(payload)


def _run(call: str) -> runtime.RunRuntime:
    run = runtime.current_run()
    if run is None:
        raise NotHere(f"{call} works in run() only; in a step return what run() needs for it")
    return run


def _attempt(call: str) -> runtime.AttemptRuntime:
    if runtime.in_run():
        raise NotHere(f'{call} was called in run(); call it inside a step: await step.do("name", function)')
    attempt = runtime.current_attempt.get()
    if attempt is None:
        raise NotHere(f"{call} was called outside of a step; only a step of a running instance has a facet")
    return attempt
