"""Values: what steps, runs, payloads and events may carry, as bytes and as JSON.

A value is None, bool, int (up to 14,000 bits), finite float, str, bytes, list, dict with str keys, datetime, date or
time, nested up to 64 deep and up to 1 MiB encoded. A tuple becomes a list. Instances of dataclasses, enums and models
(`model_dump`/`model_validate`) are values only where a declared type says how to make them again.

The law: live run and replay both see `decode(encode(value))`, so there is no difference to be had; whatever would not
come back as itself is refused where it was made, with its place inside the value and what to do about it.

    bytes   MessagePack, with extension types
            1  int outside 64 bits: two's complement, big-endian
            2  datetime   3  date   4  time: ISO 8601 text; a datetime of a named zone ends with "[Area/City]"
            5  in digests only: the type name of something that is not a value
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import enum
import math
import typing
from collections.abc import Callable
from datetime import date, datetime, time
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import msgspec

from executor.core.errors import Refused

VALUE_BYTES_MAX = 1024 * 1024
DEPTH_MAX = 64
INT_BITS_MAX = 14_000
"""A larger one has more digits than Python turns into text, and so than JSON can tell."""

_BIG_INT, _DATETIME, _DATE, _TIME, _TYPE_NAME = 1, 2, 3, 4, 5
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
UNDECLARED = object()
"""Stands for "no declared type" (None is a type)."""


class _NotAValue(Exception):
    """`places` are the steps from the value's root, innermost first."""

    def __init__(self, what: str, mend: str) -> None:
        self.what = what
        self.mend = mend
        self.places: list[str] = []


def encode(value: Any, *, what: str = "value", declared: Any = UNDECLARED, bytes_max: int = VALUE_BYTES_MAX) -> bytes:
    """The bytes of `value`. Raises Refused (`value_refused`, `payload_too_large`) naming the place, `what[…]…`.

    `declared`: a type annotation; dataclasses, enums and models are accepted if it has any, and must fit it.
    """
    shaped = declared is not UNDECLARED and has_models(declared)
    try:
        data = _encoded_as_it_is(_encoder, value)
        if data is None:
            data = _encoder.encode(_Walk(models=shaped).plain(value, 0))
    except _NotAValue as error:
        place = what + "".join(reversed(error.places))
        raise Refused(f"{place}: {error.what}", code="value_refused", hint=error.mend, place=place) from None
    if len(data) > bytes_max:
        raise Refused(
            f"{what} is {len(data)} bytes encoded, the limit is {bytes_max}",
            code="payload_too_large",
            hint="Keep large results in the facet or outside, and return a reference.",
            bytes=len(data),
            bytes_max=bytes_max,
        )
    if shaped:
        decode(data, declared=declared, what=what)  # what cannot be made again is refused now, not at the next replay
    return data


def decode(data: bytes, *, declared: Any = UNDECLARED, what: str = "value") -> Any:
    """The value of bytes that `encode` made, as an instance of `declared` if that has models in it.

    Raises Refused (`value_refused`) for other bytes and for a value that does not fit.
    """
    try:
        value = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise Refused(f"{what} cannot be read: {error}", code="value_refused") from None
    if declared is UNDECLARED or not has_models(declared):
        return value
    try:
        return msgspec.convert(value, declared, dec_hook=_validate_model)
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise Refused(
            f"{what} does not fit its declared type {_type_text(declared)}: {error}",
            code="value_refused",
            hint="Return what the annotation declares, or change the annotation.",
        ) from None


def check(data: bytes, *, what: str = "value", bytes_max: int = VALUE_BYTES_MAX) -> Any:
    """The value of bytes from an untrusted side: decoded, and held to every rule of this page. Raises Refused."""
    if len(data) > bytes_max:
        raise Refused(f"{what} is {len(data)} bytes, the limit is {bytes_max}", code="payload_too_large")
    value = decode(data, what=what)
    encode(value, what=what, bytes_max=2 * bytes_max)
    return value


def canonical(value: Any) -> bytes:
    """Bytes for digests: equal for equal values whatever the order of keys; what is not a value counts as its type, and
    by what its `__perdure_identity__()` says, if it has that."""
    data = _encoded_as_it_is(_canonical_encoder, value)
    return _canonical_encoder.encode(_Walk(models=False, lenient=True).plain(value, 0)) if data is None else data


def _extension(code: int, data: memoryview) -> Any:
    if code == _BIG_INT:
        if len(data) > INT_BITS_MAX // 8 + 1:
            raise ValueError(f"an int of {len(data)} bytes")
        return int.from_bytes(data, "big", signed=True)
    text = bytes(data).decode()
    if code == _DATETIME:
        return _datetime_of(text)
    if code == _DATE:
        return date.fromisoformat(text)
    if code == _TIME:
        return time.fromisoformat(text)
    raise ValueError(f"extension type {code} is not known")


_encoder = msgspec.msgpack.Encoder()
_canonical_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(ext_hook=_extension)


_ATOMS = frozenset((type(None), bool, int, str, bytes))


def _encoded_as_it_is(encoder: msgspec.msgpack.Encoder, value: Any) -> bytes | None:
    """The bytes of a value that `_Walk` would neither change nor refuse: most are, and a look costs a fifth of a walk.
    None: walk."""
    if not _is_plain(value, 0):
        return None
    try:
        return encoder.encode(value)
    except (OverflowError, UnicodeEncodeError, RecursionError, TypeError):
        return None  # a large integer, a lone surrogate; the others if a thread of the tenant changed it meanwhile


def _is_plain(value: Any, depth: int) -> bool:
    """Whether it is made of MessagePack's own types only. Integers' sizes and texts are left to the encoder."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if kind is float:
        return math.isfinite(value)
    if depth >= DEPTH_MAX:
        return False
    depth += 1
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or not (type(item) in _ATOMS or _is_plain(item, depth)):
                return False
        return True
    if kind is list or kind is tuple:
        for item in value:  # noqa: SIM110  # this is on the way of every step; a generator costs half as much again
            if not (type(item) in _ATOMS or _is_plain(item, depth)):
                return False
        return True
    return False


class _Walk:
    """Turns a value into what MessagePack can hold, or raises _NotAValue; never changes what it was given."""

    __slots__ = ("_lenient", "_models", "_open")

    def __init__(self, *, models: bool, lenient: bool = False) -> None:
        self._models = models
        self._lenient = lenient
        self._open: set[int] = set()

    def plain(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            if value.isascii():
                return value
            try:
                value.encode()
            except UnicodeEncodeError:
                return self._refuse(
                    value,
                    "text with lone surrogates, which is not valid Unicode",
                    "Decode the bytes with errors='replace'.",
                )
            return value
        if kind is int:
            if _INT_MIN <= value <= _INT_MAX:
                return value
            if value.bit_length() > INT_BITS_MAX:
                return self._refuse(
                    value, f"an int of {value.bit_length()} bits, the limit is {INT_BITS_MAX}", "Keep it as bytes."
                )
            size = (value.bit_length() + 8) // 8
            return msgspec.msgpack.Ext(_BIG_INT, value.to_bytes(size, "big", signed=True))
        if kind is float:
            if math.isfinite(value):
                return value
            return self._refuse(value, f"the float {value}, which JSON cannot hold", "Use None or a text for it.")
        if kind is bytes:
            return value
        if depth >= DEPTH_MAX:
            return self._refuse(
                value, f"nested more than {DEPTH_MAX} deep", "Flatten it, or return it as text or bytes."
            )
        if kind is dict:
            return self._inside(value, self._dict, depth)
        if kind is list or (issubclass(kind, tuple) and not hasattr(value, "_fields")):
            return self._inside(value, self._list, depth)
        if kind is datetime:
            return msgspec.msgpack.Ext(_DATETIME, _datetime_text(value).encode())
        if kind is date:
            return msgspec.msgpack.Ext(_DATE, value.isoformat().encode())
        if kind is time:
            if value.tzinfo is not None and value.utcoffset() is None:
                return self._refuse(value, "a time whose zone needs a date", "Use a datetime.")
            return msgspec.msgpack.Ext(_TIME, value.isoformat().encode())
        if self._models:
            return self._model(value, depth)
        if self._lenient and (identity := getattr(kind, "__perdure_identity__", None)) is not None:
            return [_type_name(value), self.plain(identity(value), depth)]
        return self._refuse(value, *_why_not(value))

    def _inside(self, value: Any, each: Callable[[Any, int], Any], depth: int) -> Any:
        identity = id(value)
        if identity in self._open:
            return self._refuse(value, f"a {type(value).__name__} that contains itself", "Break the cycle.")
        self._open.add(identity)
        try:
            return each(value, depth + 1)
        finally:
            self._open.discard(identity)

    def _list(self, value: Any, depth: int) -> list[Any]:
        plain = self.plain
        result: list[Any] = []
        try:
            for item in value:
                result.append(plain(item, depth))  # noqa: PERF401  # the index is needed when it fails
        except _NotAValue as error:
            error.places.append(f"[{len(result)}]")
            raise
        return result

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        plain = self.plain
        result: dict[str, Any] = {}
        for key, item in value.items():
            if type(key) is not str:
                if self._lenient:
                    return _type_name(value)
                raise _NotAValue(
                    f"a dict with the key {_short(key)} of type {type(key).__name__}", "Keys must be str: use str(key)."
                )
            try:
                result[plain(key, depth)] = plain(item, depth)
            except _NotAValue as error:
                error.places.append(f'["{_short_text(key)}"]')
                raise
            except TypeError:  # a key with surrogates became an extension, in a digest
                return _type_name(value)
        return result

    def _model(self, value: Any, depth: int) -> Any:
        if isinstance(value, enum.Enum):
            return self.plain(value.value, depth + 1)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._inside(value, self._dataclass, depth)
        dump = getattr(value, "model_dump", None)
        if callable(dump) and not isinstance(value, type):
            return self.plain(dump(mode="python"), depth + 1)
        return self._refuse(value, *_why_not(value))

    def _dataclass(self, value: Any, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            try:
                result[field.name] = self.plain(getattr(value, field.name), depth)
            except _NotAValue as error:
                error.places.append(f".{field.name}")
                raise
        return result

    def _refuse(self, value: Any, what: str, mend: str) -> Any:
        if self._lenient:
            return _type_name(value)
        raise _NotAValue(what, mend)


def _type_name(value: Any) -> msgspec.msgpack.Ext:
    kind = type(value)
    return msgspec.msgpack.Ext(_TYPE_NAME, f"{kind.__module__}.{kind.__qualname__}".encode(errors="replace"))


_MENDS: dict[str, str] = {
    "set": "Return sorted(the_set), a list.",
    "frozenset": "Return sorted(the_set), a list.",
    "bytearray": "Return bytes(it).",
    "memoryview": "Return bytes(it).",
    "Decimal": "Return str(it), and make a Decimal of it again.",
    "timedelta": "Return it.total_seconds().",
    "UUID": "Return str(it).",
    "complex": "Return [it.real, it.imag].",
    "coroutine": "Await it inside the step.",
    "generator": "Return list(it).",
}


def _why_not(value: Any) -> tuple[str, str]:
    kind = type(value)
    name = kind.__name__
    if isinstance(value, enum.Enum):
        return f"a member of the enum {name}", "Return its .value, or declare the enum as the step's return type."
    if dataclasses.is_dataclass(value) or hasattr(value, "model_dump"):
        how = "dataclasses.asdict(it)" if dataclasses.is_dataclass(value) else "it.model_dump()"
        return f"an instance of {name}", f"Declare it as return type (def function() -> {name}), or return {how}."
    if isinstance(value, tuple):
        return f"a named tuple {name}", "Return it._asdict(), or tuple(it)."
    for plain in (dict, list, str, int, float, bytes, datetime, date):
        if isinstance(value, plain):
            return f"a {name}, a subclass of {plain.__name__}", f"Return a plain {plain.__name__}."
    if name in _MENDS:
        return f"a {name}", _MENDS[name]
    return (
        f"an object of type {name}",
        "Values are None, bool, int, float, str, bytes, list, dict, datetime, date, time; return those.",
    )


def _short_text(text: str) -> str:
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= 40 else text[:39] + "…"


def _short(value: Any) -> str:
    return _short_text(repr(value)) if isinstance(value, int | float | bytes | tuple | None) else type(value).__name__


# --- datetimes


def _datetime_text(value: datetime) -> str:
    text = value.isoformat()
    zone = value.tzinfo
    return f"{text}[{zone.key}]" if isinstance(zone, ZoneInfo) and zone.key else text


def _datetime_of(text: str) -> datetime:
    if not text.endswith("]"):
        return datetime.fromisoformat(text)
    text, _, key = text[:-1].partition("[")
    fixed = datetime.fromisoformat(text)
    if fixed.tzinfo is None:
        raise ValueError(f"a datetime of the zone {key} has no offset")
    zone = _zone(key)
    if zone is None:  # this machine does not know it: the instant is what counts
        return fixed
    for fold in (0, 1):
        named = fixed.replace(tzinfo=zone, fold=fold)
        if named.utcoffset() == fixed.utcoffset():
            return named
    return fixed


_unknown_zones: set[str] = set()
UNKNOWN_ZONES_MAX = 100


def _zone(key: str) -> ZoneInfo | None:
    """Looking for a zone that is not there takes many files: after some of them only those are looked for that are."""
    if len(_unknown_zones) >= UNKNOWN_ZONES_MAX and key not in _zones():
        return None
    try:
        return ZoneInfo(key)
    except (KeyError, ValueError, OSError):
        _unknown_zones.add(key[:UNKNOWN_ZONES_MAX])
        return None


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


# --- declared types


@lru_cache(maxsize=1024)
def _has_models(declared: Any) -> bool:
    if isinstance(declared, type) and typing.get_origin(declared) is None:
        return (
            dataclasses.is_dataclass(declared)
            or hasattr(declared, "model_validate")
            or (issubclass(declared, enum.Enum))
        )
    origin = typing.get_origin(declared)
    return (origin is not None and dataclasses.is_dataclass(origin)) or any(
        _has_models(argument) for argument in typing.get_args(declared) if not isinstance(argument, list)
    )


def has_models(declared: Any) -> bool:
    """Whether a type annotation has a dataclass, enum or model in it, so that values need it to be made again."""
    try:
        return _has_models(declared)
    except TypeError:  # unhashable parts, as in Annotated[…, {}]
        return False


def _validate_model(declared: Any, value: Any) -> Any:
    validate = getattr(declared, "model_validate", None)
    if validate is None:
        raise TypeError(f"{_type_text(declared)} is neither a dataclass nor a model")
    return validate(value)


def _type_text(declared: Any) -> str:
    return declared.__name__ if isinstance(declared, type) else str(declared)


# --- JSON: what the API and its clients exchange

_MARKS = ("$bytes", "$datetime", "$date", "$time")


def to_json(value: Any) -> Any:
    """A decoded value as JSON types: bytes, dates and times as {"$bytes": …}, and a dict that looks so escaped."""
    kind = type(value)
    if kind is dict:
        if len(value) == 1:
            ((key, item),) = value.items()
            if key.startswith("$"):
                return {"$" + key: to_json(item)}
        return {key: to_json(item) for key, item in value.items()}
    if kind is list:
        return [to_json(item) for item in value]
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if kind is datetime:
        return {"$datetime": _datetime_text(value)}
    if kind is date:
        return {"$date": value.isoformat()}
    if kind is time:
        return {"$time": value.isoformat()}
    return value


def from_json(value: Any) -> Any:
    """The value that `to_json` described. Raises Refused (`bad_payload`)."""
    kind = type(value)
    if kind is list:
        return [from_json(item) for item in value]
    if kind is not dict:
        return value
    if len(value) != 1:
        return {key: from_json(item) for key, item in value.items()}
    ((key, item),) = value.items()
    if not key.startswith("$"):
        return {key: from_json(item)}
    if key.startswith("$$"):
        return {key[1:]: from_json(item)}
    if key not in _MARKS:
        raise Refused(
            f'{{"{_short_text(key)}": …}} is not a value: a single key that begins with "$" marks a special type',
            code="bad_payload",
            hint=f'Known are {", ".join(_MARKS)}; for a key of that name write it with "$$".',
        )
    try:
        if type(item) is not str:
            raise ValueError("the text is missing")
        if key == "$bytes":
            return base64.b64decode(item, validate=True)
        if key == "$datetime":
            return _datetime_of(item)
        return date.fromisoformat(item) if key == "$date" else time.fromisoformat(item)
    except (ValueError, binascii.Error) as error:
        raise Refused(f'{{"{key}": …}} cannot be read: {error}', code="bad_payload") from None
