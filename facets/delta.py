"""Deltas: the exact change between two page images, as bytes."""

from __future__ import annotations

from collections.abc import Iterable


def apply_all(base: bytes, deltas: Iterable[bytes], *, bytes_max: int) -> bytes:
    """The image after `deltas` in their order; b"" is the facet that does not exist yet, and the delta of no change."""
    raise NotImplementedError
