"""Views to JSON and back, for HTTP: tenants' values pass through `core.values`, all else is msgspec's.

    encode(view) -> JSON bytes          decode(JSON bytes, type) -> the equal view

Fields that hold a tenant's value are listed here and nowhere else: `TENANTS_FIELDS`, the fields of a JournalItem one by
one, the rows of a QueryResult, and the payloads and parameters of requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from executor.core.values import from_json, to_json
from executor.views import (
    SENSITIVE,
    InstancePage,
    InstanceView,
    JournalItem,
    QueryResult,
    ResultView,
    ScheduleView,
    StartOutcome,
    StartRequest,
    Status,
    StreamItem,
    UpdateReceipt,
)

_Arguments = TypeVar("_Arguments", bound=msgspec.Struct)

TENANTS_FIELDS: dict[type[Any], tuple[str, ...]] = {
    Status: ("output", "status", "attributes"),
    InstanceView: ("status", "attributes"),
    ResultView: ("output",),
    StreamItem: ("item",),
    QueryResult: ("rows",),
    UpdateReceipt: ("value",),
    ScheduleView: ("payload",),
}
"""By view: fields that are tenants' values, or lists or dicts of them."""


LARGE = 64 * 1024
"""Bytes of JSON, or parts of a view, that are not worked on where everybody would have to wait for it."""


def is_large(view: Any) -> bool:
    """Whether it has more than some thousand parts, or texts as long: then it takes a while to `encode`."""
    left = LARGE
    todo = [view]
    while todo:
        one = todo.pop()
        kind = type(one)
        left -= 16
        if kind is str or kind is bytes:
            left -= len(one)
        elif kind is list:
            left -= 16 * len(one)
            todo += one if left > 0 else ()
        elif kind is dict:
            left -= 32 * len(one)
            todo += one.values() if left > 0 else ()
        elif isinstance(one, msgspec.Struct):
            todo += [getattr(one, name) for name in one.__struct_fields__]
        if left < 0:
            return True
    return False


def encode(view: Any) -> bytes:
    """`view` as JSON; tenants' values in the form of `core.values.to_json`."""
    return msgspec.json.encode(_outward(view))


def decode(body: bytes, kind: Any) -> Any:
    """The view that `encode` wrote. Raises msgspec.DecodeError (ValidationError) for anything else."""
    return _inward(msgspec.json.decode(body, type=kind))


def encode_arguments(arguments: msgspec.Struct) -> bytes:
    """A request's JSON body. Raises Refused when a payload has a value that JSON cannot tell."""
    return msgspec.json.encode(_request(arguments, to_json))


def payload_inward(arguments: _Arguments) -> _Arguments:
    """Request arguments with their payloads as Python values. Raises Refused (`bad_payload`)."""
    return _request(arguments, from_json)


def _request(arguments: _Arguments, convert: Callable[[Any], Any]) -> _Arguments:
    """Arguments with what is a tenant's in them converted: payload, attributes and parameters, of each start."""
    requests: list[StartRequest] | None = getattr(arguments, "requests", None)
    if requests is not None:
        return msgspec.structs.replace(arguments, requests=[_request(item, convert) for item in requests])
    payload = getattr(arguments, "payload", None)
    if payload is not None:
        arguments = msgspec.structs.replace(arguments, payload=convert(payload))
    for name in ("attributes", "parameters"):
        value = getattr(arguments, name, None)
        if value:
            arguments = msgspec.structs.replace(arguments, **{name: convert(value)})
    return arguments


def _outward(view: Any) -> Any:
    return _converted(view, to_json, lambda item: item is SENSITIVE)


def _inward(view: Any) -> Any:
    return _converted(view, from_json, lambda item: item == SENSITIVE)


def _converted(view: Any, convert: Callable[[Any], Any], is_hidden: Callable[[Any], bool]) -> Any:
    """`view` with tenants' values converted; `is_hidden`: what stands for a value that is not shown."""
    if isinstance(view, list):
        return [_converted(item, convert, is_hidden) for item in view]
    if isinstance(view, JournalItem):
        fields = {name: SENSITIVE if is_hidden(item) else convert(item) for name, item in view.fields.items()}
        return msgspec.structs.replace(view, fields=fields)
    if isinstance(view, StartOutcome):
        status = view.status and _converted(view.status, convert, is_hidden)
        return msgspec.structs.replace(view, status=status)
    if isinstance(view, InstancePage):
        return msgspec.structs.replace(view, items=_converted(view.items, convert, is_hidden))
    names = TENANTS_FIELDS.get(type(view))
    if names is None:
        return view
    changes = {name: convert(value) for name in names if (value := getattr(view, name))}
    return msgspec.structs.replace(view, **changes) if changes else view


def innermost(error: BaseException) -> BaseException:
    """The only exception inside nested groups of one, else `error` itself: trio wraps what leaves a nursery."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
