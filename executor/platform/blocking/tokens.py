# Generated from executor/platform/asynchronous/tokens.py by tools/unasync.py. Edit that file, and run the tool.
"""A tenant's tokens."""

from __future__ import annotations

from typing import Literal

from executor.platform.blocking.caller import OfTenant
from executor.views import TokenView


class Tokens(OfTenant):
    """Part of Tenant."""

    def create_token(
        self, *, access: Literal["read", "write"] = "write", expires_in_s: float | None = None, label: str = ""
    ) -> TokenView:
        """A new token; `.secret` is shown only here. It opens this tenant's repository and API."""
        found: TokenView = self._call("create_token", access=access, expires_in_s=expires_in_s, label=label)
        return found

    def tokens(self) -> list[TokenView]:
        found: list[TokenView] = self._call("tokens")
        return found

    def revoke_token(self, id: str) -> None:
        """Raises NotFound (`token_not_found`)."""
        self._call("revoke_token", id)
