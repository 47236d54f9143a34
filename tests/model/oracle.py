"""The oracle: what the platform promises, in memory, without durability, sandboxes, replay or concurrency.

It knows no entries but by their names. Time stands still until `advance`; between two operations everything has gone as
far as it can. Answers are plain values; a refusal is `Refusal(code)`. In parts: data (`states`), code (`works`), how an
instance goes on (`runs`, `families`), and back (`rewinding`), many at once (`bulk`),
what starts by itself (`schedules`), and when and beside what (`flow`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.model.bulk import Bulk
from tests.model.families import Families
from tests.model.flow import Flow
from tests.model.programs import FAILING, REFUSED
from tests.model.rewinding import Rewinding
from tests.model.schedules import Schedule, Schedules
from tests.model.states import Instance, Refusal


class Oracle(Flow, Families, Rewinding, Bulk, Schedules):
    """See the module. Operations raise Refusal, or answer."""

    def __init__(self, now_ms: int, commits: Sequence[str]) -> None:
        self.now_ms = now_ms
        self.commits = commits
        self.live = commits[0]
        self.instances: dict[str, Instance] = {}
        self.schedules: dict[str, Schedule] = {}
        self.noted: Counter[str] = Counter()
        self.paced_ms = 0
        self.queue: list[str] = []

    def send_event(self, id: str, event: str, kind: str, payload: Any) -> bool:
        """Whether it was there already."""
        instance = self._get(id)
        known = instance.run.event_ids.get(event)
        if known is not None:
            if known != (kind, payload):
                raise Refusal("event_exists")
            return True
        self._check(instance, refused=("undoing",))
        instance.kinds.append("EventReceived")
        instance.events.append((event, kind, payload))
        self._take(instance.run, instance.events[-1])
        for branch in instance.run.branches:
            if branch.kind == "wait" and branch.is_open and self._read(instance, branch):
                break
        self._go_on(instance)
        return False

    def release(self, id: str) -> bool:
        """The word that steps of this instance wait for. False: none does."""
        instance = self._get(id)
        held = [branch for branch in instance.run.branches if branch.is_held]
        for branch in held:
            self._step_over(instance, branch)
        self._go_on(instance)
        return bool(held)

    def pause(self, id: str) -> None:
        instance = self._get(id)
        self._check(instance, refused=("undoing",))
        if instance.paused_ms is None:
            instance.paused_ms = self.now_ms
            instance.kinds.append("Paused")

    def resume(self, id: str) -> None:
        instance = self._get(id)
        self._check(instance)
        if instance.paused_ms is not None:
            for branch in instance.run.branches:
                if branch.wake_ms is not None:
                    branch.wake_ms += self.now_ms - instance.paused_ms
            instance.paused_ms = None
            instance.kinds.append("Resumed")
            self._wake(instance)

    def terminate(self, id: str, *, undo: bool = False) -> None:
        instance = self._get(id)
        if instance.outcome == "terminated" or (undo and instance.state == "undoing"):
            return
        self._check(instance)
        if undo and instance.run.steps:
            if instance.run.root is not None:
                # What came before the end, and a pause kept from `run()`, is seen before it; what it shows then counts.
                self._see(instance, instance.run.root)
                instance.run.given_up = []
            self._undo(instance, "terminated")
        else:
            self._end(instance, "terminated")

    def restart(self, id: str, step: tuple[str, int] | None = None) -> None:
        self._restart(self._get(id), None if step is None else f"{step[0]}#{step[1]}")

    def retry(self, id: str) -> None:
        self._retry(self._get(id))

    def delete(self, id: str) -> None:
        if not self._get(id).outcome:
            raise Refusal("invalid_state")
        del self.instances[id]

    def set_attributes(self, id: str, changes: dict[str, Any]) -> None:
        instance = self._get(id)
        self._check(instance)
        merged = {**instance.attributes, **changes}
        instance.attributes = {name: value for name, value in merged.items() if value is not None}

    def update(self, id: str, update: str, payload: int) -> int:
        instance = self._get(id)
        run = instance.run
        if update not in run.updates:
            self._check(instance, refused=("paused", "undoing", "delayed"))
            if payload == REFUSED:
                raise Refusal("update_refused")
            if payload != FAILING:
                run.notes.append(payload)
            run.updates[update] = (payload, None if payload == FAILING else len(run.notes))
            instance.kinds += ["UpdateAccepted", "UpdateEnded"]
        known, value = run.updates[update]
        if known != payload:
            raise Refusal("update_exists")
        if value is None:
            raise Refusal("update_failed")
        return value

    def ask(self, id: str) -> list[int]:
        instance = self._get(id)
        self._check(instance, refused=("undoing", "delayed"))
        return instance.run.notes

    def query(self, id: str) -> list[int]:
        """What is in the facet; refused where no step has made the table."""
        facet = self._get(id).run.facet
        if facet is None:
            raise Refusal("facet_refused")
        return facet

    def result(self, id: str) -> Any:
        instance = self._get(id)
        if instance.outcome != "complete":
            codes = {"": "timeout", "failed": instance.error, "terminated": "instance_terminated"}
            raise Refusal(codes[instance.outcome])
        return instance.result

    # --- what happens

    def rollback(self, number: int) -> None:
        """Channel `live` is on that commit."""
        self.live = self.commits[number]

    def advance(self, ms: int) -> None:
        self.now_ms += ms
        for instance in list(self.instances.values()):
            self._wake(instance)

    def crash(self) -> None:
        """What executed begins again; that of a paused instance when it is resumed."""
        for instance in self.instances.values():
            if instance.paused_ms is not None:
                for branch in instance.run.branches:
                    branch.is_asked &= branch.kind != "hold"

    # --- checks

    def _get(self, id: str) -> Instance:
        if id not in self.instances:
            raise Refusal("instance_not_found")
        return self.instances[id]

    def _check(self, instance: Instance, *, refused: tuple[str, ...] = ()) -> None:
        if instance.outcome:
            raise Refusal("instance_finished")
        is_delayed = instance.run.delayed_until_ms is not None
        if instance.state in refused or (is_delayed and "delayed" in refused):
            raise Refusal("invalid_state")
