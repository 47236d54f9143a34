"""What commands have in common: options that say where the server is, and what is shown of what it answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from executor.config import read_address, read_admin_token
from executor.core.errors import Refused

if TYPE_CHECKING:
    from executor.platform import Platform, Run


DEFAULT_URL = "http://127.0.0.1:8420"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """Where the server is, and how to print."""

    url: Annotated[str | None, Parameter(env_var="PERDURE_URL")] = None
    "The server. Default: the one of the data directory, else http://127.0.0.1:8420."
    token: Annotated[str | None, Parameter(env_var="PERDURE_TOKEN", show_env_var=True)] = None
    "Token. Default: the administrator's, from PERDURE_ADMIN_TOKEN or the data directory."
    data: Annotated[Path | None, Parameter(env_var="PERDURE_DATA")] = None
    "Data directory of a server on this machine."
    json: Annotated[bool, Parameter(negative="")] = False
    "Print one JSON document."

    @property
    def data_dir(self) -> Path:
        return self.data or Path("data")

    def connect(self) -> Platform:
        from executor.platform import Platform  # noqa: PLC0415 - loads the HTTP client; `--help` must not

        # The token that lies in ./data by chance is not for a server that was named by its address.
        kept = read_admin_token(self.data_dir) if self.data is not None or self.url is None else None
        token = self.token or os.environ.get("PERDURE_ADMIN_TOKEN") or kept
        if not token:
            raise Refused(
                "No token was given, and none is kept in a data directory.",
                code="unauthorized",
                hint="Name the server's data directory (--data DIR), or a token (--token, PERDURE_TOKEN).",
            )
        return Platform.connect(self.url or read_address(self.data_dir) or DEFAULT_URL, token=token)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Of(Common):
    """As Common, for one tenant."""

    tenant: Annotated[str, Parameter(name=["--tenant", "-t"], env_var="PERDURE_TENANT")]
    "The tenant."

    @contextmanager
    def instance(self, id: str) -> Iterator[Run[Any]]:
        with self.connect() as platform:
            yield platform.tenant(self.tenant).instance(id)


COMMON = Common()


def printing() -> Any:
    from executor.cli import printing as module  # noqa: PLC0415 - msgspec; `--help` must not wait for it

    return module


def tables() -> Any:
    from executor.cli import tables as module  # noqa: PLC0415 - views and msgspec; `--help` must not wait for them

    return module


def show(common: Common, value: Any, text: Any) -> None:
    """The JSON document of `value`, or `text`; or what `text`, called with it, prints."""
    if common.json:
        printing().document(value)
    elif isinstance(text, str):
        printing().line(text)
    else:
        text(value)


def show_value(common: Common, value: Any) -> None:
    """A tenant's value; in JSON as the HTTP API answers with it."""
    from executor.views import ResultView  # noqa: PLC0415 - msgspec

    show(common, ResultView(output=value), printing().value(value))
