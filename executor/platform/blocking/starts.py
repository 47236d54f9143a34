# Generated from executor/platform/asynchronous/starts.py by tools/unasync.py. Edit that file, and run the tool.
"""Starts of a tenant's instances: of one, and of many at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, TypeVar, overload

import msgspec

from executor.core.attributes import Attribute
from executor.core.errors import PerdureError, Refused, from_json
from executor.platform import payloads
from executor.platform.blocking.caller import PAGE, OfTenant
from executor.platform.blocking.run import Run
from executor.views import StartOutcome, StartRequest, Status
from executor.workflow import Duration, Workflow

P = TypeVar("P")
R = TypeVar("R")


class Starts(OfTenant):
    """Part of Tenant."""

    @overload
    def start(
        self,
        workflow: type[Workflow[P, R]],
        payload: P,
        *,
        id: str | None = None,
        channel: str = "live",
        commit: str | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        attributes: Mapping[str, Attribute] | None = None,
        priority: int | None = None,
        retention: Mapping[str, Duration] | None = None,
        unload: Literal["every-wait"] | None = None,
    ) -> Run[R]: ...
    @overload
    def start(
        self,
        workflow: type[Workflow[None, R]],
        *,
        id: str | None = None,
        channel: str = "live",
        commit: str | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        attributes: Mapping[str, Attribute] | None = None,
        priority: int | None = None,
        retention: Mapping[str, Duration] | None = None,
        unload: Literal["every-wait"] | None = None,
    ) -> Run[R]: ...
    @overload
    def start(
        self,
        workflow: str,
        payload: Any = None,
        *,
        id: str | None = None,
        channel: str = "live",
        commit: str | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        attributes: Mapping[str, Attribute] | None = None,
        priority: int | None = None,
        retention: Mapping[str, Duration] | None = None,
        unload: Literal["every-wait"] | None = None,
    ) -> Run[Any]: ...
    def start(
        self,
        workflow: str | type[Workflow[Any, Any]],
        payload: Any = None,
        *,
        id: str | None = None,
        channel: str = "live",
        commit: str | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        attributes: Mapping[str, Attribute] | None = None,
        priority: int | None = None,
        retention: Mapping[str, Duration] | None = None,
        unload: Literal["every-wait"] | None = None,
    ) -> Run[Any]:
        """Start an instance on the commit that `channel` is on now, or on `commit`. Durable on return.

        The same id with the same workflow and payload is the same instance, however often it is started; with others
        it is a Conflict (`instance_exists`); other options do not count.

        `delay` or `at`: it begins then. `attributes`: search attributes. `priority`: -100 to 100, higher goes first
        among the tenant's own. `retention`: how long it is kept once it has ended, {"complete": "1 day", "failed": "30
        days"}. `unload`: "every-wait" drops its run at every wait. What the workflow declares as `flow` counts too.

        Dataclasses and pydantic models are taken as payload; where a class is given, `result()` has its declared type.
        Raises Refused: `not_deployed`, `unknown_workflow`, `bad_payload`, `payload_too_large`, `invalid_name`.
        """
        status: Status = self._call(
            "start",
            workflow=payloads.workflow_name(workflow),
            payload=payloads.value_of(payload),
            id=id,
            channel=channel,
            commit=commit,
            **payloads.start_options(
                delay=delay, at=at, attributes=attributes, priority=priority, retention=retention, unload=unload
            ),
        )
        return Run(self, status.id, payloads.result_type(workflow))

    @overload
    def start_many(
        self, requests: Iterable[StartRequest | Mapping[str, Any]], *, return_exceptions: Literal[False] = False
    ) -> list[Run[Any]]: ...
    @overload
    def start_many(
        self, requests: Iterable[StartRequest | Mapping[str, Any]], *, return_exceptions: bool
    ) -> list[Run[Any] | PerdureError]: ...
    def start_many(
        self, requests: Iterable[StartRequest | Mapping[str, Any]], *, return_exceptions: bool = False
    ) -> Any:
        """Start many instances with few disk writes. Each request is a StartRequest, or a dict of its fields
        (workflow, payload, id, channel, commit, and the options of `start`). Those that succeed are durable on return.

        With return_exceptions, a refused request gives its error in its place; else the first error is raised after
        all were tried, with `details["index"]`.
        """
        wanted = [_request(item) for item in requests]
        outcomes: list[StartOutcome] = []
        for first in range(0, len(wanted), PAGE):
            outcomes += self._call("start_many", requests=wanted[first : first + PAGE])
        found: list[Run[Any] | PerdureError] = []
        for index, outcome in enumerate(outcomes):
            if outcome.status is not None:
                found.append(Run(self, outcome.status.id))
                continue
            error = from_json(outcome.error or {})
            error.details["index"] = index
            found.append(error)
        refused = [item for item in found if isinstance(item, PerdureError)]
        if refused and not return_exceptions:
            raise refused[0]
        return found


def _request(item: StartRequest | Mapping[str, Any]) -> StartRequest:
    fields = msgspec.structs.asdict(item) if isinstance(item, StartRequest) else dict(item)
    unknown = fields.keys() - set(StartRequest.__struct_fields__)
    if unknown or "workflow" not in fields:
        raise Refused(
            f"{sorted(map(str, fields))} are not the fields of a start.",
            hint=f"A start has workflow, and perhaps {', '.join(StartRequest.__struct_fields__[1:])}.",
        )
    fields["workflow"] = payloads.workflow_name(fields["workflow"])
    fields["payload"] = payloads.value_of(fields.get("payload"))
    given = {name: fields[name] for name in payloads.START_OPTIONS if name in fields}
    return StartRequest(**{**fields, **payloads.start_options(**given)})
