"""AsyncTenant: the handle of one tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from executor.platform.asynchronous.schedules import AsyncSchedules
from executor.platform.asynchronous.search import AsyncSearch
from executor.platform.asynchronous.starts import AsyncStarts
from executor.platform.asynchronous.tokens import AsyncTokens
from executor.platform.asynchronous.versions import AsyncVersions
from executor.views import TenantView

if TYPE_CHECKING:
    from executor.platform.asynchronous.platform import AsyncPlatform


class AsyncTenant(AsyncTokens, AsyncVersions, AsyncStarts, AsyncSearch, AsyncSchedules):
    """One tenant: its code, its tokens, its instances and its schedules."""

    def __init__(self, platform: AsyncPlatform, view: TenantView) -> None:
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

    async def delete(self) -> None:
        """As `platform.delete_tenant`."""
        await self._platform.delete_tenant(self.name)
