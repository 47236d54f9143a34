"""Write docs/journal.schema.json from the entry structs: `python tools/journal_schema.py` (`--check`: exit 1 if it is
not current). The words about it are in docs/journal.md."""

from __future__ import annotations

import argparse
import json
import re
import sys
import types
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402

from executor.core import entries  # noqa: E402

TARGET = ROOT / "docs" / "journal.schema.json"
VERSION = 1
_VALUE = {"$ref": "#/$defs/value"}
_BY_NAME: dict[str, dict[str, Any]] = {
    "value": _VALUE,
    "payload": _VALUE,
    "details": _VALUE,
    "match": {"type": ["object", "null"]},
    "items": {"type": "array", "items": _VALUE},
    "attributes": {"$ref": "#/$defs/attributes"},
    "asked": {"$ref": "#/$defs/hexadecimal"},
    "seed": {"$ref": "#/$defs/hexadecimal"},
}
"""Fields whose bytes are shown as something else."""
_PLAIN = {int: "integer", str: "string", bool: "boolean", type(None): "null"}
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def document() -> dict[str, Any]:
    """The schema of one item of a journal."""
    defs: dict[str, Any] = {
        "value": {"description": 'Any JSON value; see "Values" in journal.md.'},
        "attributes": {"type": "object", "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,63}$"}},
        "hexadecimal": {"type": "string", "pattern": "^([0-9a-f]{2})*$"},
    }
    kinds = sorted(typing.get_args(entries.AnyEntry), key=_kind)
    items = [_item(kind, defs) for kind in kinds]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:perdure:journal:{VERSION}",
        "title": "An item of an instance's journal",
        "type": "object",
        "required": ["sequence", "at_ms", "kind", "chain", "attempt", "parent", "fields"],
        "properties": {
            "sequence": {"type": "integer", "minimum": 1},
            "at_ms": {"type": "integer"},
            "kind": {"enum": [_kind(kind) for kind in kinds]},
            "chain": {"type": "string", "pattern": "^([0-9a-f]{32})?$"},
            "attempt": {"type": ["integer", "null"], "minimum": 1},
            "parent": {"type": ["string", "null"]},
            "fields": {"type": "object"},
        },
        "additionalProperties": False,
        "allOf": items,
        "$defs": defs,
    }


def _kind(entry: type[entries.Entry]) -> str:
    return _CAMEL.sub("_", entry.__name__).lower()


def _item(entry: type[entries.Entry], defs: dict[str, Any]) -> dict[str, Any]:
    return {
        "if": {"properties": {"kind": {"const": _kind(entry)}}},
        "then": {"properties": {"fields": _struct(entry, defs, without=entries.UNSHOWN)}},
    }


def _struct(struct: type[msgspec.Struct], defs: dict[str, Any], *, without: Collection[str] = ()) -> dict[str, Any]:
    hints = typing.get_type_hints(struct)
    names = [name for name in struct.__struct_fields__ if name not in without]
    return {
        "type": "object",
        "required": names,
        "properties": {name: _BY_NAME.get(name) or _type(hints[name], defs) for name in names},
        "additionalProperties": False,
    }


def _type(hint: Any, defs: dict[str, Any]) -> dict[str, Any]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_type(part, defs) for part in typing.get_args(hint)]}
    if origin is typing.Literal:
        return {"enum": list(typing.get_args(hint))}
    if origin in (list, tuple):
        return {"type": "array", "items": _type(typing.get_args(hint)[0], defs)}
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        if hint.__name__ not in defs:
            defs[hint.__name__] = {}
            defs[hint.__name__] = _struct(hint, defs)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    return {"type": _PLAIN[hint]}


def text() -> str:
    """The file's content."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it is not current")
    if parser.parse_args().check:
        return int(TARGET.read_text(encoding="utf-8") != text())
    TARGET.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
