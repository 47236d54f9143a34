"""Tokens: who may fetch or push. 256 random bits behind a prefix that secret scanners know; only SHA-256 is stored.

A fast hash is right here: the secret is random, so there is nothing to guess that a slow hash would protect.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from .errors import LimitExceeded, NotFound, Refused
from .parts import Parts
from .rows import Access, NewToken, TokenRow

PREFIX: Final = "pdt_"
_SECRET_BYTES: Final = 32
_SECRET_LENGTH_MAX: Final = 256  # of what a caller presents; ours have 47 characters
_SELECT: Final = (
    "SELECT k.id, t.name, k.access, k.label, k.created_at_ms, k.expires_at_ms, k.revoked_at_ms"
    " FROM tokens k JOIN tenants t ON t.id = k.tenant_id"
)


class Tokens:
    """The tokens of a store. Thread-safe; changes are durable on return."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def create(
        self, tenant: str, *, access: Access = "write", expires_at_ms: int | None = None, label: str = ""
    ) -> NewToken:
        """A new token; its `secret` is shown here and never again. "write" includes reading.

        Raises TenantNotFound, Refused `invalid_access`, LimitExceeded (label).
        """
        if access not in ("read", "write"):
            raise Refused(f"A token's access is 'read' or 'write', not {access!r}.", code="invalid_access")
        database, limits = self._parts.database, self._parts.limits
        size = len(label.encode(errors="replace"))
        if size > limits.label_bytes_max:
            raise LimitExceeded("The label", limit="label_bytes_max", bound=limits.label_bytes_max, found=size)
        label, now_ms = database.text(label), self._parts.now_ms()
        secret = PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        with database.connections.write() as connection:
            tenant_id = database.tenant_id(connection, tenant)
            connection.execute(
                "INSERT INTO tokens (tenant_id, digest, access, label, created_at_ms, expires_at_ms)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (tenant_id, _digest(secret), access, label, now_ms, expires_at_ms),
            )
            token_id = connection.last_insert_rowid()
        return NewToken(token_id, tenant, access, label, now_ms, expires_at_ms, secret)

    def verify(self, secret: str) -> TokenRow | None:
        """The token that this secret belongs to; None when it is unknown, expired, revoked or no token at all."""
        if not secret.startswith(PREFIX) or len(secret) > _SECRET_LENGTH_MAX:
            return None
        with self._parts.database.connections.read() as connection:
            row = connection.execute(_SELECT + " WHERE k.digest = ?", (_digest(secret),)).fetchone()
        if row is None:
            return None
        token = TokenRow(*row)
        is_expired = token.expires_at_ms is not None and token.expires_at_ms <= self._parts.now_ms()
        return None if is_expired or token.revoked_at_ms is not None else token

    def list(self, tenant: str) -> list[TokenRow]:
        """All tokens of a tenant in the order of their creation, expired and revoked ones too."""
        with self._parts.database.connections.read() as connection:
            tenant_id = self._parts.database.tenant_id(connection, tenant)
            rows = connection.execute(_SELECT + " WHERE k.tenant_id = ? ORDER BY k.id", (tenant_id,))
            return [TokenRow(*row) for row in rows]

    def revoke(self, tenant: str, token_id: int) -> None:
        """From now on the secret opens nothing; revoking twice changes nothing. Raises NotFound `token_not_found`."""
        with self._parts.database.connections.write() as connection:
            tenant_id = self._parts.database.tenant_id(connection, tenant)
            connection.execute(
                "UPDATE tokens SET revoked_at_ms = coalesce(revoked_at_ms, ?) WHERE tenant_id = ? AND id = ?",
                (self._parts.now_ms(), tenant_id, token_id),
            )
            if not connection.changes():
                raise NotFound(
                    f"Tenant {tenant!r} has no token {token_id}.",
                    code="token_not_found",
                    details={"tenant": tenant, "token": token_id},
                )


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()
