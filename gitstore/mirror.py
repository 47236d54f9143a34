"""The packed-refs mirror. (Skeleton; filling now.)"""

from __future__ import annotations

from .parts import Parts


def rewrite(parts: Parts, tenant: str) -> None:
    """Write packed-refs (refs and refs/pins/<oid>) from the rows. Call after the commit, under `parts.lock(tenant)`."""
    raise NotImplementedError
