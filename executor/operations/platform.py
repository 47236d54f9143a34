"""Operations on the platform as a whole."""

from __future__ import annotations

from executor.operations.operation import Arguments, Operation
from executor.views import Health


class Backup(Arguments, frozen=True):
    """`target`: a directory on the server's machine that does not exist yet."""

    target: str


PLATFORM = [
    Operation(name="health", method="GET", path="/health", result=Health, access="none", summary="How the server is"),
    Operation(
        name="backup",
        method="POST",
        path="/backup",
        arguments=Backup,
        status=204,
        access="admin",
        summary="Copy everything, consistently, to a directory on the server's machine",
    ),
    Operation(
        name="check",
        method="POST",
        path="/check",
        result=list[str],
        access="admin",
        summary="Verify everything stored; each problem is a line",
    ),
]
