"""The outside witness: it remembers what was acknowledged, and compares it with what a store has after each opening.

`WitnessedStore` stands between the engine and the real store. The witness's memory is a plain dictionary of journals and
rows, changed when a write returns, and not before; one write at most is in doubt (the one during which the machine or
the disk failed). After each opening the store must be equal to the memory, with or without that write as a whole.

What a client was answered is remembered apart: an answer must rest on something that was durable when it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from executor.adapters.state import FacetsStateStore
from executor.core import carrying, codec, summary
from executor.core.entries import (
    AnyEntry,
    AttemptFailed,
    ChildEnded,
    ChildRequested,
    Completed,
    Continued,
    EventReceived,
    Failed,
    Restarted,
    Started,
    StepFailed,
    StepSucceeded,
    Terminated,
    Undoing,
    UpdateAccepted,
    UpdateEnded,
)
from executor.core.errors import Conflict, PerdureError, Refused, Unavailable
from executor.core.folding import fold
from executor.core.instance import Instance
from executor.core.journal import Journal
from executor.core.lifecycle import FINAL, STATES
from executor.ports import Append, Row
from tests.simulation.disk import Disk
from tests.simulation.programs import execution, facet_image, fails, result_of, standing, to_undo

Key = tuple[str, str]
FAR_MS = 1 << 60


class Violation(AssertionError):
    """A law of durability is broken."""


@dataclass
class Known:
    """An instance as acknowledged. `born` tells an instance from a later one of the same id."""

    born: int
    journal: list[bytes] = field(default_factory=list)
    row: Row | None = None
    steps: set[tuple[str, int]] = field(default_factory=set)
    """(path, attempt) with a durable outcome, in this execution."""
    events: set[str] = field(default_factory=set)
    updates: set[str] = field(default_factory=set)

    def copy(self) -> Known:
        return Known(self.born, list(self.journal), self.row, set(self.steps), set(self.events), set(self.updates))


Memory = dict[Key, Known]


class Witness:
    def __init__(self, disk: Disk, say: Callable[..., None]) -> None:
        self.disk = disk
        self.say = say
        self.memory: Memory = {}
        self.doubt: Callable[[Memory], None] | None = None
        self.promises: list[tuple[Key, int, str, Any]] = []
        """(instance, its birth, what was acknowledged, the fact)."""
        self.epoch = 0
        self.births = 0
        self.executed = 0
        self.acknowledged = 0

    # --- writes

    def take(self, memory: Memory, records: Sequence[Append]) -> None:
        """Change `memory` as an append of `records` does."""
        for record in records:
            key = (record.tenant, record.instance)
            known = memory.get(key)
            if known is None:
                self.births += 1
                known = memory[key] = Known(self.births)
            if record.sequence:
                self.demand(record.sequence == len(known.journal) + 1, f"{key}: record {record.sequence} out of order")
                known.journal.append(record.entry)
                self._learn(key, known, record.entry)
            known.row = record.row

    def _learn(self, key: Key, known: Known, data: bytes) -> None:
        entry, _ = codec.decode(data)
        if isinstance(entry, StepSucceeded | AttemptFailed | StepFailed):
            step = (entry.path, entry.attempt)
            self.demand(step not in known.steps, f"{key}: {step} is journaled twice")
            known.steps.add(step)
        elif isinstance(entry, EventReceived):
            self.demand(entry.id not in known.events, f"{key}: event {entry.id} is journaled twice")
            known.events.add(entry.id)
        elif isinstance(entry, UpdateAccepted):
            self.demand(entry.id not in known.updates, f"{key}: update {entry.id} is journaled twice")
            known.updates.add(entry.id)
        elif isinstance(entry, Continued):
            known.steps.clear()
        elif isinstance(entry, Restarted):
            # What it went back behind may happen again.
            stands = [each for _, each in standing(known.journal)]
            known.steps = {
                (each.path, each.attempt)
                for each in execution(known.journal)
                if isinstance(each, StepSucceeded | AttemptFailed | StepFailed)
            }
            known.updates = {each.id for each in stands if isinstance(each, UpdateAccepted)}
            if not entry.keeps_events:
                known.events = {each.id for each in stands if isinstance(each, EventReceived)}

    def demand(self, is_so: bool, law: str) -> None:
        if not is_so:
            raise Violation(law)

    # --- answers

    def promise(self, key: Key, kind: str, fact: Any = None) -> None:
        """A client was just told so."""
        if self.disk.is_off:
            return  # a machine without power tells nobody
        self.say("ack", kind, key, fact)
        known = self.memory.get(key)
        if known is None:
            raise Violation(f"{key}: {kind} was acknowledged before it was durable")
        self._check_promise(key, kind, fact, known)
        self.promises.append((key, known.born, kind, fact))
        self.acknowledged += 1

    def promise_deleted(self, key: Key, born: int) -> None:
        """A client was told that the instance of that birth is gone."""
        if not self.disk.is_off:
            self.say("ack", "deleted", key)
            known = self.memory.get(key)
            self.demand(
                known is None or known.born > born, f"{key}: its deletion was acknowledged before it was durable"
            )
            self.acknowledged += 1

    def _check_promise(self, key: Key, kind: str, fact: Any, known: Known) -> None:
        journal = codec.decode_journal(known.journal)
        match kind:
            case "started":
                first = journal[0]
                is_kept = isinstance(first, Started) and first.payload == fact
            case "event":
                is_kept = any(isinstance(entry, EventReceived) and entry.id == fact for entry in journal)
            case "updated":
                is_kept = any(isinstance(entry, UpdateEnded) and entry.id == fact for entry in journal)
            case "undoing or terminated":
                is_kept = any(isinstance(entry, Undoing | Terminated) for entry in journal)
            case _:
                is_kept = any(type(entry).__name__ == kind for entry in journal)
        self.demand(is_kept, f"{key}: {kind} {fact!r} was acknowledged and is not in the journal")

    # --- sandboxes

    def sent(self, key: Key, first: int, entries: Sequence[bytes | int]) -> None:
        """These entries reached tenant code; a number stands for so many that were not for it."""
        if self.disk.is_off:
            return
        known = self.memory.get(key)
        if known is not None:  # else it was deleted while this was under way
            at = first
            for data in entries:
                if isinstance(data, int):
                    at += data
                    continue
                is_durable = at <= len(known.journal) and known.journal[at - 1] == data
                self.demand(is_durable, f"{key}: entry {at} reached the sandbox and is not durable")
                at += 1

    def executes(self, key: Key, path: str, attempt: int) -> None:
        """Tenant code begins to execute an attempt."""
        if self.disk.is_off:
            return
        self.executed += 1
        self.say("executes", key, path, attempt)
        known = self.memory.get(key)
        if known is not None:
            done = (path, attempt) in known.steps
            self.demand(not done, f"{key}: attempt {attempt} of {path} has a durable outcome, and executes again")

    # --- after an opening

    def check_opened(self, store: FacetsStateStore, *, deep: bool) -> None:
        """The store has what was acknowledged and nothing else; its index says what the journals say."""
        self.demand(store.epoch > self.epoch, f"epoch {store.epoch} is not after {self.epoch}")
        self.epoch = store.epoch
        found = {(stored.tenant, stored.instance): stored for stored in self.rows(store)}
        journals = {key: [entry for _, entry in store.journal(*key)] for key in found}
        if self.doubt is not None:
            with_doubt = {key: known.copy() for key, known in self.memory.items()}
            self.doubt(with_doubt)
            self.doubt = None
            if self._difference(with_doubt, found, journals) is None:
                self.memory = with_doubt
        difference = self._difference(self.memory, found, journals)
        self.demand(difference is None, str(difference))
        for key, born, kind, fact in self.promises:
            known = self.memory.get(key)
            if known is not None and known.born == born:
                self._check_promise(key, kind, fact, known)
        self.check_index(store, found, journals)
        if deep:
            problems = store.check()
            self.demand(problems == [], f"the store's own check: {problems}")

    def check_carried(self, key: Key, told: bytes, stored: list[bytes], instance: Instance) -> None:
        """What the last execution took along makes the same instance as the whole journal."""
        first = summary.reads_from(told)
        if first > 1:
            entry, _ = codec.decode(stored[first - 1])
            assert isinstance(entry, Continued)
            needed = {sequence: stored[sequence - 1] for sequence in carrying.needed(entry)}
            found = carrying.load(Journal(stored[first - 1 :], first=first, earlier=needed))
            self.demand(found == instance, f"{key}: from entry {first} on it is {found}, as a whole {instance}")

    def rows(self, store: FacetsStateStore) -> list[Any]:
        return store.in_states(STATES, limit=100_000, after=0)

    def _difference(self, memory: Memory, found: dict[Key, Any], journals: dict[Key, list[bytes]]) -> str | None:
        for key in sorted(memory.keys() | found.keys()):
            known, row = memory.get(key), found.get(key)
            if known is None:
                return f"{key}: it is there, and was never acknowledged or was deleted"
            if row is None:
                return f"{key}: it is lost, with {len(known.journal)} acknowledged entries"
            journal = journals[key]
            if journal != known.journal:
                return f"{key}: its journal has {len(journal)} entries, acknowledged were {len(known.journal)}"
            if row.sequence != len(journal) or row.row != known.row:
                return f"{key}: its row is {row}, acknowledged was {known.row}"
        return None

    def check_index(self, store: FacetsStateStore, found: dict[Key, Any], journals: dict[Key, list[bytes]]) -> None:
        """Rows are folds of journals, and every question of the index is answered as the rows answer it."""
        wakes: dict[Key, int] = {}
        counts: dict[str, dict[str, int]] = {}
        for key, stored in found.items():
            row = stored.row
            instance = fold(codec.decode_journal(journals[key]))
            self.check_carried(key, row.summary, journals[key], instance)
            is_resting = row.state == "waiting"
            is_held_alone = row.state == "held" and instance.held is None  # could not be read once: says the row only
            if not is_held_alone:
                state = instance.state(is_resting=is_resting)
                wake = instance.next_wake_ms() if is_resting else None
                found_wake = row.wake_at_ms
                if is_resting and wake is not None and found_wake is not None:
                    found_wake = max(found_wake, wake)  # what it owes to others may be due before
                elif instance.undoing is not None or instance.children or instance.to_close or instance.parent:
                    wake = found_wake  # it rests while it undoes, or owes something to others
                self.demand(
                    (row.state, found_wake) == (state, wake),
                    f"{key}: its row says {row.state} until {row.wake_at_ms}, its journal {state} until {wake}",
                )
            self.check_undone(key, journals[key])
            if row.wake_at_ms is not None:
                wakes[key] = row.wake_at_ms
            of_tenant = counts.setdefault(key[0], {})
            of_tenant[row.state] = of_tenant.get(row.state, 0) + 1
            image, expected = store.image(*key), facet_image(journals[key])
            self.demand(image == expected, f"{key}: its facet is not base plus deltas")
        due = store.due(FAR_MS, limit=100_000)
        times = [stored.row.wake_at_ms or 0 for stored in due]
        self.demand(times == sorted(times), f"due rows are out of order: {times}")
        asked = {(stored.tenant, stored.instance): stored.row.wake_at_ms for stored in due}
        self.demand(asked == wakes, f"due are {asked}, by the rows {wakes}")
        self.demand(store.next_wake_ms() == min(wakes.values(), default=None), "next_wake_ms differs from the rows")
        for tenant in sorted({key[0] for key in found}):
            self.demand(store.counts(tenant) == counts[tenant], f"counts of {tenant} differ from the rows")

    def check_undone(self, key: Key, journal: list[bytes]) -> None:
        """What undoes finished steps has ended once for each, in reverse order of their start, and all before the end."""
        entries = execution(journal)
        begun = [at for at, entry in enumerate(entries) if isinstance(entry, Undoing)]
        if not begun:
            return
        at = begun[-1]
        wanted = [f"undo/{path}" for path in to_undo(entries)]
        ended = [entry.path for entry in entries[at:] if isinstance(entry, StepSucceeded | StepFailed)]
        self.demand(ended == wanted[: len(ended)], f"{key}: undone are {ended}, to be undone were {wanted}")
        outcome = next((entry for entry in entries[at:] if isinstance(entry, Failed | Terminated)), None)
        if isinstance(outcome, Failed):
            self.demand(ended == wanted, f"{key}: it failed with {ended} undone, of {wanted}")

    def check_finished(self) -> None:
        """Every instance has ended as its program says, and so have its children."""
        for key, known in sorted(self.memory.items()):
            self.demand(known.row is not None and known.row.state in FINAL, f"{key}: {known.row} is no end")
            entries = execution(known.journal)
            payload = _begin(entries).payload
            outcome = next(entry for entry in reversed(entries) if isinstance(entry, Completed | Failed | Terminated))
            if isinstance(outcome, Failed):
                is_meant = fails(payload) and outcome.error.type == "Fault"
                self.demand(is_meant, f"{key}: its program does not fail so: {outcome}")
            elif isinstance(outcome, Completed):
                is_meant = not fails(payload) and outcome.value == result_of(payload)
                self.demand(is_meant, f"{key}: it completed with another result")
            requests = {entry.path: entry for entry in entries if isinstance(entry, ChildRequested)}
            for entry in entries:
                if isinstance(entry, ChildEnded):
                    self._check_child(key, requests[entry.path], entry)

    def _check_child(self, key: Key, request: ChildRequested, ended: ChildEnded) -> None:
        """The parent was told what the child's program says."""
        self.demand(ended.state != "refused", f"{key}: its child {request.child} was refused: {ended.error}")
        if ended.state == "complete":
            is_so = ended.value == result_of(request.payload) and not fails(request.payload)
            self.demand(is_so, f"{key}: its child {request.child} is said to have given {ended.value!r}")
        elif ended.state == "failed":
            self.demand(fails(request.payload), f"{key}: its child {request.child} is said to have failed")


def _begin(entries: Sequence[AnyEntry]) -> Started | Continued:
    first = entries[0]
    assert isinstance(first, Started | Continued)
    return first


class WitnessedStore:
    """A StateStore port that tells the witness. `gone`: another owner has claimed the data."""

    def __init__(self, store: FacetsStateStore, witness: Witness) -> None:
        self._store = store
        self._witness = witness
        self.is_gone = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def append(self, records: Sequence[Append]) -> None:
        """See the port."""
        self._write(
            lambda memory: self._witness.take(memory, records), lambda: self._store.append(records), is_append=True
        )

    def delete(self, tenant: str, instance: str) -> None:
        """See the port."""

        def forget(memory: Memory) -> None:
            memory.pop((tenant, instance), None)

        self._write(forget, lambda: self._store.delete(tenant, instance))

    def delete_tenant(self, tenant: str) -> None:
        """See the port."""

        def forget(memory: Memory) -> None:
            for key in [key for key in memory if key[0] == tenant]:
                del memory[key]

        self._write(forget, lambda: self._store.delete_tenant(tenant))

    def _write(self, remember: Callable[[Memory], None], write: Callable[[], None], *, is_append: bool = False) -> None:
        witness = self._witness
        was_off = witness.disk.is_off
        try:
            write()
        except (Unavailable, Refused, Conflict):
            raise  # by its contract nothing was written: if something was, the next opening shows it
        except PerdureError:
            if not was_off and not self.is_gone and witness.doubt is None:
                witness.doubt = remember
            raise
        if witness.disk.is_off:
            return
        before = {key: known.born for key, known in witness.memory.items()}
        remember(witness.memory)
        is_changed = before != {key: known.born for key, known in witness.memory.items()}
        witness.demand(not self.is_gone or not (is_append or is_changed), "an owner that was claimed over has written")
        witness.say("durable", len(witness.memory))
