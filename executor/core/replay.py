"""Replay: what a run asks for, held against what the journal records. Pure: no clock, no loop, no tenant code.

The run requests (step, sleep, wait, child, group); entries are accepted in their order, one by one, the run going as
far as it can in between. So whatever an entry records was requested before the entry is reached, or the code did
something else than the recorded run did. That, and nothing else, is a divergence:
  - an entry's path was never requested by the time the entry is reached (or `run()` has ended without requesting it),
  - it was requested with another kind, or other arguments (`asked`),
  - the journal says that the run gave it up (Cancelled), and this run did not.
A request that has no entry yet is none: entries of other branches may stand before its own, or it is new.

Identity is the path: scope, name and occurrence ("audit/hash#3"), never a position in the journal; `where` (file and
line) is told to people and never compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Literal

import msgspec

from executor.core import entries, values
from executor.core.entries import AnyEntry, StepRecord, StepRef
from executor.core.errors import Corrupt

Kind = Literal["step", "sleep", "wait", "child", "group", "undo"]
ASKED_BYTES = 16
REQUESTS_NAMED_MAX = 5

_KIND_OF: dict[type, Kind] = {
    entries.StepSucceeded: "step",
    entries.AttemptFailed: "step",
    entries.StepFailed: "step",
    entries.SleepStarted: "sleep",
    entries.WaitStarted: "wait",
    entries.ChildRequested: "child",
    entries.GroupStarted: "group",
}
UNDO = "undo/"
"""Scope of the steps that undo others; no name begins with it."""
LEAVE = "/"
"""After a group's path: the leaving of it, which is a request of its own."""


class TimedOut(msgspec.Struct, frozen=True):
    """A wait's deadline passed."""


Outcome = (
    entries.StepSucceeded
    | entries.StepFailed
    | entries.SleepEnded
    | entries.EventReceived
    | entries.ChildStarted
    | entries.ChildEnded
    | TimedOut
)
_End = entries.SleepEnded | entries.WaitEnded | entries.ChildStarted | entries.ChildEnded


class Request(msgspec.Struct, eq=False):
    """What the run asked for, until its outcome is known.

    `asked_after` is the sequence of the entry after which it was asked; `recorded`: the journal has it as started
    (sleep, wait) or tried (step); `attempts_failed` counts recorded attempts; `given_up`: the run wants it no more;
    `event_unseen`: it is a wait that was given an event after that, so the event has to be given back (Cancel).
    `child`: the child's id, once that is known.
    """

    kind: Kind
    path: str
    asked: bytes
    where: str
    asked_after: int
    recorded: bool = False
    attempts_failed: int = 0
    given_up: bool = False
    cancel_recorded: bool = False
    event_unseen: bool = False
    child: str | None = None
    awaits_child: bool = False

    @property
    def ref(self) -> StepRef:
        return StepRef(self.kind, self.path, self.where, self.asked)


class Resolution(msgspec.Struct, frozen=True):
    """`request` has its outcome."""

    request: Request
    outcome: Outcome


class Divergence(msgspec.Struct, frozen=True):
    """The run and the journal differ. `requested` is None if the run asks for nothing at all."""

    sequence: int
    recorded: StepRef
    requested: StepRef | None
    message: str


def asked(kind: Kind, name: str, *arguments: Any) -> bytes:
    """BLAKE2b-128 of what was asked. Arguments that are not values count as the names of their types."""
    return blake2b(values.canonical((kind, name, arguments)), digest_size=ASKED_BYTES).digest()


class Replay:
    """One run's requests against its journal."""

    __slots__ = ("_events", "_occurrences", "_open", "_undone", "_unseen", "run_ended", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self.run_ended = False
        self._occurrences: dict[str, int] = {}
        self._open: dict[str, Request] = {}
        self._events: dict[int, entries.EventReceived] | None = None  # most runs have none of these two
        self._unseen: dict[str, Request] | None = None
        self._undone: set[str] | None = None

    def request(self, kind: Kind, name: str, asked_: bytes, where: str, scope: str = "") -> Request:
        """A new request; its path is scope and name with the number of their use."""
        if scope:
            name = f"{scope}/{name}"
        occurrence = self._occurrences.get(name, 0) + 1
        self._occurrences[name] = occurrence
        request = Request(kind, f"{name}#{occurrence}", asked_, where, self.seen)
        self._open[request.path] = request
        return request

    def request_undo(self, path: str, where: str) -> Request:
        """The step that undoes the one at `path`."""
        if self._undone is None:
            self._undone = set()
        request = Request("undo", UNDO + path, asked("undo", path), where, self.seen)
        self._undone.add(request.path)
        self._open[request.path] = request
        return request

    def request_leave(self, path: str, where: str) -> Request:
        """The leaving of the group at `path`, once."""
        request = Request("group", path + LEAVE, b"", where, self.seen)
        self._open[request.path] = request
        return request

    def find(self, path: str) -> Request | None:
        """The request of that path, if it was made and has no outcome yet."""
        return self._open.get(path)

    def give_up(self, request: Request) -> None:
        """The run does not wait for it any more: its outcome, should one be recorded, resolves nothing."""
        request.given_up = True

    def end(self) -> None:
        """`run()` has returned or raised; from now on it requests nothing."""
        self.run_ended = True

    def skip_to(self, sequence: int) -> None:
        """Entries up to there are not for the run."""
        self.seen = max(self.seen, sequence)

    def accept(self, sequence: int, entry: AnyEntry) -> Resolution | Divergence | None:
        """Take the next entry. None: it resolves nothing. Raises Corrupt for a journal that no executor writes."""
        if sequence != self.seen + 1:
            raise Corrupt(f"journal entry {sequence} came after entry {self.seen}", code="corrupt_journal")
        self.seen = sequence
        kind = _KIND_OF.get(type(entry))
        if kind is not None:
            return self._accept_record(sequence, kind, entry)  # type: ignore[arg-type]  # _KIND_OF names StepRecord's
        if isinstance(entry, entries.EventReceived):
            if self._events is None:
                self._events = {}
            self._events[entry.number] = entry
            return None
        if isinstance(entry, _End):
            request = self._open.get(entry.path)
            if request is not None:
                return self._accept_end(sequence, request, entry)
            if isinstance(entry, entries.ChildStarted | entries.ChildEnded) and self._was_requested(entry.path):
                return None  # of a child that `run()` knows already, or has given up
            return self._never_requested(sequence, StepRef(_kind_of_end(entry), entry.path, ""))
        if isinstance(entry, entries.Cancelled):
            request = self._open.get(entry.path)
            if request is not None:
                return self._accept_cancelled(sequence, request)
            if not self._was_requested(entry.path):
                return self._never_requested(sequence, StepRef("cancel", entry.path, ""))
            unseen = self._unseen.pop(entry.path, None) if self._unseen is not None else None
            if unseen is not None:
                unseen.cancel_recorded = True
            return None  # it had its outcome just before: the two crossed on the way
        if isinstance(entry, entries.GroupEnded):
            return self._accept_left(sequence, entry)
        return None

    def _accept_record(self, sequence: int, kind: Kind, entry: StepRecord) -> Resolution | Divergence | None:
        request = self._open.get(entry.path)
        if request is None:
            return self._never_requested(sequence, StepRef(kind, entry.path, entry.where, entry.asked))
        if request.asked != entry.asked:
            return self._asked_differently(sequence, StepRef(kind, entry.path, entry.where, entry.asked), request)
        request.recorded = True
        if isinstance(entry, entries.StepSucceeded):
            return self._resolve(request, entry)
        if isinstance(entry, entries.AttemptFailed):
            request.attempts_failed = entry.attempt
            return None
        if isinstance(entry, entries.StepFailed):
            return self._resolve(request, entry)
        if isinstance(entry, entries.ChildRequested):
            request.child, request.awaits_child = entry.child, entry.is_awaited
        elif isinstance(entry, entries.GroupStarted):
            del self._open[entry.path]  # nothing waits for it
        return None

    def _accept_end(self, sequence: int, request: Request, entry: _End) -> Resolution | None:
        if isinstance(entry, entries.ChildStarted):
            return None if request.awaits_child else self._resolve(request, entry)
        if isinstance(entry, entries.SleepEnded | entries.ChildEnded):
            return self._resolve(request, entry)
        if entry.event is None:
            return self._resolve(request, TimedOut())
        if request.given_up:  # the run never saw the event: it stays for another wait
            del self._open[request.path]
            request.event_unseen = True
            if self._unseen is None:
                self._unseen = {}
            self._unseen[request.path] = request
            return None
        event = self._events.pop(entry.event, None) if self._events is not None else None
        if event is None:
            raise Corrupt(
                f'journal entry {sequence} gives event {entry.event} to wait "{entry.path}", but there is none to give',
                code="corrupt_journal",
            )
        return self._resolve(request, event)

    def _accept_cancelled(self, sequence: int, request: Request) -> Divergence | None:
        if request.given_up:
            request.cancel_recorded = True
            del self._open[request.path]  # nothing of it comes after this
            return None
        message = (
            f'the journal records (entry {sequence}) that the code gave up {request.kind} "{request.path}"'
            f"{_at(request.where)}, but here it still waits for it. {_VERDICT}"
        )
        return Divergence(sequence, StepRef("cancel", request.path, request.where), request.ref, message)

    def _accept_left(self, sequence: int, entry: entries.GroupEnded) -> Divergence | None:
        request = self._open.pop(entry.path + LEAVE, None)
        if request is not None:
            request.recorded = True
            return None
        if not self._was_requested(entry.path):
            return self._never_requested(sequence, StepRef("group", entry.path, ""))
        message = (
            f'the journal records (entry {sequence}) that the code left group "{entry.path}", but here it has not. '
            f"{_VERDICT}"
        )
        return Divergence(sequence, StepRef("group", entry.path, ""), None, message)

    def _resolve(self, request: Request, outcome: Outcome) -> Resolution | None:
        del self._open[request.path]
        return None if request.given_up else Resolution(request, outcome)

    def _asked_differently(self, sequence: int, recorded: StepRef, request: Request) -> Divergence:
        if recorded.kind == request.kind:
            how = "with other arguments"
        else:
            how = f"as a{'n' if request.kind == 'undo' else ''} {request.kind}"
        message = (
            f"the journal records {_text(recorded)} (entry {sequence}), but here the code asks for it {how}"
            f"{_at(request.where)}. {_VERDICT}"
        )
        return Divergence(sequence, recorded, request.ref, message)

    def _never_requested(self, sequence: int, recorded: StepRef) -> Divergence:
        if self._was_requested(recorded.path):
            raise Corrupt(
                f'journal entry {sequence} answers {recorded.kind} "{recorded.path}" a second time',
                code="corrupt_journal",
            )
        waiting = self.waiting()
        if self.run_ended:
            instead = "run() ended without asking for it"
        elif not waiting:
            instead = "the code asks for nothing"
        else:
            named = ", ".join(_text(request.ref) for request in waiting[:REQUESTS_NAMED_MAX])
            more = len(waiting) - REQUESTS_NAMED_MAX
            instead = f"the code asks for {named}" + (f" and {more} more" if more > 0 else "")
        message = f"the journal records {_text(recorded)} (entry {sequence}), but here {instead}. {_VERDICT}"
        return Divergence(sequence, recorded, waiting[0].ref if waiting else None, message)

    def _was_requested(self, path: str) -> bool:
        if path.startswith(UNDO):
            return self._undone is not None and path in self._undone
        name, _, occurrence = path.rpartition("#")
        return occurrence.isdecimal() and int(occurrence) <= self._occurrences.get(name, 0)

    def waiting(self) -> Sequence[Request]:
        """Requests without an outcome that the run still waits for, those without any entry first."""
        wanted = [request for request in self._open.values() if not request.given_up and request.kind != "group"]
        return sorted(wanted, key=lambda request: request.recorded)


_VERDICT = (
    "Commit and journal are the same as then, so the code is not deterministic: run() decided differently on equal "
    "facts (order of a set, a global variable, the environment, a file?). Resume the instance to try again, or "
    "terminate it and start another on code where that is a step."
)


def _kind_of_end(entry: _End) -> str:
    if isinstance(entry, entries.ChildStarted | entries.ChildEnded):
        return "child"
    return "sleep" if isinstance(entry, entries.SleepEnded) else "wait"


def _at(where: str) -> str:
    return f" ({where})" if where else ""


def _text(ref: StepRef) -> str:
    return f'{ref.kind} "{ref.path}"{_at(ref.where)}'
