"""APSW's exceptions as ours: the third party's exceptions stop here."""

from __future__ import annotations

import apsw

from facets.errors import ConstraintFailed, Corrupt, FacetError, Refused
from facets.image import StepTooLarge
from facets.limits import Limits

READ_ONLY_HINT = "Write inside a step of the workflow."
_MEMORY_HINT = "Ask for less at once."
_VACUUM_HINT = "Free pages are used again; vacuum an exported copy."

# Exception, code, message (None: SQLite's own), hint. The first that fits counts.
_REFUSALS: tuple[tuple[type[Exception], str, str | None, str | None], ...] = (
    (
        apsw.InterruptError,
        "facet_statement_timeout",
        "The statement ran longer than {limits.statement_ms_max} ms and was stopped.",
        "Add an index or a LIMIT, or split the work into steps.",
    ),
    (
        StepTooLarge,
        "facet_delta_too_large",
        "The step changes more of the facet than {limits.delta_bytes_max} bytes.",
        "Write less in one step.",
    ),
    (
        apsw.FullError,
        "facet_full",
        "The facet has reached its limit of {limits.facet_bytes_max} bytes.",
        "Delete rows first, or keep large values outside the facet.",
    ),
    (
        apsw.TooBigError,
        "facet_value_too_large",
        "A value or row is over the limit of {limits.value_bytes_max} bytes.",
        "Keep large values outside the facet, and their names in it.",
    ),
    (apsw.NoMemError, "facet_memory", "The statement needs more memory than SQLite may use here.", _MEMORY_HINT),
    (MemoryError, "facet_memory", "The statement needs more memory than SQLite may use here.", _MEMORY_HINT),
    (apsw.ReadOnlyError, "facet_read_only", "This facet is open for reading only.", READ_ONLY_HINT),
    (apsw.BindingsError, "facet_parameters", None, "Give one value for each ? or :name."),
    (KeyError, "facet_parameters", "There is no value for the parameter {error.args[0]}.", None),
    (OverflowError, "facet_value", "An integer does not fit into 64 bits.", "Store larger ones as text."),
    (UnicodeError, "facet_value", "A text cannot be encoded as UTF-8.", "Store such bytes as bytes."),
    (apsw.Error, "facet_sql_error", None, None),
)


def translated(error: Exception, sql: str, limits: Limits) -> FacetError:
    """The error of one statement; `sql` is shown (its beginning), parameters never are. Anything unknown is raised."""
    # What cannot be encoded must not hide in the message either: it is going to be sent and stored.
    place = f" Statement: {sql.strip()[:200].encode(errors='replace').decode()}" if sql else ""
    own = f"{str(error).rstrip('.')}.{place}"
    if isinstance(error, apsw.ConstraintError):
        return ConstraintFailed(own)
    if isinstance(error, apsw.CorruptError | apsw.NotADBError | apsw.CantOpenError | apsw.FormatError):
        return Corrupt(f"The facet's image is damaged: {own}", code="facet_image_corrupt")
    if str(error).startswith("cannot VACUUM"):
        return Refused("VACUUM is not allowed in a facet.", code="facet_sql_forbidden", hint=_VACUUM_HINT)
    for kind, code, message, hint in _REFUSALS:
        if isinstance(error, kind):
            text = own if message is None else message.format(limits=limits, error=error) + place
            return Refused(text, code=code, hint=hint)
    raise error
