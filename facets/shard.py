"""Shards: the unit of ownership, order and move. An instance belongs to one of 64 for life.

Today one process owns all shards and they share one log, so that one fsync covers them all. The number is stored with
each instance, so that a shard can be moved without asking its instances.
"""

from __future__ import annotations

from hashlib import blake2b

SHARD_COUNT = 64


def shard_of(tenant: str, instance: str) -> int:
    """The shard of an instance, 0 … SHARD_COUNT - 1. The same on every machine and in every version."""
    digest = blake2b(tenant.encode() + b"\0" + instance.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % SHARD_COUNT
