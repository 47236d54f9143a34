"""What a test sees of an instance: its steps, its facet, its journal in short."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from executor.core import summary, values
from executor.core.entries import (
    AnyEntry,
    AttemptFailed,
    Emitted,
    EventReceived,
    StepFailed,
    StepStarted,
    StepSucceeded,
    UpdateAccepted,
)
from executor.core.failure import ErrorFact
from executor.ports import Row, StoredRow
from executor.rendering import kind_of, status_view
from executor.testing.hosted import Hosted
from executor.testing.mocks import names
from executor.views import Status
from facets.facet import Facet
from facets.row import Parameters
from facets.row import Row as FacetRow

TENANT = "test"


@dataclass(frozen=True, slots=True)
class StepSeen:
    """A step as the journal tells of it. `attempts` counts those that have ended; `result` is what `run()` gets."""

    path: str
    state: Literal["succeeded", "failed", "retrying", "executing"]
    attempts: int
    result: Any = None
    error: ErrorFact | None = None

    @property
    def name(self) -> str:
        return self.path.rpartition("#")[0]


class StepsSeen(Mapping[str, StepSeen]):
    """Steps by path ("charge#1"), in the order of their first entry. A name will do where one step has it."""

    def __init__(self, journal: list[AnyEntry]) -> None:
        self._steps: dict[str, StepSeen] = {}
        for entry in journal:
            self._take(entry)

    def _take(self, entry: AnyEntry) -> None:
        match entry:
            case StepStarted():
                known = self._steps.get(entry.path)
                attempts = 0 if known is None else known.attempts
                self._steps[entry.path] = StepSeen(entry.path, "executing", attempts)
            case StepSucceeded():
                result = values.decode(entry.value)
                self._steps[entry.path] = StepSeen(entry.path, "succeeded", entry.attempt, result)
            case AttemptFailed():
                self._steps[entry.path] = StepSeen(entry.path, "retrying", entry.attempt, None, entry.error)
            case StepFailed():
                self._steps[entry.path] = StepSeen(entry.path, "failed", entry.attempt, None, entry.error)
            case _:
                pass

    def __getitem__(self, step: str) -> StepSeen:
        found = self._steps.get(step)
        if found is not None:
            return found
        fitting = [path for path in self._steps if names(step, None, path)]
        if len(fitting) == 1:
            return self._steps[fitting[0]]
        known = ", ".join(fitting or self._steps) or "none"
        raise KeyError(f"{len(fitting) or 'no'} steps are named {step!r}; there are: {known}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)


class FacetSeen:
    """The facet as of the last journal entry, for reading."""

    def __init__(self, image: bytes) -> None:
        self._image = image

    def execute(self, sql: str, parameters: Parameters = ()) -> list[FacetRow]:
        """The rows of a query. Raises Refused for what would write."""
        facet = Facet.read_only(self._image)
        try:
            return facet.execute(sql, parameters)
        finally:
            facet.close()


def kinds(journal: list[AnyEntry], *, hidden: frozenset[type[Any]]) -> list[str]:
    """One text for each entry that is not of a `hidden` kind: its kind, and what names it."""
    return [" ".join((kind_of(entry), *_named(entry))) for entry in journal if type(entry) not in hidden]


def _named(entry: AnyEntry) -> tuple[str, ...]:
    match entry:
        case EventReceived():
            return (entry.type,)
        case UpdateAccepted():
            return (entry.name,)
        case Emitted():
            return (entry.stream,)
        case _:
            path = getattr(entry, "path", "")
            return (path,) if path else ()


def status(hosted: Hosted) -> Status:
    """As the platform shows it."""
    instance = hosted.instance
    start = instance.start
    row = Row(
        hosted.state,
        hosted.next_wake_ms(),
        start.workflow,
        start.commit,
        start.at_ms,
        instance.updated_at_ms,
        summary.encode(instance),
        instance.attributes,
    )
    return status_view(StoredRow(TENANT, hosted.id, 1, instance.sequence, row), hosted.output)
