"""PerdureError, its five families, and the public error codes.

The family decides how an error is handled, the code says exactly what happened, and both are the same over Python,
HTTP and the command line. `CODES` is the catalogue: a code that is not in it cannot be raised, and a test checks that
each is documented and provoked.
"""

from __future__ import annotations

from typing import Any, ClassVar

CODES: dict[str, str] = {
    # Refused: the caller can mend it.
    "bad_request": "The request is not of the form the operation takes.",
    "invalid_name": "A tenant, instance, channel, event type or step name breaks the naming rule.",
    "bad_payload": "The payload is not made of JSON types, bytes and datetimes.",
    "payload_too_large": "The payload, event or value is over its limit.",
    "value_refused": "A value is of a type that cannot be journaled.",
    "unauthorized": "No token, or one that is unknown, expired or revoked.",
    "forbidden": "The token is valid but does not allow this operation.",
    "limit_exceeded": "A limit of the tenant or of the platform is reached.",
    "push_refused": "The pushed objects or files break a rule; details name each path.",
    "deploy_refused": "The files do not make a deployment; diagnostics name file, line and reason.",
    "no_previous_version": "The channel has no version before the present one.",
    "version_ambiguous": "The abbreviated commit fits several versions.",
    "not_deployed": "The tenant has no deployment on that channel yet.",
    "unknown_workflow": "The pinned version has no workflow of that name.",
    "data_in_use": "Another executor owns this data directory.",
    "not_confined": "This machine cannot confine tenant code, and nobody allowed that by name.",
    "schema_too_new": "The data directory was written by a newer release.",
    "facet_refused": "A facet operation or its SQL is not allowed, or over a limit.",
    "update_refused": "The workflow's validator refused the update; nothing was journaled.",
    # Refused, not found. Another tenant's thing is always "not found".
    "tenant_not_found": "No such tenant.",
    "instance_not_found": "No such instance of this tenant.",
    "version_not_found": "No such deployment or commit of this tenant.",
    "channel_not_found": "No such channel of this tenant.",
    "schedule_not_found": "No such schedule of this tenant.",
    "move_not_found": "No such move in the history of this tenant's channels.",
    "token_not_found": "No such token of this tenant.",
    "file_not_found": "No such file at that commit.",
    "step_not_found": "The journal has no step of that name and occurrence.",
    "unknown_handler": "The workflow has no update or query handler of that name.",
    "route_not_found": "No such path or method of the HTTP API.",
    # Conflict: someone or something was first.
    "tenant_exists": "A tenant of that name exists.",
    "instance_exists": "An instance of that id exists with another workflow or payload.",
    "singleton_exists": "The workflow is a singleton, and an instance of the same key has not ended.",
    "instance_finished": "The instance has already ended.",
    "instance_held": "The instance is held and cannot give a result before somebody acts.",
    "instance_terminated": "The instance was terminated and has no result.",
    "invalid_state": "The operation does not apply to the instance's present state.",
    "schedule_exists": "A schedule of that name exists with another content.",
    "event_exists": "An event of that id exists with another type or payload.",
    "update_exists": "An update of that id exists with another name or payload.",
    "ref_conflict": "The branch or channel moved in between.",
    # Unavailable: try later.
    "busy": "The platform is at its bound of work; try again after the time it names.",
    "timeout": "The answer did not come within the time allowed; the work itself goes on.",
    "shutting_down": "The executor is stopping.",
    "sandbox_unavailable": "A sandbox could not be started.",
    "storage_full": "The disk is full; nothing was written.",
    "unreachable": "The server could not be reached.",
    # Corrupt: stored bytes break an invariant.
    "corrupt_journal": "A journal entry cannot be read or its chain does not fit.",
    "corrupt_store": "The stored data of the platform breaks an invariant.",
    # TenantError: the tenant's own code.
    "step_failed": "A step failed and its retries are used up.",
    "workflow_failed": "The workflow raised an exception.",
    "update_failed": "The handler of an update raised an exception.",
    "query_failed": "The handler of a query raised an exception.",
    "code_not_loadable": "The pinned version's code cannot be imported in the sandbox.",
    # Held: why an instance cannot go on by itself.
    "nondeterminism": "The run asked for something else than its journal records.",
    "sandbox_killed": "The instance's sandbox died several times without progress.",
    # Bugs of ours that reached the border.
    "internal": "A fault of the platform; its log has the details.",
}


class PerdureError(Exception):
    """What happened, to which thing, and what to do next.

    `code` is stable and documented; `hint` is what to do next; `details` are facts as JSON values.
    """

    family: ClassVar[str] = "internal"
    default_code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint
        self.details: dict[str, Any] = details
        assert self.code in CODES, f"undocumented error code {self.code!r}"

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]" + (f"\n  {self.hint}" if self.hint else "")

    def to_json(self) -> dict[str, Any]:
        """The one JSON shape of every public error."""
        return {
            "family": self.family,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "details": self.details,
        }


class Refused(PerdureError):
    """Input, permission or limit: the caller can fix it."""

    family = "refused"
    default_code = "bad_request"


class NotFound(Refused):
    """The named thing does not exist for this caller."""

    family = "not_found"
    default_code = "route_not_found"


class Conflict(PerdureError):
    """Someone or something was first."""

    family = "conflict"
    default_code = "invalid_state"


class Unavailable(PerdureError):
    """Try again later; `details["retry_after_s"]` says when, if known."""

    family = "unavailable"
    default_code = "busy"


class Corrupt(PerdureError):
    """Stored bytes break an invariant: that instance stops, the bytes are kept."""

    family = "corrupt"
    default_code = "corrupt_store"


class TenantError(PerdureError):
    """The tenant's exception as text; `details` has type, message and traceback. Never unpickled."""

    family = "tenant_error"
    default_code = "workflow_failed"


FAMILIES: dict[str, type[PerdureError]] = {
    family.family: family for family in (PerdureError, Refused, NotFound, Conflict, Unavailable, Corrupt, TenantError)
}


_PARAMETERS = frozenset({"self", "message", "code", "hint"})


def from_json(body: dict[str, Any]) -> PerdureError:
    """The error that `to_json` described; an unknown family or code becomes `internal` rather than a crash."""
    family = FAMILIES.get(str(body.get("family")), PerdureError)
    code = str(body.get("code"))
    details = body.get("details")
    hint = body.get("hint")
    return family(
        str(body.get("message", "the server gave no message")),
        code=code if code in CODES else "internal",
        hint=str(hint) if hint else None,
        **(
            {str(key): value for key, value in details.items() if key not in _PARAMETERS}
            if isinstance(details, dict)
            else {}
        ),
    )
