"""The fixed table of jobs that a limited child can run, and what it needs in memory to start quickly."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pygit2

from .bundle import BuildRequest
from .compiler import run_build
from .ingest import IngestRequest, run_ingest

# Request type and function by name. The functions take the request they name; the table cannot say so (hence Any).
JOBS: Final[dict[str, tuple[type[msgspec.Struct], Callable[[Any, Callable[[str], None]], msgspec.Struct]]]] = {
    "ingest": (IngestRequest, run_ingest),
    "build": (BuildRequest, run_build),
}


def warm() -> None:
    """What every child would otherwise do for itself. Reads nothing of any tenant."""
    # No user's or machine's git settings: they cost time at each open and must not change what is accepted.
    for level in (
        pygit2.enums.ConfigLevel.GLOBAL,
        pygit2.enums.ConfigLevel.XDG,
        pygit2.enums.ConfigLevel.SYSTEM,
    ):
        pygit2.settings.search_path[level] = ""
    # By default a pack is mapped a gigabyte at a time: with the limit on address space, no large one could be read.
    pygit2.settings.mwindow_size = 32 * 1024 * 1024
    pygit2.settings.mwindow_mapped_limit = 256 * 1024 * 1024
    ast.parse("x = 1")
