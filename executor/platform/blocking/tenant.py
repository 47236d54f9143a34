# Generated from executor/platform/asynchronous/tenant.py by tools/unasync.py. Edit that file, and run the tool.
"""Tenant: the handle of one tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from executor.platform.blocking.schedules import Schedules
from executor.platform.blocking.search import Search
from executor.platform.blocking.starts import Starts
from executor.platform.blocking.tokens import Tokens
from executor.platform.blocking.versions import Versions
from executor.views import TenantView

if TYPE_CHECKING:
    from executor.platform.blocking.platform import Platform


class Tenant(Tokens, Versions, Starts, Search, Schedules):
    """One tenant: its code, its tokens, its instances and its schedules."""

    def __init__(self, platform: Platform, view: TenantView) -> None:
        super().__init__(platform._caller, view.name)
        self._platform = platform
        self.view = view
        self.created_at_ms = view.created_at_ms

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def git_url(self) -> str:
        """Where `git push` and `git clone` find the repository: any user name, a token of `create_token` as password.

        An embedded platform begins to serve it, on a loopback port, when it is first asked.
        """
        return self._caller.url(self.view.git_path)

    def delete(self) -> None:
        """As `platform.delete_tenant`."""
        self._platform.delete_tenant(self.name)
