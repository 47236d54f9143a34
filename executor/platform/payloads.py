"""Payloads and results at the Python API: dataclasses and models in, declared types out, workflow classes by name."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, get_args, get_origin

import msgspec

from executor.core import values
from executor.core.errors import Refused
from executor.core.search import where_text
from executor.operations.versions import Base64File
from executor.views import BulkResult
from executor.workflow import Workflow

Where: TypeAlias = Mapping[str, Any] | Sequence[tuple[str, str, Any]]
"""Conditions on search attributes: name to value or to operators and their values; or (name, operator, value)."""
BULK_ERRORS_SHOWN_MAX = 100
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNBOUNDED = 2**31
"""Size is the service's business: it knows its limit."""


def plain(value: Any, depth: int = 0) -> Any:
    """`value` with dataclasses, pydantic models and msgspec Structs as dicts, and enum members as their values.

    What is nested deeper than any value may be stays as it is: `values.encode` refuses it by its place.
    """
    if isinstance(value, enum.Enum):
        return plain(value.value, depth)
    if value is None or depth > values.DEPTH_MAX or isinstance(value, str | int | float | bytes):
        return value
    inside = depth + 1
    if isinstance(value, dict):
        return {key: plain(item, inside) for key, item in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [plain(item, inside) for item in value]
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name), inside) for name in value.__struct_fields__}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name), inside) for item in dataclasses.fields(value)}
    dump = getattr(value, "model_dump", None)
    # By duck typing: pydantic is the caller's, not a dependency of ours.
    return plain(dump(), depth) if callable(dump) and not isinstance(value, type) else value


START_OPTIONS = ("delay", "at", "attributes", "priority", "retention", "unload")


def start_options(**options: Any) -> dict[str, Any]:
    """The options of a start as every transport carries them: durations as texts or seconds."""
    given = {name: value for name, value in options.items() if value is not None}
    if "delay" in given:
        given["delay"] = duration_of(given["delay"])
    if isinstance(given.get("retention"), Mapping):
        given["retention"] = {name: duration_of(value) for name, value in given["retention"].items()}
    if isinstance(given.get("attributes"), Mapping):
        given["attributes"] = {name: plain(value) for name, value in given["attributes"].items()}
    return given


def value_of(value: Any, *, what: str = "payload") -> Any:
    """`value` as every transport carries it, so that embedded and remote calls refuse and see the same.

    Raises Refused (`bad_payload`) that names the place inside it.
    """
    if value is None:
        return None
    try:
        return values.decode(values.encode(plain(value), what=what, bytes_max=_UNBOUNDED))
    except Refused as error:
        raise Refused(error.message, code="bad_payload", hint=error.hint, **error.details) from None


def search(
    *,
    state: str | Sequence[str] | None,
    workflow: str | type[Any] | None,
    commit: str | None,
    created_from: datetime | None,
    created_to: datetime | None,
    updated_from: datetime | None,
    updated_to: datetime | None,
    where: Where | None,
) -> dict[str, Any]:
    """The arguments of a search as its operations take them. Raises Refused (`bad_request`)."""
    if state is not None and not isinstance(state, str):
        state = ",".join(map(str, state))
    return {
        "state": state,
        "workflow": None if workflow is None else workflow_name(workflow),
        "commit": commit,
        "created_from_ms": _ms("created_from", created_from),
        "created_to_ms": _ms("created_to", created_to),
        "updated_from_ms": _ms("updated_from", updated_from),
        "updated_to_ms": _ms("updated_to", updated_to),
        "where": where_text(where),
    }


def _ms(name: str, at: datetime | None) -> int | None:
    if at is None:
        return None
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise Refused(f"{name} is no datetime with a time zone: {at!r}.", hint="Write datetime.now(UTC).")
    return -((EPOCH - at) // timedelta(milliseconds=1))


def sum_of(total: BulkResult, portion: BulkResult) -> BulkResult:
    """Of a bulk operation so far, and its next portion."""
    return BulkResult(
        matched=total.matched + portion.matched,
        done=total.done + portion.done,
        unchanged=total.unchanged + portion.unchanged,
        failed=total.failed + portion.failed,
        errors=[*total.errors, *portion.errors][:BULK_ERRORS_SHOWN_MAX],
        next=portion.next,
    )


def wait_of(timeout: float | None) -> float | None:
    """`timeout` in seconds, or None. Raises Refused (`bad_request`) for what is no number."""
    try:
        return msgspec.convert(timeout, float | None)
    except msgspec.ValidationError as error:
        raise Refused(f"The arguments of result are wrong: {error} - at `$.timeout`.") from None


def duration_of(value: Any) -> Any:
    """A timedelta as seconds; texts and numbers as they are."""
    return value.total_seconds() if isinstance(value, dt.timedelta) else value


def moment_of(value: Any) -> Any:
    """A datetime as ISO 8601 text; texts as they are."""
    return value.isoformat() if isinstance(value, dt.datetime) else value


def workflow_name(workflow: str | type[Any]) -> str:
    """The public name: a class's own."""
    if isinstance(workflow, str):
        return workflow
    if isinstance(workflow, type) and issubclass(workflow, Workflow):
        return workflow.__name__
    raise Refused(f"{workflow!r} is no workflow.", hint="Give the class (it derives from Workflow), or its name.")


def result_type(workflow: str | type[Any]) -> Any:
    """R of `class X(Workflow[P, R])`; Any where it is not declared."""
    if isinstance(workflow, str):
        return Any
    for base in workflow.__mro__:
        for origin in getattr(base, "__orig_bases__", ()):
            if get_origin(origin) is Workflow:
                declared = get_args(origin)[1:]
                return declared[0] if declared and not hasattr(declared[0], "__constraints__") else Any
    return Any


def typed(value: Any, kind: Any, *, of: str) -> Any:
    """`value` as the declared type. Raises Refused (`value_refused`) if it does not fit."""
    if kind is Any:
        return value
    validate = getattr(kind, "model_validate", None)
    try:
        return validate(value) if callable(validate) else msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise Refused(
            f"The result of {of} does not fit the declared type {getattr(kind, '__name__', kind)}: {error}.",
            code="value_refused",
            hint=f"tenant.instance({of!r}) gives a handle without a declared type.",
        ) from None


def file_contents(files: Mapping[str, str | bytes]) -> dict[str, Any]:
    """Files as the operation takes them."""
    found: dict[str, Any] = {}
    for path, content in files.items():
        if not isinstance(path, str) or not isinstance(content, str | bytes):
            raise Refused(f"The file {path!r} is not text or bytes.", hint="Give {path: str or bytes}.")
        found[path] = Base64File(content) if isinstance(content, bytes) else content
    return found
