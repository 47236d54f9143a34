"""What is said of instances, and to them: plain data that may cross processes."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from executor.core.entries import StartOptions
from executor.core.failure import ErrorFact
from executor.ports.state import StoredRow
from executor.views import Queued


class Start(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An instance to be made, pinned to `commit`. `key`: tenant and id. `is_new`: its id was drawn just now and cannot
    be taken. `options` are written into its journal; they do not count when an id is started again."""

    key: tuple[str, str]
    workflow: str
    commit: str
    payload: bytes
    is_new: bool = False
    options: StartOptions | None = None


class ChildStart(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A child to be made; its options say whose it is. `channel` not None: on whatever that is on; the commit of
    `start` counts for nothing then."""

    start: Start
    channel: str | None = None


class ChildEnd(msgspec.Struct, frozen=True, array_like=True):
    """How a child ended that step `path` of its parent waits for. `value`: what it returned, encoded, if its state is
    complete; else `error` says why it did not."""

    path: str
    child: str
    commit: str
    state: Literal["complete", "failed", "terminated"]
    value: bytes | None
    error: ErrorFact | None


class Share(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a tenant gets. `weight`: turns, relative to other tenants, 1 to 100; `concurrency`: runs at once, within the
    share that no tenant can exceed (None: that share)."""

    weight: int = 1
    concurrency: int | None = None


class Seen(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An instance as it is durably. `output`: what `run()` returned, encoded; None in any state but complete.
    `queued`: where it waits for its turn, if that is known and it does."""

    row: StoredRow
    output: bytes | None = None
    queued: Queued | None = None


class Queried(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a query of a facet gave, as of entry `sequence` or a later one; `is_cut`: there were more rows.

    The values in `rows` are None, int, finite float, str or bytes."""

    columns: list[str]
    rows: list[list[Any]]
    is_cut: bool
    sequence: int


class Emission(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One item of an output stream, encoded. `step`: path of the step that emitted it, "" for `run()`."""

    offset: int
    item: bytes
    at_ms: int
    step: str
    attempt: int


class Updated(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The end of an update: exactly one of `value` and `error` is set. `is_new`: this request made it."""

    value: bytes | None
    error: ErrorFact | None
    is_new: bool


class Vitals(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How the owner of instances is. `epoch`: which owner of the stored data it is; `active_runs`, `sandboxes`: now."""

    is_ready: bool
    epoch: int
    active_runs: int
    sandboxes: int
