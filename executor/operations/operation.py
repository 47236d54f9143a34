"""What an operation is: a row of the table, and the arguments that it takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

API_PREFIX = "/api/v1"
RESULT_WAIT_S_MAX = 60.0
"""Longest wait of one HTTP request; the Python API and the command line ask again until their own time is up."""
Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Position = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Wait = Annotated[float, msgspec.Meta(ge=0, le=RESULT_WAIT_S_MAX)]

TENANT = "/tenants/{tenant}"
INSTANCES_PATH = TENANT + "/instances"
INSTANCE = INSTANCES_PATH + "/{id}"


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operation takes besides its path; in the query of a GET, else in a JSON body."""

    def keywords(self) -> dict[str, Any]:
        """As the service's method takes them."""
        return {name: getattr(self, name) for name in self.__struct_fields__}


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """`result` None: nothing (204). `result` bytes: the body itself, of `media_type`.

    `access`: the least that the caller's token must allow; the service checks it, this is for the documents.
    """

    name: str
    method: Literal["GET", "POST", "DELETE"]
    path: str
    arguments: type[Arguments] = Arguments
    result: Any = None
    status: int = 200
    access: Literal["none", "read", "write", "admin"] = "read"
    body: Literal["payload", "deploy", "batch"] = "payload"
    media_type: str = "application/octet-stream"
    summary: str

    @property
    def parameters(self) -> list[str]:
        """Names of the path's parameters, in order."""
        return [part[1:-1].partition(":")[0] for part in self.path.split("/") if part.startswith("{")]
