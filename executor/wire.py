"""Views to JSON and back, for HTTP: tenants' values pass through `core.values`, all else is msgspec's.

    encode(view) -> JSON bytes          decode(JSON bytes, type) -> the equal view

Fields that hold a tenant's value are listed here and nowhere else: `Status.output`, `JournalItem.fields`,
`ResultView.output`, and the payloads of requests.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from executor.core.values import from_json, to_json
from executor.operations import ResultView
from executor.views import JournalItem, StartOutcome, StartRequest, Status

_Arguments = TypeVar("_Arguments", bound=msgspec.Struct)


def encode(view: Any) -> bytes:
    """`view` as JSON; tenants' values in the form of `core.values.to_json`."""
    return msgspec.json.encode(_outward(view))


def decode(body: bytes, kind: Any) -> Any:
    """The view that `encode` wrote. Raises msgspec.DecodeError (ValidationError) for anything else."""
    return _inward(msgspec.json.decode(body, type=kind))


def encode_arguments(arguments: msgspec.Struct) -> bytes:
    """A request's JSON body. Raises Refused when a payload has a value that JSON cannot tell."""
    payload = getattr(arguments, "payload", None)
    if payload is not None:
        arguments = msgspec.structs.replace(arguments, payload=to_json(payload))
    requests: list[StartRequest] | None = getattr(arguments, "requests", None)
    if requests is not None:
        converted = [msgspec.structs.replace(item, payload=to_json(item.payload)) for item in requests]
        arguments = msgspec.structs.replace(arguments, requests=converted)
    return msgspec.json.encode(arguments)


def payload_inward(arguments: _Arguments) -> _Arguments:
    """Request arguments with their payloads as Python values. Raises Refused (`bad_payload`)."""
    payload = getattr(arguments, "payload", None)
    if payload is not None:
        return msgspec.structs.replace(arguments, payload=from_json(payload))
    requests: list[StartRequest] | None = getattr(arguments, "requests", None)
    if requests is not None:
        converted = [msgspec.structs.replace(item, payload=from_json(item.payload)) for item in requests]
        return msgspec.structs.replace(arguments, requests=converted)
    return arguments


def _outward(view: Any) -> Any:
    if isinstance(view, list):
        return [_outward(item) for item in view]
    if isinstance(view, Status | ResultView):
        return msgspec.structs.replace(view, output=to_json(view.output))
    if isinstance(view, JournalItem):
        return msgspec.structs.replace(view, fields=to_json(view.fields))
    if isinstance(view, StartOutcome) and view.status is not None:
        return msgspec.structs.replace(view, status=_outward(view.status))
    return view


def _inward(view: Any) -> Any:
    if isinstance(view, list):
        return [_inward(item) for item in view]
    if isinstance(view, Status | ResultView):
        return msgspec.structs.replace(view, output=from_json(view.output))
    if isinstance(view, JournalItem):
        return msgspec.structs.replace(view, fields=from_json(view.fields))
    if isinstance(view, StartOutcome) and view.status is not None:
        return msgspec.structs.replace(view, status=_inward(view.status))
    return view


def innermost(error: BaseException) -> BaseException:
    """The only exception inside nested groups of one, else `error` itself: trio wraps what leaves a nursery."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
