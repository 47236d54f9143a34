"""`Schedule` as tenants write it is what the push reads."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from typing import Any

import pytest

from executor.core.schedule import ScheduleSpec, parse_declared, parse_spec
from executor.workflow import Schedule
from gitstore.declared import value_of


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
