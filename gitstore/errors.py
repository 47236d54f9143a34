"""Errors of gitstore: five families that decide the handling, and the few classes some caller acts on.

Facts are attributes (`code`, `hint`, `details`); the text says what happened, to which thing, and what to do next.
Codes are stable and public: HTTP, the command line and the Python API show the same ones. Another tenant's thing is
"not found", never "forbidden".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding about a pushed file. `line` and `column` count from 1; 0 means the whole file."""

    path: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:{self.column}" if self.line else self.path
        return f"{place}: {self.message}"


class GitStoreError(Exception):
    """Base of everything gitstore raises on purpose; `str()` is the message and, if there is one, the hint."""

    code: str = "gitstore_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details: dict[str, object] = dict(details or {})
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class Refused(GitStoreError):
    """Input, permission or limit: the caller can fix it. `diagnostics` names files and lines where there are any."""

    code = "refused"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        details: Mapping[str, object] | None = None,
        diagnostics: Sequence[Diagnostic] = (),
    ) -> None:
        super().__init__(message, code=code, hint=hint, details=details)
        self.diagnostics = tuple(diagnostics)


def code_invalid(errors: Sequence[Diagnostic]) -> Refused:
    """Sources that cannot be deployed."""
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Refused(f"The code cannot be deployed: {errors[0]}{more}.", code="code_invalid", diagnostics=errors)


class InvalidName(Refused):
    """A tenant, channel, ref, revision or path name that breaks the rules of `names.py`."""

    code = "invalid_name"


class LimitExceeded(Refused):
    """A bound of `Limits` was passed. `details` has `limit` (the field's name), `bound` and, where known, `found`."""

    code = "limit_exceeded"

    def __init__(self, what: str, *, limit: str, bound: int, found: int | None = None, hint: str | None = None) -> None:
        seen = f" ({found})" if found is not None else ""
        super().__init__(
            f"{what}{seen} is over the limit of {bound} ({limit}).",
            hint=hint,
            details={"limit": limit, "bound": bound, "found": found},
        )


class NotFound(Refused):
    """The named thing does not exist for this caller."""

    code = "not_found"


class TenantNotFound(NotFound):
    """There is no tenant of this name."""

    code = "tenant_not_found"

    def __init__(self, tenant: str) -> None:
        super().__init__(
            f"There is no tenant {tenant!r}.",
            hint="Create it first, or check the spelling.",
            details={"tenant": tenant},
        )


class VersionNotFound(NotFound):
    """The tenant has no such version: the commit was never deployed, or garbage collection removed it."""

    code = "version_not_found"


class Conflict(GitStoreError):
    """Somebody was first; look again, then decide."""

    code = "conflict"


class TenantExists(Conflict):
    """A tenant of this name exists already."""

    code = "tenant_exists"

    def __init__(self, tenant: str) -> None:
        super().__init__(
            f"A tenant {tenant!r} exists already.", hint="Choose another name.", details={"tenant": tenant}
        )


class ChannelMoved(Conflict):
    """The channel is not where the caller expected it. `details` has `expected` and `found`."""

    code = "channel_moved"


class Unavailable(GitStoreError):
    """The store cannot do it now: disk full, database busy, out of files. Nothing was changed; try later."""

    code = "unavailable"


class Corrupt(GitStoreError):
    """Stored bytes break an invariant. Nothing was deleted; restore from a backup or ask for help."""

    code = "corrupt"
