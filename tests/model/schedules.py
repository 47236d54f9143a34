"""Schedules of the oracle: times that are multiples of an interval, what is made up for, what overlaps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from executor.core.schedule import LATE_MS, instance_id
from tests.model.states import Instance, Refusal


@dataclass
class Schedule:
    """`running`: what it started, as of the last firing. `waiting`: times that wait for one of these to end.
    `firings`: time, outcome and instance, the newest first."""

    program: list[Any]
    every_s: int
    overlap: str
    catch_up: str
    cursor_ms: int
    is_paused: bool = False
    running: list[str] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    firings: list[tuple[int, str, str | None]] = field(default_factory=list)

    @property
    def content(self) -> tuple[Any, ...]:
        return self.program, self.every_s, self.overlap, self.catch_up

    def times(self, now_ms: int) -> list[int]:
        """Those that have come, since the last that was dealt with."""
        every_ms = self.every_s * 1000
        return list(range((self.cursor_ms // every_ms + 1) * every_ms, now_ms + 1, every_ms))

    def decide(self, now_ms: int) -> list[int]:
        """Which of the times that have come are fired."""
        times = self.times(now_ms)
        late = [at_ms for at_ms in times if at_ms <= now_ms - LATE_MS]
        fired = times[len(late) :]
        if self.catch_up == "all":
            fired, late = late + fired, []
        elif self.catch_up == "last" and late and not fired:
            fired = [late.pop()]
        if late:
            self.firings.insert(0, (late[0], "missed", None))
        self.cursor_ms = max([self.cursor_ms, *times])
        return fired

    def look(self) -> dict[str, Any]:
        """What can be seen of it."""
        every_ms = self.every_s * 1000
        return {
            "paused": self.is_paused,
            "next": [] if self.is_paused else [(self.cursor_ms // every_ms + 1) * every_ms],
            "running": self.running,
            "waiting": self.waiting,
            "firings": self.firings,
        }


class Schedules:
    """Part of Oracle."""

    now_ms: int
    instances: dict[str, Instance]
    schedules: dict[str, Schedule]

    def create_schedule(self, name: str, program: list[Any], every_s: int, overlap: str, catch_up: str) -> None:
        made = Schedule(program, every_s, overlap, catch_up, self.now_ms)
        if self.schedules.setdefault(name, made).content != made.content:
            raise Refusal("schedule_exists")

    def delete_schedule(self, name: str) -> None:
        self._schedule(name)
        del self.schedules[name]

    def pause_schedule(self, name: str) -> None:
        self._schedule(name).is_paused = True

    def resume_schedule(self, name: str) -> None:
        """What came meanwhile is not made up for."""
        schedule = self._schedule(name)
        if schedule.is_paused:
            schedule.is_paused, schedule.cursor_ms = False, self.now_ms

    def trigger_schedule(self, name: str, id: str) -> str:
        """Whatever runs. The same id is the same firing."""
        schedule = self._schedule(name)
        self.start(id, schedule.program)
        if ("triggered", id) not in [firing[1:] for firing in schedule.firings]:
            schedule.firings.insert(0, (self.now_ms, "triggered", id))
            schedule.running = [*schedule.running, id]
        return id

    def start(self, id: str, payload: list[Any]) -> str:
        raise NotImplementedError

    def terminate(self, id: str) -> None:
        raise NotImplementedError

    def follow(self) -> None:
        """What is due is fired, and what waited for an instance that has ended."""
        for name, schedule in self.schedules.items():
            if schedule.is_paused:
                continue
            schedule.waiting = schedule.waiting + schedule.decide(self.now_ms)
            while schedule.waiting and self._fire(name, schedule, schedule.waiting[0]):
                schedule.waiting = schedule.waiting[1:]

    def _fire(self, name: str, schedule: Schedule, at_ms: int) -> bool:
        """False: it waits."""
        there = [self.instances[each] for each in schedule.running if each in self.instances]
        running = [one.id for one in there if not one.outcome]
        if schedule.overlap == "queue" and running:
            return False
        if schedule.overlap == "skip" and running:
            schedule.running = running
            schedule.firings.insert(0, (at_ms, "skipped", None))
            return True
        if schedule.overlap == "cancel":
            for each in running:
                self.terminate(each)
        started = self.start(instance_id(name, at_ms), schedule.program)
        schedule.running = [] if schedule.overlap == "allow" else [started]
        schedule.firings.insert(0, (at_ms, "fired", started))
        return True

    def _schedule(self, name: str) -> Schedule:
        if name not in self.schedules:
            raise Refusal("schedule_not_found")
        return self.schedules[name]
