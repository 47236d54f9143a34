"""Flow control of the oracle: what a workflow declares delays a start, replaces or refuses it, ends another, or lets it
queue. `noted` tells how often each of these was."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from typing import Any

from tests.model.programs import DEBOUNCE_S, RATE_S
from tests.model.runs import Runs
from tests.model.states import Instance, Refusal, Run


class Flow(Runs):
    """Part of Oracle."""

    live: str
    noted: Counter[str]
    paced_ms: int
    """When the next start behind the rate may be."""
    queue: list[str]
    """Who waits for a place."""

    def start(
        self,
        id: str,
        payload: list[Any],
        *,
        workflow: str = "Job",
        delay_s: int | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> str:
        """The id of the instance that there is now."""
        at_ms = None if delay_s is None else self.now_ms + delay_s * 1000
        if workflow == "Calm":
            at_ms = max(at_ms or 0, self.now_ms + DEBOUNCE_S * 1000)
            for there in reversed(self._of(workflow)):
                if there.run.delayed_until_ms is not None and there.state == "waiting":
                    return self._replace(there, payload, at_ms)
        if id in self.instances:
            there = self.instances[id]
            if (there.workflow, there.payload) != (workflow, payload):
                raise Refusal("instance_exists")
            return id
        self._make_way(workflow)
        if workflow == "Paced" and at_ms is None:
            at_ms = max(self.now_ms, self.paced_ms)
            self.paced_ms = at_ms + RATE_S * 1000
            self.noted["flow rate"] += at_ms > self.now_ms
            at_ms = at_ms if at_ms > self.now_ms else None
        self._begin(
            Instance(id, payload, Run(payload, at_ms), workflow, self.live, attributes=dict(attributes or {})),
        )
        return id

    def _replace(self, there: Instance, payload: list[Any], at_ms: int) -> str:
        there.payload = there.run.program = payload
        there.run.delayed_until_ms = at_ms
        there.begin = deepcopy(there.run)
        there.kinds.append("Rescheduled")
        self.noted["flow debounce"] += 1
        return there.id

    def _make_way(self, workflow: str) -> None:
        for there in self._of(workflow):
            if there.outcome:
                continue
            if workflow == "Alone":
                self.noted["flow skip"] += 1
                raise Refusal("singleton_exists")
            if workflow == "Latest":
                self.noted["flow cancel"] += 1
                self._end(there, "terminated")

    def _of(self, workflow: str) -> list[Instance]:
        return [instance for instance in self.instances.values() if instance.workflow == workflow]

    # --- concurrency

    def _may_run(self, instance: Instance) -> bool:
        if instance.workflow != "Narrow" or instance.is_executing:
            return True
        is_taken = any(other.is_executing for other in self._of("Narrow"))
        if is_taken and instance.id not in self.queue:
            self.noted["flow concurrency"] += 1
            self.queue.append(instance.id)
        instance.is_queued = is_taken
        return not is_taken

    def _has_rested(self, instance: Instance) -> None:
        if instance.workflow == "Narrow" and not instance.is_executing and self.queue:
            self._go_on(self.instances[self.queue.pop(0)])
