"""`perdure tenants`: tenants and their tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from executor.cli.app import tenants, tokens
from executor.cli.arguments import confirm
from executor.cli.common import COMMON, Common, printing, show, tables


@tenants.command(name="list")
def list_tenants(common: Common = COMMON) -> None:
    """List tenants."""
    with common.connect() as platform:
        found = [tenant.view for tenant in platform.tenants()]
    show(common, found, tables().tenants)


@tenants.command(name="create")
def create_tenant(name: str, common: Common = COMMON) -> None:
    """Create a tenant."""
    with common.connect() as platform:
        tenant = platform.create_tenant(name)
        url = tenant.git_url
    show(
        common,
        {"name": tenant.name, "created_at_ms": tenant.created_at_ms, "git_url": url},
        f"Created {name}. Push to {url}\nA token to push with: perdure tenants tokens create {name}",
    )


@tenants.command(name="show")
def show_tenant(name: str, common: Common = COMMON) -> None:
    """Show a tenant's repository address."""
    with common.connect() as platform:
        tenant = platform.tenant(name)
        found = {
            "name": tenant.name,
            "created_at_ms": tenant.created_at_ms,
            "git_url": tenant.git_url,
            "weight": tenant.view.weight,
            "concurrency": tenant.view.concurrency,
        }
    show(common, found, lambda _: printing().facts(found.items()))


@tenants.command(name="set")
def set_tenant(name: str, *, weight: int = 1, concurrency: int | None = None, common: Common = COMMON) -> None:
    """Set what a tenant gets; what is not given is the default.

    Parameters
    ----------
    weight
        Turns when instances wait for places, relative to other tenants: 1 to 100.
    concurrency
        Runs at once, within the share that no tenant can exceed.
    """
    with common.connect() as platform:
        view = platform.set_tenant(name, weight=weight, concurrency=concurrency).view
    bound = "" if view.concurrency is None else f", at most {view.concurrency} runs at once"
    show(common, view, f"{name} has weight {view.weight}{bound}.")


@tenants.command(name="delete")
def delete_tenant(name: str, *, yes: Annotated[bool, Parameter(negative="")] = False, common: Common = COMMON) -> None:
    """Delete a tenant with its code, tokens and instances, for good.

    Parameters
    ----------
    yes
        Do not ask.
    """
    if not yes:
        confirm(f"Delete tenant {name} with its code, tokens and instances, for good?", name)
    with common.connect() as platform:
        platform.delete_tenant(name)
    show(common, {"deleted": name}, f"Deleted {name}.")


@tokens.command(name="list")
def list_tokens(tenant: str, common: Common = COMMON) -> None:
    """List a tenant's tokens."""
    with common.connect() as platform:
        found = platform.tenant(tenant).tokens()
    show(common, found, tables().tokens)


@tokens.command(name="create")
def create_token(
    tenant: str,
    *,
    access: Literal["read", "write"] = "write",
    expires_in_s: float | None = None,
    label: str = "",
    common: Common = COMMON,
) -> None:
    """Create a token; its secret is printed only now.

    Parameters
    ----------
    access
        What it allows.
    expires_in_s
        Its life in seconds. Default: until revoked.
    label
        What it is for.
    """
    with common.connect() as platform:
        found = platform.tenant(tenant).create_token(access=access, expires_in_s=expires_in_s, label=label)
    show(common, found, str(found.secret))


@tokens.command(name="revoke")
def revoke_token(tenant: str, id: str, common: Common = COMMON) -> None:
    """Revoke a token."""
    with common.connect() as platform:
        platform.tenant(tenant).revoke_token(id)
    show(common, {"revoked": id}, f"Revoked {id}.")
