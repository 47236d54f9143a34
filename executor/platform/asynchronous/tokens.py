"""A tenant's tokens."""

from __future__ import annotations

from typing import Literal

from executor.platform.asynchronous.caller import AsyncOfTenant
from executor.views import TokenView


class AsyncTokens(AsyncOfTenant):
    """Part of AsyncTenant."""

    async def create_token(
        self, *, access: Literal["read", "write"] = "write", expires_in_s: float | None = None, label: str = ""
    ) -> TokenView:
        """A new token; `.secret` is shown only here. It opens this tenant's repository and API."""
        found: TokenView = await self._call("create_token", access=access, expires_in_s=expires_in_s, label=label)
        return found

    async def tokens(self) -> list[TokenView]:
        found: list[TokenView] = await self._call("tokens")
        return found

    async def revoke_token(self, id: str) -> None:
        """Raises NotFound (`token_not_found`)."""
        await self._call("revoke_token", id)
