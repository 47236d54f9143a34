"""How far an instance goes back when it is restarted: the last of its entries that still counts.

It looks at the present execution only. What it finds never keeps the result of a step that was undone since: the run
would build on what is not there any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from executor.core.entries import AnyEntry, ChildEnded, StepFailed, StepSucceeded
from executor.core.errors import Conflict, NotFound
from executor.core.replay import UNDO

Recorded: TypeAlias = Sequence[tuple[int, AnyEntry]]
"""Entries of the present execution with their sequences, in order, traces of steps too."""

STEPS_NAMED_MAX = 10
_UPDATE = "update/"
"""Scope of the steps of update handlers, which fail their update and not the instance."""


def sequences(begin_at: int, last: int, cuts: Iterable[tuple[int, int]]) -> Iterator[int]:
    """Of the entries up to `last` of the execution that began with entry `begin_at`, without what earlier restarts left
    behind (`Instance.cuts`)."""
    at = begin_at + 1
    for first, end in sorted(cuts):
        yield from range(at, min(first, last + 1))
        at = max(at, end + 1)
    yield from range(at, last + 1)


def before_step(recorded: Recorded, path: str, *, id: str) -> int:
    """Sequence of the entry before the first that tells of the step. `id`: the instance's, for messages.

    Raises NotFound (`step_not_found`), Conflict (`invalid_state`: it would keep what was undone).
    """
    known: dict[str, None] = {}
    for sequence, entry in recorded:
        found = getattr(entry, "path", None)
        if found == path:
            _check_not_undone(recorded, sequence - 1, path, id)
            return sequence - 1
        if found:
            known[found] = None
    shown = ", ".join(f'"{each}"' for each in list(known)[-STEPS_NAMED_MAX:])
    raise NotFound(
        f'instance "{id}" has no step "{path}" in its journal',
        code="step_not_found",
        hint=f"Its latest are {shown}." if known else "It has not begun a step.",
    )


def before_named(recorded: Recorded, name: str, occurrence: int, *, id: str) -> int:
    """The same of the n-th use of a name. For the first use the whole path, as a journal shows it, will do as well."""
    path = f"{name}#{occurrence}"
    if occurrence == 1:
        paths = {getattr(entry, "path", None) for _, entry in recorded}
        path = name if path not in paths and name in paths else path
    return before_step(recorded, path, id=id)


def before_failure(recorded: Recorded, *, id: str) -> int:
    """The same of the step that failed last, a called child too. Raises Conflict (`invalid_state`)."""
    failed = None
    for _, entry in recorded:
        match entry:
            case StepFailed(path=path) if not path.startswith((UNDO, _UPDATE)):
                failed = path
            case ChildEnded(path=path, state="failed" | "terminated" | "refused") if not path.startswith(_UPDATE):
                failed = path
            case _:
                pass
    if failed is None:
        raise Conflict(
            f'no step of instance "{id}" failed: run() raised by itself, and would again',
            code="invalid_state",
            hint="Restart it, from its beginning or from a step.",
        )
    return before_step(recorded, failed, id=id)


def _check_not_undone(recorded: Recorded, after: int, path: str, id: str) -> None:
    if path.startswith(UNDO):
        raise Conflict(
            f'instance "{id}" cannot begin again with "{path}", which undoes another step',
            code="invalid_state",
            hint="Restart it from its beginning.",
        )
    undone = {
        found.removeprefix(UNDO) for _, entry in recorded if (found := getattr(entry, "path", "")).startswith(UNDO)
    }
    for sequence, entry in recorded:
        if sequence > after:
            return
        if isinstance(entry, StepSucceeded) and entry.path in undone:
            raise Conflict(
                f'instance "{id}" cannot begin again with "{path}": "{entry.path}" before it has been undone',
                code="invalid_state",
                hint=f'Restart it from its beginning, or from "{entry.path}".',
            )
