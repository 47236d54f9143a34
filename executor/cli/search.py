"""`perdure instances list` and `bulk`: the instances that fit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from executor.cli.app import instances
from executor.cli.arguments import confirm
from executor.cli.common import Of, show, tables


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Fits:
    """Which instances: those that fit all of it."""

    state: str | None = None
    "A state, or several with commas: running,waiting."
    workflow: str | None = None
    "Name of the workflow."
    commit: str | None = None
    "The commit they are pinned to, in full."
    created_from: datetime | None = None
    "Begun then or later; without a zone in UTC."
    created_to: datetime | None = None
    "Begun before then."
    updated_from: datetime | None = None
    "Changed last then or later."
    updated_to: datetime | None = None
    "Changed last before then."
    where: Annotated[list[str] | None, Parameter(allow_leading_hyphen=True, negative="", consume_multiple=False)] = None
    "A condition on a search attribute, once for each: customer=acme, 'amount>5', 'customer^=ac', urgent, '!urgent'."

    def arguments(self) -> dict[str, Any]:
        """As the Python API takes them."""
        from executor.core.search import words  # noqa: PLC0415 - msgspec; `--help` must not wait for it

        return {
            "state": self.state,
            "workflow": self.workflow,
            "commit": self.commit,
            "created_from": _in_utc(self.created_from),
            "created_to": _in_utc(self.created_to),
            "updated_from": _in_utc(self.updated_from),
            "updated_to": _in_utc(self.updated_to),
            "where": [words(text) for text in self.where] if self.where else None,
        }


FITS = Fits()


def _in_utc(at: datetime | None) -> datetime | None:
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


@instances.command(name="list")
def list_instances(
    *,
    fits: Fits = FITS,
    order_by: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    limit: int = 100,
    of: Of,
) -> None:
    """List instances, newest first.

    Parameters
    ----------
    order_by
        created, updated or the name of a search attribute; with - before it, the greatest comes first.
    """
    with of.connect() as platform:
        found = platform.tenant(of.tenant).instances(**fits.arguments(), order_by=order_by, limit=limit)
    show(of, found, tables().instances)


@instances.command
def bulk(
    operation: Literal["pause", "resume", "terminate", "restart", "retry", "delete"],
    *,
    fits: Fits = FITS,
    limit: int | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    yes: Annotated[bool, Parameter(negative="")] = False,
    of: Of,
) -> int:
    """Do OPERATION to all instances that fit. Exit code 4 if some of them refuse.

    Parameters
    ----------
    limit
        The newest so many of them. Default: all.
    dry_run
        Only say how many there are, and the first of them.
    yes
        Do not ask.
    """
    with of.connect() as platform:
        tenant = platform.tenant(of.tenant)
        words = fits.arguments()
        if not dry_run and not yes:
            found = tenant.count(**words)
            number = f"more than {found.count}" if found.is_more else str(found.count)
            newest = "" if limit is None else f"the newest {limit} of "
            confirm(f"{operation} {newest}{number} instances of {of.tenant}?", operation)
        result = tenant.bulk(operation, **words, limit=limit, dry_run=dry_run)
    show(of, result, lambda _: tables().bulk(operation, result, dry_run=dry_run))
    return 4 if result.failed else 0
