"""docs/journal.md and docs/journal.schema.json are true: they know every kind and field, and journals fit them."""

from __future__ import annotations

import json
import re
import typing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from executor import wire
from executor.core import codec
from executor.core import entries as e
from executor.rendering import journal_item, kind_of
from tests.executor.every_entry import EVERY
from tools import journal_schema

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "journal.md").read_text(encoding="utf-8")
SCHEMA = json.loads((DOCS / "journal.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def _shown(entry: e.AnyEntry) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(wire.encode(journal_item(7, codec.encode(entry, b"\1" * 16))))
    return shown


def test_the_schema_is_that_of_the_entries() -> None:
    VALIDATOR.check_schema(SCHEMA)
    assert journal_schema.document() == SCHEMA, "python tools/journal_schema.py"


@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: type(entry).__name__)
def test_every_entry_fits_the_schema_as_it_is_shown(entry: e.AnyEntry) -> None:
    VALIDATOR.validate(_shown(entry))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "invented"},
        {"sequence": 0},
        {"parent": 3},
        {"extra": 1},
        {"fields": {}},
        {"fields": {"path": "a#1", "extra": 1}},
        {"fields": {"path": 1}},
    ],
)
def test_what_is_no_item_does_not_fit(change: dict[str, Any]) -> None:
    item = _shown(e.SleepEnded(6, "nap#1"))
    assert VALIDATOR.is_valid(item)
    assert not VALIDATOR.is_valid(item | change)


def test_the_page_has_every_kind_with_its_fields_in_their_order_and_says_which_are_traces() -> None:
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\| (.*)\|$", PAGE, flags=re.MULTILINE)
    told = {kind: (re.findall(r"`(\w+)`", fields), text.startswith("*trace*")) for kind, fields, text in rows}
    kinds = {kind_of(entry): type(entry) for entry in EVERY}
    assert len(kinds) == len(typing.get_args(e.AnyEntry))
    assert told == {
        kind: ([name for name in entry.__struct_fields__ if name not in e.UNSHOWN], issubclass(entry, e.Trace))
        for kind, entry in kinds.items()
    }
