"""The law of the wire: whatever a tenant's values are, a view comes back equal; whatever bytes come, they are accepted
or refused, and nothing else."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor import wire
from executor.core.errors import Refused
from executor.operations import OPERATIONS
from executor.operations.instances import Start, StartMany
from executor.views import JournalItem, ResultView, StartOutcome, StartRequest, Status

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary(max_size=30)
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.sampled_from([UTC, None]))
)
KEYS = st.text(max_size=8) | st.sampled_from(["$bytes", "$datetime", "$date", "$time", "$", "$$bytes", "$x"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def _status(output: Any) -> Status:
    return Status(
        tenant="acme",
        id="i",
        workflow="W",
        commit="0" * 40,
        state="complete",
        waiting_for=None,
        waits=[],
        attempts={"a#1": 2},
        error=None,
        output=output,
        sequence=3,
        created_at_ms=1,
        updated_at_ms=2,
    )


@given(VALUES)
def test_every_view_comes_back_equal(value: Any) -> None:
    item = JournalItem(sequence=1, at_ms=2, kind="started", chain="00", fields={"payload": value, "n": 1})
    for view, kind in (
        (_status(value), Status),
        ([item], list[JournalItem]),
        ([StartOutcome(status=_status(value)), StartOutcome(error={"code": "x"})], list[StartOutcome]),
        (ResultView(output=value), ResultView),
    ):
        assert wire.decode(wire.encode(view), kind) == view


@given(VALUES)
def test_every_payload_comes_back_equal(value: Any) -> None:
    for arguments in (
        Start(workflow="W", payload=value),
        StartMany(requests=[StartRequest(workflow="W", payload=value), StartRequest(workflow="V")]),
    ):
        read = msgspec.json.decode(wire.encode_arguments(arguments), type=type(arguments))
        assert wire.payload_inward(read) == arguments


@given(st.sampled_from(sorted(OPERATIONS)), st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_arguments_or_refused(name: str, body: bytes) -> None:
    try:
        wire.payload_inward(msgspec.json.decode(body, type=OPERATIONS[name].arguments))
    except (msgspec.DecodeError, UnicodeDecodeError, Refused):
        pass


def test_a_mark_in_a_tenants_own_dict_is_no_mark() -> None:
    assert wire.encode(ResultView(output={"$bytes": "AA=="})) == b'{"output":{"$$bytes":"AA=="}}'
    assert wire.encode(ResultView(output=[b"\x00", date(2026, 1, 2), time(3), datetime(2026, 1, 2, tzinfo=UTC)])) == (
        b'{"output":[{"$bytes":"AA=="},{"$date":"2026-01-02"},{"$time":"03:00:00"},'
        b'{"$datetime":"2026-01-02T00:00:00+00:00"}]}'
    )


def test_a_lone_error_comes_out_of_groups_and_several_do_not() -> None:
    inner = ValueError("x")
    both = ExceptionGroup("g", [inner, inner])
    assert wire.innermost(ExceptionGroup("g", [ExceptionGroup("g", [inner])])) is inner
    assert wire.innermost(both) is both
    with pytest.raises(ValueError, match="x"):
        raise wire.innermost(inner)
