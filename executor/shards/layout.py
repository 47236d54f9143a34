"""Which stores the data directory has: what `facets.shards` knows, in the platform's errors."""

from __future__ import annotations

import logging
from pathlib import Path

from executor.adapters.state import translated
from executor.core.errors import Unavailable
from facets.lock import OwnerLock
from facets.shards import MANIFEST, Layout, arrange, current, own

log = logging.getLogger(__name__)

__all__ = ["MANIFEST", "Layout", "OwnerLock", "laid_out", "owned"]


@translated
def owned(data_dir: Path) -> OwnerLock:
    """This process owns the data directory until `release` or its death. Raises Refused (`data_in_use`)."""
    return own(data_dir)


@translated
def present(data_dir: Path) -> Layout | None:
    """The layout that is there; None: the directory is empty."""
    return current(data_dir)


@translated
def _arranged(data_dir: Path, count: int) -> Layout:
    return arrange(data_dir, count)


def laid_out(data_dir: Path, processes: int) -> Layout:
    """A layout for so many processes (0: as many as there are stores; 1 in an empty directory). Everything is moved
    first if there are others; without room for that, the present layout stays.

    Called by the owner, before any store is opened. Raises Corrupt, Unavailable.
    """
    there = present(data_dir)
    count = processes or (1 if there is None else len(there.places))
    try:
        return _arranged(data_dir, count)
    except Unavailable as error:
        if error.code != "storage_full" or there is None:
            raise
        log.warning(
            "there is no room to move the shards to another number of processes; it stays as it was",
            extra={"processes": len(there.places), "asked_for": count, "error": str(error)},
        )
        return _arranged(data_dir, len(there.places))
