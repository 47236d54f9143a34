"""Tenants and their tokens, as callers see them."""

from __future__ import annotations

from typing import Literal

import msgspec


class TenantView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    created_at_ms: int
    git_path: str
    """Path of the tenant's repository below the server's address: "/git/acme.git"."""
    weight: int = 1
    """Turns when instances wait for places, relative to other tenants."""
    concurrency: int | None = None
    """Runs at once, within the share that no tenant can exceed; None: that share."""


class TokenView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    tenant: str
    access: Literal["read", "write"]
    label: str
    created_at_ms: int
    expires_at_ms: int | None
    secret: str | None = None
    """Only in the answer to create_token: shown once, stored as a digest."""
