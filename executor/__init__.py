"""Perdure: durable workflows for many tenants whose code arrives by git push.

The public names are loaded when they are first asked for: tenants' sandboxes import `executor.workflow`, and must not
pay for, or need, what the platform's side is made of.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from executor.core.errors import Conflict, Corrupt, NotFound, PerdureError, Refused, TenantError, Unavailable
    from executor.platform import AsyncPlatform, Platform

__all__ = [
    "AsyncPlatform",
    "Conflict",
    "Corrupt",
    "NotFound",
    "PerdureError",
    "Platform",
    "Refused",
    "TenantError",
    "Unavailable",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "executor.platform" if name.endswith("Platform") else "executor.core.errors"
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
