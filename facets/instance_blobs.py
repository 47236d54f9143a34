"""Blobs as the store offers them: by tenant and instance id, and gone with the instance, whenever that is deleted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from facets.blobs import BlobStore
from facets.errors import FacetError, NotFound, StoreFailed
from facets.records import InstanceRow


class InstanceBlobs:
    """The blobs of a store's instances, by tenant and id."""

    def __init__(
        self,
        blobs: BlobStore,
        row_of: Callable[[str, str], InstanceRow | None],
        on_failure: Callable[[FacetError], None],
    ) -> None:
        self._blobs = blobs
        self._row_of = row_of
        self._on_failure = on_failure

    def may_have(self, generation: int) -> bool:
        """See BlobStore."""
        return self._blobs.may_have(generation)

    def put(
        self, tenant: str, instance: str, id: int, first: int, parts: Sequence[bytes], *, keep: Collection[int]
    ) -> None:
        """As BlobStore.put. Raises NotFound too."""
        key = self._key_of(tenant, instance)
        with self._watched():
            self._blobs.put(key, id, first, parts, keep)
            row = self._row_of(tenant, instance)
            if row is None or row.generation != key:  # the deletion may have looked for its blobs before this
                self._blobs.erase([key])
                raise _no_instance(tenant, instance)

    def part(self, tenant: str, instance: str, id: int, number: int) -> bytes | None:
        """As BlobStore.part. Raises NotFound too."""
        return self._blobs.part(self._key_of(tenant, instance), id, number)

    def sizes(self, tenant: str, instance: str) -> dict[int, int]:
        """As BlobStore.sizes. Raises NotFound."""
        return self._blobs.sizes(self._key_of(tenant, instance))

    def sweep(self, generation: int, keep: Collection[int]) -> None:
        """As BlobStore.sweep, of all that there are now."""
        with self._watched():
            self._blobs.sweep(generation, keep)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except StoreFailed as failure:
            self._on_failure(failure)
            raise

    def _key_of(self, tenant: str, instance: str) -> int:
        row = self._row_of(tenant, instance)
        if row is None:
            raise _no_instance(tenant, instance)
        return row.generation


def _no_instance(tenant: str, instance: str) -> NotFound:
    return NotFound(f"Tenant {tenant} has no instance {instance}.", code="instance_not_found")
