"""Operations on tenants and their tokens."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from executor.operations.operation import TENANT, Arguments, Operation
from executor.views import TenantView, TokenView

TOKEN_LIFE_S_MAX = 100 * 366 * 86_400.0


class CreateTenant(Arguments, frozen=True):
    name: str


class SetTenant(Arguments, frozen=True):
    """What is not given is the default. `weight`: turns when instances wait for places, relative to other tenants.
    `concurrency`: runs at once, within the share that no tenant can exceed (null: that share)."""

    weight: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None


class CreateToken(Arguments, frozen=True):
    access: Literal["read", "write"] = "write"
    expires_in_s: Annotated[float, msgspec.Meta(gt=0, le=TOKEN_LIFE_S_MAX)] | None = None
    label: str = ""


TENANTS = [
    Operation(
        name="create_tenant",
        method="POST",
        path="/tenants",
        arguments=CreateTenant,
        result=TenantView,
        status=201,
        access="admin",
        summary="Create a tenant",
    ),
    Operation(
        name="tenants", method="GET", path="/tenants", result=list[TenantView], access="admin", summary="List tenants"
    ),
    Operation(name="tenant", method="GET", path=TENANT, result=TenantView, summary="Show a tenant"),
    Operation(
        name="delete_tenant",
        method="DELETE",
        path=TENANT,
        status=204,
        access="admin",
        summary="Delete a tenant with its code, tokens and instances",
    ),
    Operation(
        name="set_tenant",
        method="POST",
        path=TENANT,
        arguments=SetTenant,
        result=TenantView,
        access="admin",
        summary="Set a tenant's weight and concurrency",
    ),
    Operation(
        name="create_token",
        method="POST",
        path=TENANT + "/tokens",
        arguments=CreateToken,
        result=TokenView,
        status=201,
        access="admin",
        summary="Create a token; its secret is shown only now",
    ),
    Operation(
        name="tokens",
        method="GET",
        path=TENANT + "/tokens",
        result=list[TokenView],
        access="admin",
        summary="List a tenant's tokens",
    ),
    Operation(
        name="revoke_token",
        method="DELETE",
        path=TENANT + "/tokens/{token_id}",
        status=204,
        access="admin",
        summary="Revoke a token",
    ),
]
