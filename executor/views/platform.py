"""The platform, as callers see it."""

from __future__ import annotations

import msgspec


class Health(msgspec.Struct, frozen=True, kw_only=True):
    ready: bool
    version: str
    epoch: int
    isolation_level: int
    active_runs: int
    sandboxes: int
    pid: int
