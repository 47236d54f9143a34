"""FacetError and its families: which one it is decides what a caller does next."""

from __future__ import annotations


class FacetError(Exception):
    """What happened, to which thing (`message`), what to do next (`hint`), and the facts as attributes.

    `code` is stable and public: callers and the documents may rely on it. `details` holds JSON values only.
    `str()` is the message followed by the hint.
    """

    default_code = "facet_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        details: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code if code is not None else self.default_code
        self.hint = hint
        self.details: dict[str, object] = dict(details) if details is not None else {}

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} {self.hint}"


class Refused(FacetError):
    """Input, permission or limit: the caller can fix it; asking again unchanged gives the same answer."""

    default_code = "facet_refused"


class ConstraintFailed(Refused):
    """A UNIQUE, NOT NULL, CHECK or foreign key rule of the facet's own schema refused a row; nothing was done."""

    default_code = "facet_constraint"


class NotFound(Refused):
    """The named thing does not exist (or is another tenant's, which is the same answer)."""

    default_code = "facet_not_found"


class Conflict(FacetError):
    """Someone was first: read the present state, then decide again."""

    default_code = "facet_conflict"


class Unavailable(FacetError):
    """Not now: the machine is short of something (disk, memory, time). Nothing was half done."""

    default_code = "facet_unavailable"


class Corrupt(FacetError):
    """Stored or received bytes break an invariant: stop that instance, keep the bytes."""

    default_code = "facet_corrupt"


# --- the store on the host: classes on which the engine acts differently


class SequenceConflict(Conflict):
    """A record is not the next one of its instance; nothing of its batch was written.

    Carries tenant, instance, expected, found.
    """

    default_code = "sequence_conflict"


class PositionConflict(Conflict):
    """The log's head is not where the caller left it, though the caller still owns it. Carries expected, found."""

    default_code = "position_conflict"


class Fenced(Conflict):
    """Another owner has claimed the log: this one must stop; nothing was written. Carries epoch, found."""

    default_code = "fenced"


class DataInUse(Unavailable):
    """Another process has the data open. Carries pid (None when it cannot be told)."""

    default_code = "data_in_use"


class StorageFull(Unavailable):
    """The disk is full: nothing of the batch was written; the same append works again once there is room."""

    default_code = "storage_full"


class StoreFailed(Unavailable):
    """A write or fsync failed and what is on disk is unknown: this store refuses every further write until reopened."""

    default_code = "store_failed"


class SchemaTooNew(Refused):
    """A database was written by a newer version. Carries path, found, known."""

    default_code = "schema_too_new"
