"""Use cases of tenants and their tokens: the administrator's."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from executor.core.errors import Refused, Unavailable
from executor.ports import Share
from executor.service.access import Access, Caller, in_thread
from executor.views import TenantView, TokenView

WEIGHT_MAX = 100
CONCURRENCY_MAX = 1_000_000


class Tenants(Access):
    """Part of Service."""

    async def create_tenant(self, caller: Caller, name: str) -> TenantView:
        """Durable on return. Raises Conflict (`tenant_exists`), Refused (`invalid_name`)."""
        self.administrator(caller)
        return await in_thread(self._code.create_tenant, name)

    async def tenant(self, caller: Caller, name: str) -> TenantView:
        """Raises NotFound."""
        self.may(caller, name, "read")
        return await in_thread(self._code.tenant, name)

    async def tenants(self, caller: Caller) -> list[TenantView]:
        """All tenants."""
        self.administrator(caller)
        return await in_thread(self._code.tenants)

    async def set_tenant(
        self, caller: Caller, name: str, *, weight: int = 1, concurrency: int | None = None
    ) -> TenantView:
        """What the tenant gets, from now on; what is not given is the default. Durable on return. Raises NotFound."""
        self.administrator(caller)
        if not 1 <= weight <= WEIGHT_MAX:
            raise Refused(f"weight is {weight}, not between 1 and {WEIGHT_MAX}", code="bad_request")
        if concurrency is not None and not 1 <= concurrency <= CONCURRENCY_MAX:
            raise Refused(f"concurrency is {concurrency}, not between 1 and {CONCURRENCY_MAX}", code="bad_request")
        view = await in_thread(lambda: self._code.set_tenant(name, weight=weight, concurrency=concurrency))
        await self._instances.set_share(name, Share(weight, concurrency))
        return view

    async def apply_settings(self) -> None:
        """Tell whoever has the instances what each tenant gets. Once, when the service begins."""
        for view in await in_thread(self._code.tenants):
            if (view.weight, view.concurrency) != (1, None):
                await self._instances.set_share(view.name, Share(view.weight, view.concurrency))

    async def delete_tenant(self, caller: Caller, name: str) -> None:
        """Its instances, code, tokens and bundles, durably. Raises NotFound."""
        self.administrator(caller)
        await self.known(name)
        async with self._gate.alone():
            self._kept = {kept for kept in self._kept if kept[0] != name}
            try:
                with suppress(Unavailable):  # on a full disk there is room once the rest is gone
                    await self._forget_schedules(name)
                await self._instances.delete_tenant(name)
                await in_thread(self._code.delete_tenant, name)
            finally:
                self._startables.forget(name)
                self._flows.forget(name)
                self._forget_tokens()
            await self._instances.set_share(name, Share())
            await self._forget_schedules(name)  # of a push that came in between

    async def create_token(
        self,
        caller: Caller,
        tenant: str,
        *,
        access: Literal["read", "write"] = "write",
        expires_in_s: float | None = None,
        label: str = "",
    ) -> TokenView:
        """A new token; its secret is in this answer only. Raises NotFound, Refused."""
        self.administrator(caller)
        expires_at_ms = None
        if expires_in_s is not None:
            if not 0 < expires_in_s < 100 * 366 * 86_400:
                raise Refused(f"expires_in_s must be above 0, is {expires_in_s:g}", code="bad_request")
            expires_at_ms = self._clock.now_ms() + int(expires_in_s * 1000)
        return await in_thread(
            lambda: self._code.create_token(tenant, access=access, expires_at_ms=expires_at_ms, label=label)
        )

    async def tokens(self, caller: Caller, tenant: str) -> list[TokenView]:
        """Without secrets."""
        self.administrator(caller)
        return await in_thread(self._code.tokens, tenant)

    async def revoke_token(self, caller: Caller, tenant: str, token_id: str) -> None:
        """Durable on return."""
        self.administrator(caller)
        try:
            await in_thread(self._code.revoke_token, tenant, token_id)
        finally:
            self._forget_tokens()
