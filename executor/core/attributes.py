"""Search attributes: a few typed facts by which a tenant finds its instances.

Stored as a MessagePack map from name to text, number, bool or time (the MessagePack timestamp), names in order; b"" for
none, so that an instance without attributes carries nothing. Equal attributes have equal bytes.

Names that begin with "$" are the platform's own: tenants can neither set nor see them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from executor.core import values
from executor.core.errors import Refused

Attribute = str | int | float | bool | datetime

COUNT_MAX = 32
TEXT_CHARS_MAX = 256
INTEGER_MAX = 2**63 - 1
RESERVED = "$"
_ALLOWED = "Attributes are str, int, float, bool and datetime."

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, Any])
_KINDS = frozenset({str, bool, int, float, datetime, type(None)})


def encode(attributes: Mapping[str, Any]) -> bytes:
    """The stored form. Raises Refused (`bad_request`) that names the attribute."""
    return _encoded({check_name(name): check_value(name, value) for name, value in attributes.items()})


def decode(data: bytes) -> dict[str, Attribute]:
    """What `encode` or `merge` was given; times are in UTC. Raises Refused (`bad_request`) for any other bytes."""
    return {name: value for name, value in _decoded(data).items() if value is not None} if data else {}


def encode_changes(changes: Mapping[str, Any]) -> bytes:
    """As `encode`; a value None takes the attribute away."""
    return _packed({check_name(name): _changed(name, value) for name, value in changes.items()})


def decode_changes(data: bytes) -> dict[str, Attribute | None]:
    """What `encode_changes` was given. Raises Refused (`bad_request`) for any other bytes."""
    found = _decoded(data) if data else {}
    return {check_name(name): _changed(name, value) for name, value in found.items()}


def merge(data: bytes, changes: Mapping[str, Any], *, is_reserved: bool = False) -> bytes:
    """Attributes `data` with `changes`; None takes one away. `is_reserved`: the changes are the platform's own.

    Raises Refused (`bad_request`) that names the attribute.
    """
    merged: dict[str, Attribute] = decode(data)
    for name, value in changes.items():
        check_name(name.removeprefix(RESERVED) if is_reserved and isinstance(name, str) else name)
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = check_value(name, value)
    return _encoded(merged)


def visible(data: bytes) -> dict[str, Attribute]:
    """The attributes that are the tenant's own, as Python values."""
    return {name: value for name, value in decode(data).items() if not name.startswith(RESERVED)}


def show(data: bytes) -> dict[str, Any]:
    """The attributes that are the tenant's own, as JSON types (`values.to_json`)."""
    return {name: values.to_json(value) for name, value in visible(data).items()}


def parse(name: str, value: Any) -> Attribute:
    """The value of an attribute from its JSON form: a time is {"$datetime": …}. Raises Refused (`bad_request`)."""
    try:
        return check_value(name, values.from_json(value))
    except Refused as refused:
        if refused.code == "bad_request":
            raise
        raise Refused(f'attribute "{name}": {refused.message}', code="bad_request", hint=refused.hint) from None


def check_name(name: Any) -> str:
    """The name. Raises Refused (`bad_request`)."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise Refused(
        f"{_shown(name)} is not the name of a search attribute",
        code="bad_request",
        hint="Use 1 to 64 letters, digits and _, not beginning with a digit.",
    )


def check_value(name: str, value: Any) -> Attribute:
    """The value as it is kept: times in UTC. Raises Refused (`bad_request`) that names the attribute."""
    kind = type(value)
    if kind is bool:
        return bool(value)
    if isinstance(value, str):
        if len(value) > TEXT_CHARS_MAX:
            raise _refused(name, f"a text of {len(value)} characters, the limit is {TEXT_CHARS_MAX}")
        if not value.isascii() and value.encode(errors="ignore").decode() != value:
            raise _refused(name, "text with lone surrogates, which is not valid Unicode")
        return str(value)
    if isinstance(value, int):
        if not -INTEGER_MAX - 1 <= value <= INTEGER_MAX:
            raise _refused(name, "an integer of more than 64 bits", "Keep it as text.")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _refused(name, f"{value}, which has no place in an order", "Leave the attribute away.")
        return float(value)
    if isinstance(value, datetime):
        return _utc(name, value)
    raise _refused(name, f"of type {kind.__name__}", _ALLOWED)


def _utc(name: str, value: datetime) -> datetime:
    if value.tzinfo is None or value.utcoffset() is None:
        raise _refused(name, "a datetime without a time zone", "Write datetime.now(UTC), or .astimezone().")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise _refused(name, "a datetime that has no place in UTC") from None


def _changed(name: str, value: Any) -> Attribute | None:
    return None if value is None else check_value(name, value)


def _encoded(attributes: Mapping[str, Attribute]) -> bytes:
    # The platform's own are few, and not the tenant's to count.
    number = sum(not name.startswith(RESERVED) for name in attributes)
    if number > COUNT_MAX:
        extra = max(attributes)
        raise Refused(
            f"{number} search attributes, the limit is {COUNT_MAX} (the last one is {_shown(extra)})",
            code="bad_request",
            hint="Take attributes away by setting them to None; keep what is not searched for in the status.",
        )
    return _packed(attributes)


def _packed(attributes: Mapping[str, Attribute | None]) -> bytes:
    return _encoder.encode(dict(sorted(attributes.items()))) if attributes else b""


def _decoded(data: bytes) -> dict[str, Attribute | None]:
    try:
        found: dict[str, Attribute | None] = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise Refused(f"search attributes cannot be read: {error}", code="bad_request") from None
    for name, value in found.items():
        if type(value) not in _KINDS:
            raise _refused(
                name, f"of type {type(value).__name__}", "Attributes are str, int, float, bool and datetime."
            )
    return found


def _refused(name: str, what: str, hint: str | None = None) -> Refused:
    return Refused(f"attribute {_shown(name)} is {what}", code="bad_request", hint=hint, attribute=str(name)[:64])


def _shown(name: Any) -> str:
    text = f'"{name}"' if isinstance(name, str) else repr(name)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 80 else text[:77] + "..."
