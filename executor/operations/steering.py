"""Operations that tell one instance something, or what to do next."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from executor.operations.operation import INSTANCE, Arguments, Operation, Wait
from executor.views import EventReceipt, Status, UpdateReceipt


class SendEvent(Arguments, frozen=True):
    """`event_id`: sending it again changes nothing."""

    type: str
    payload: Any = None
    event_id: str | None = None


class Terminate(Arguments, frozen=True):
    """`undo`: once what its finished steps did is undone."""

    undo: bool = False


class Restart(Arguments, frozen=True):
    """`from_step`: name of the step to begin again with (in a group: the group's path before it), and which
    `occurrence` of it; what was recorded before it began stays."""

    from_step: str | None = None
    occurrence: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1


class SetAttributes(Arguments, frozen=True):
    """Null takes an attribute away; a time is `{"$datetime": "…"}`."""

    attributes: dict[str, Any]


class Update(Arguments, frozen=True):
    """`update_id`: sending it again is the same update. `timeout_s`: longest wait for the handler's end."""

    name: str
    payload: Any = None
    update_id: str | None = None
    timeout_s: Wait = 30.0


STEERING = [
    Operation(
        name="send_event",
        method="POST",
        path=INSTANCE + "/events",
        arguments=SendEvent,
        result=EventReceipt,
        access="write",
        summary="Send an event; durable when answered",
    ),
    Operation(
        name="pause",
        method="POST",
        path=INSTANCE + "/pause",
        result=Status,
        access="write",
        summary="Start no further step until resumed",
    ),
    Operation(name="resume", method="POST", path=INSTANCE + "/resume", result=Status, access="write", summary="Go on"),
    Operation(
        name="terminate",
        method="POST",
        path=INSTANCE + "/terminate",
        arguments=Terminate,
        result=Status,
        access="write",
        summary="End the instance now, for good",
    ),
    Operation(
        name="restart",
        method="POST",
        path=INSTANCE + "/restart",
        arguments=Restart,
        result=Status,
        access="write",
        summary="Run the instance again, from its beginning or from a step",
    ),
    Operation(
        name="retry",
        method="POST",
        path=INSTANCE + "/retry",
        result=Status,
        access="write",
        summary="Go on from the step that failed the instance",
    ),
    Operation(
        name="set_attributes",
        method="POST",
        path=INSTANCE + "/attributes",
        arguments=SetAttributes,
        result=Status,
        access="write",
        summary="Change search attributes",
    ),
    Operation(
        name="update",
        method="POST",
        path=INSTANCE + "/updates",
        arguments=Update,
        result=UpdateReceipt,
        access="write",
        summary="Send an update to the workflow and wait for its answer",
    ),
    Operation(
        name="delete",
        method="DELETE",
        path=INSTANCE,
        status=204,
        access="write",
        summary="Forget an instance: journal, facet and logs",
    ),
]
