"""`Schedule` as tenants write it is what the push reads."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from typing import Any

import msgspec
import pytest

from executor.core.entries import AnyEntry, Started, StartOptions
from executor.core.schedule import ScheduleSpec, parse_declared, parse_spec
from executor.workflow import Schedule
from gitstore.declared import value_of
from tests.executor.fake_executor import Story, play


def test_schedule_has_the_arguments_that_the_platform_reads() -> None:
    written = {field.name: field.default for field in dataclasses.fields(Schedule)}
    read = {name: one.default for name, one in inspect.signature(parse_spec).parameters.items()}
    assert written == {**read, "payload": None}


def test_what_the_source_says_is_what_is_meant() -> None:
    text = 'Schedule(every="90 s", overlap="queue", payload={"a": [1, None, -2.5, True]}, jitter=2)'
    spec, payload = parse_declared(value_of("schedule", ast.parse(text, mode="eval").body))
    assert spec == ScheduleSpec(every_ms=90_000, overlap="queue", jitter_ms=2_000)
    written: Schedule = eval(text)
    assert payload == written.payload == {"a": [1, None, -2.5, True]}


@pytest.mark.parametrize("arguments", [{}, {"cron": "0 6 * * *", "every": 5}])
def test_schedule_has_cron_or_every(arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"^Schedule\(\) needs either cron="):
        Schedule(**arguments)


def test_duration_that_is_none_is_told_where_it_is_written() -> None:
    with pytest.raises(ValueError, match=r"^Schedule\(jitter=…\) is 'soon', which is not a duration"):
        Schedule(cron="0 6 * * *", jitter="soon")


def test_run_is_told_its_schedule_and_time() -> None:
    source = """
from executor.workflow import Workflow

class Job(Workflow):
    async def run(self, event, step):
        return [event.schedule, event.scheduled_at.isoformat()]
"""

    class Scheduled(Story):
        def append(self, *entries: AnyEntry, **more: Any) -> None:
            options = StartOptions(schedule="nightly", scheduled_ms=1_798_761_600_000)
            super().append(
                *(
                    msgspec.structs.replace(one, options=options) if isinstance(one, Started) else one
                    for one in entries
                ),
                **more,
            )

    assert play(source, Scheduled("Job")).result == ["nightly", "2027-01-01T00:00:00+00:00"]
