"""What a hostile tenant has journaled, printed or returned can be shown to everybody, and does nothing to who looks."""

from __future__ import annotations

import json
import logging

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from executor import rendering, views, wire
from executor.cli import printing, tables
from executor.core import codec, decide, summary, values
from executor.core.commands import Complete, RetryPolicy, SetStatus, Sleep, StepDone, StepError, Wait
from executor.core.errors import Refused
from executor.core.failure import ErrorFact
from executor.logs import Human
from executor.ports import Row, StoredRow
from executor.views import BulkError, BulkResult, LogLine, QueryResult
from tests.executor.core.strategies import ASKED, begin
from tests.executor.core.test_hostile import ENDS, GOING

ESCAPES = "\x1b]0;owned\x07\x9b2J\u202e\r\n"
EDGES = [2**64 - 1, 2**63, 2**63 - 1, -(2**63)]
DEEP = b"\x91" * 900 + b"\xc0"
LONG = b"\xc9" + (100_000).to_bytes(4, "big") + b"\x01" + b"\x7f" * 100_000
ODD = [
    b"\xc1",
    b"",
    DEEP,
    LONG,
    b"\x81\x01\x02",
    b"\x81\xc4\x01a\x02",
    b"\xcb\x7f\xf8\0\0\0\0\0\0",
    b"\xd6\xff\0\0\0\0",
]


def times_in(value):
    if isinstance(value, dict):
        for name, item in value.items():
            if name.endswith("_ms") and isinstance(item, int):
                yield item
            yield from times_in(item)


def show(commands):
    """Let a run say this, and look at all that comes of it as everybody does."""
    found = begin()
    for command in commands:
        try:
            entries = decide.on_command(found, command, now_ms=2_000, id="i").entries
        except decide.Violation:
            continue
        for entry in entries:
            found.apply(entry)
            item = rendering.journal_item(found.sequence, codec.encode(entry, found.chain))
            assert json.loads(wire.encode(item))["kind"] == item.kind
            for at_ms in [item.at_ms, *times_in(item.fields)]:
                views.format_ms(at_ms)
            printing.value(item.fields)
    state = found.state(is_resting=True)
    row = Row(state, found.next_wake_ms(), "W", "c" * 40, 1_000, 2_000, summary.encode(found), found.attributes)
    stored = StoredRow("acme", "i", 0, found.sequence, row)
    for view in (rendering.status_view(stored, None), rendering.instance_view(stored)):
        wire.encode(view)
        str(view.waiting_for)


@settings(max_examples=150)
@given(st.lists(st.sampled_from([*GOING, ENDS]).flatmap(lambda one: one), max_size=6))
@example([Sleep("s#1", ASKED, "w.py:1", None, edge, is_date=True) for edge in EDGES[:1]])
@example([Sleep("s#1", ASKED, "w.py:1", None, EDGES[3], is_date=True)])
@example([Sleep("s#1", ASKED, "w.py:1", EDGES[3], None)])
@example([Wait("w#1", ASKED, "w.py:1", "go", EDGES[3])])
@example([StepDone("a#1", ASKED, "w.py:1", 1, EDGES[3], b"\xc0")])
@example([StepError("a#1", ASKED, "w.py:1", 1, EDGES[3], ErrorFact("E", "m"), RetryPolicy(*EDGES[:2]))])
def test_whatever_a_sandbox_says_can_be_shown_afterwards(commands):
    show(commands)


@pytest.mark.parametrize("value", ODD)
def test_malformed_value_is_shown_as_such(value):
    show([SetStatus(1, value[:4_000]), Complete(value)])
    found = rendering.readable(value)
    assert found == {"unreadable_bytes": len(value)}


def test_integers_have_the_size_that_json_can_tell():
    largest = 2**values.INT_BITS_MAX - 1
    for number in (largest, -largest):
        assert rendering.readable(values.encode(number)) == number
        assert json.loads(msgspec.json.encode(values.to_json(number))) == number
    with pytest.raises(Refused) as caught:
        values.encode({"n": largest + 1})
    assert caught.value.message == 'value["n"]: an int of 14001 bits, the limit is 14000'
    assert caught.value.hint == "Keep it as bytes."


# --- terminals


def is_harmless(text):
    return all(char.isprintable() or char == "\n" for char in text)


def test_names_and_texts_of_tenants_write_nothing_into_a_terminal_but_text(capsys):
    line = LogLine(cursor=1, at_ms=0, stream="log", level=ESCAPES, step=ESCAPES, attempt=2, text=ESCAPES)
    tables.log(line)
    tables.rows(QueryResult(columns=[ESCAPES, "[red]"], rows=[[ESCAPES, b"\x9b"]], is_cut=False, sequence=1))
    refused = BulkError(id="one", error={"message": ESCAPES, "code": "conflict"})
    tables.bulk("restart", BulkResult(matched=1, failed=1, errors=[refused]), dry_run=False)
    printing.line(printing.value({"a": ESCAPES}))
    said = capsys.readouterr().out
    assert is_harmless(said)
    assert len(said.splitlines()) == 7
    assert "[red]" in said, "no markup of the table's own"


def test_error_of_the_platform_that_names_a_tenants_text_writes_nothing_into_a_terminal_but_text():
    try:
        raise ValueError(ESCAPES)
    except ValueError as error:
        record = logging.LogRecord("n", logging.ERROR, "f", 1, ESCAPES, (), (type(error), error, None))
    assert is_harmless(Human().format(record))
