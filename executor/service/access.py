"""Who calls, what they may do, and what all use cases share. Every permission check goes through here."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import trio

from executor.core.errors import NotFound, Refused
from executor.ports import Clock, CodeSource, Instances
from executor.service.admission import Admission, AdmissionLimits
from executor.service.flow import Flows
from executor.service.flow_state import FlowState
from executor.service.gate import Gate
from executor.service.startable import Startables
from executor.views import TokenView

T = TypeVar("T")

PAGE_MAX = 1_000
LARGE = 64 * 1024
"""Bytes of values that are not worked on where everybody would have to wait for it."""
TOKENS_KEPT_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `tenant` None: the platform's administrator."""

    who: str
    tenant: str | None
    access: Literal["admin", "read", "write"]


ADMINISTRATOR = Caller("admin", None, "admin")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """`payload_bytes_max`: one payload or event, encoded. `isolation_level`: 0 (none) to 3. `kept_files`: small files
    of the data directory that belong into a backup."""

    admin_token: str
    version: str
    isolation_level: int
    payload_bytes_max: int = 1024 * 1024
    kept_files: tuple[Path, ...] = ()
    admission: AdmissionLimits = field(default_factory=AdmissionLimits)


class Access:
    """Base of the use cases: the parts they work with, and the checks."""

    def __init__(
        self,
        instances: Instances,
        code: CodeSource,
        clock: Clock,
        options: ServiceOptions,
        *,
        gate: Gate | None = None,
        flow_state: FlowState | None = None,
    ) -> None:
        """`gate`, `flow_state`: what is shared with the starts of children; None: there are none."""
        self._instances = instances
        self._code = code
        self._clock = clock
        self._options = options
        self._kept: set[tuple[str, str]] = set()
        self._gate = gate or Gate()
        self._startables = Startables(code)
        self._flows = Flows(instances, clock, flow_state)
        self._admission = Admission(options.admission)
        self._tokens: dict[bytes, TokenView] = {}
        """Verified ones by the digest of their secret, until any token or tenant goes away."""
        self._revocations = 0

    def _moved(self, tenant: str) -> None:
        """A channel, deployment or version of the tenant may have changed."""
        self._startables.forget(tenant)

    async def _forget_schedules(self, tenant: str) -> None:
        """The tenant is being deleted."""

    async def authenticate(self, secret: str | None) -> Caller:
        """The caller whose token this is. Raises Refused (`unauthorized`)."""
        if secret and secret.isascii():
            if hmac.compare_digest(secret.encode(), self._options.admin_token.encode()):
                return ADMINISTRATOR
            token = await self._token(secret)
            if token is not None:
                return Caller(
                    f"token {token.id} ({token.label})" if token.label else f"token {token.id}",
                    token.tenant,
                    token.access,
                )
        raise Refused(
            "a valid token is needed" if not secret else "the token is unknown, expired or revoked",
            code="unauthorized",
            hint="Send the token as a Bearer token, or as the password of a git remote.",
        )

    async def _token(self, secret: str) -> TokenView | None:
        digest = hashlib.sha256(secret.encode()).digest()
        token = self._tokens.get(digest)
        if token is not None and (token.expires_at_ms is None or token.expires_at_ms > self._clock.now_ms()):
            return token
        before = self._revocations
        token = await in_thread(self._code.verify_token, secret)
        if token is not None and before == self._revocations:
            if len(self._tokens) >= TOKENS_KEPT_MAX:
                self._tokens.clear()
            self._tokens[digest] = token
        return token

    def _forget_tokens(self) -> None:
        """One was revoked: none is believed any more without the code store being asked."""
        self._revocations += 1
        self._tokens.clear()

    def administrator(self, caller: Caller) -> None:
        if caller.access != "admin":
            raise Refused("only the platform's administrator may do this", code="forbidden")

    def may(self, caller: Caller, tenant: str, access: Literal["read", "write"]) -> None:
        if caller.access == "admin":
            return
        if caller.tenant != tenant:
            # The same answer as for a tenant that does not exist.
            raise NotFound(f'there is no tenant "{tenant[:80]}"', code="tenant_not_found")
        if access == "write" and caller.access != "write":
            raise Refused("this token may only read", code="forbidden", hint="Use a token with write access.")

    async def known(self, tenant: str) -> None:
        await in_thread(self._code.tenant, tenant)


async def in_thread(function: Callable[..., T], *args: object) -> T:
    """Stores are synchronous: their calls run in worker threads, off the event loop."""
    return await trio.to_thread.run_sync(function, *args)


async def rendered(size: int, render: Callable[[], T]) -> T:
    """What `render` makes of so many bytes of values: where nobody waits for it, if they are many."""
    return await in_thread(render) if size > LARGE else render()


def limit_of(limit: int) -> int:
    if not 1 <= limit <= PAGE_MAX:
        raise Refused(f"limit must be between 1 and {PAGE_MAX}, is {limit}", code="bad_request")
    return limit
