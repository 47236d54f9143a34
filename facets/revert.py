"""Going back: the delta from a facet's present image to the image as of an older record.

Deltas XOR, so those that lead from there to here, composed and turned around, lead back: no image is needed, and it is
the same for small facets and large ones. Where deltas have been dropped (bases.py), one image can still be had: the
empty one that every facet began with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apsw

from facets import bases
from facets import delta as deltas
from facets.delta import BLOCK_BYTES, ZERO_BLOCK
from facets.errors import Refused
from facets.limits import FACET_BYTES_MOST, Limits
from facets.records import InstanceRow, RecordLike

HELD_FACTOR = 4
"""What may be held while composing, in units of what the delta may be: changes that undo each other come and go."""


def delta_back(
    connection: apsw.Connection,
    row: InstanceRow,
    ahead: Sequence[RecordLike],
    after: int,
    limits: Limits,
) -> bytes | None:
    """From the present image to that as of record `after`; None: they are the same.

    `row` and `ahead` are of the same snapshot as `connection` (index.find_with_tail). Raises NotFound
    (`record_not_kept`: what led there has been dropped), Refused (`facet_delta_too_large`), Corrupt (a delta does not
    fit).
    """
    bases.refuse_forgotten(connection, row.generation, after)
    behind = bases.stored_deltas(connection, row.generation, after, row.sequence)
    behind += [record.delta for record in ahead if record.delta and record.sequence > after]
    return _checked(_composed_back(behind, after, limits), after, limits)


def delta_to_nothing(image: bytes, limits: Limits) -> bytes | None:
    """From an image to that of a facet which does not exist yet. Raises Refused (`facet_delta_too_large`)."""
    return _checked(deltas.between(image, b""), 0, limits)


def refuse_too_large(size: int, after: int, limits: Limits) -> None:
    """Raises Refused (`facet_delta_too_large`) if so many bytes to change are far too many."""
    if size > HELD_FACTOR * limits.delta_bytes_max:
        raise _too_large(size, after, limits)


def _composed_back(behind: Iterable[bytes], after: int, limits: Limits) -> bytes:
    """As delta.compose, turned around, and with a bound on what is held."""
    first: deltas.Stamp | None = None
    last = deltas.EMPTY
    changes: dict[int, bytes] = {}
    for delta in behind:
        header = deltas.read_header(delta, bytes_max=FACET_BYTES_MOST)
        if header is None:
            continue
        if first is None:
            first = header.before
        elif header.before != last:
            raise deltas.mismatch(header.before, last)
        last = header.after
        for block, change in deltas.changes_of(delta, header):
            known = changes.pop(block, None)
            both = change if known is None else deltas.xor(known, change)
            if both != ZERO_BLOCK:
                changes[block] = both
        refuse_too_large(len(changes) * BLOCK_BYTES, after, limits)
    return b"" if first is None else deltas.encode_sparse(last, first, changes)


def _checked(delta: bytes, after: int, limits: Limits) -> bytes | None:
    header = deltas.read_header(delta, bytes_max=FACET_BYTES_MOST)
    if header is None:
        return None
    if header.body_bytes > limits.delta_bytes_max:
        raise _too_large(header.block_count * BLOCK_BYTES, after, limits)
    return delta


def _too_large(size: int, after: int, limits: Limits) -> Refused:
    return Refused(
        f"To go back to entry {after} changes {size} bytes of the facet; {limits.delta_bytes_max} are allowed at once.",
        code="facet_delta_too_large",
        hint="Go back less far, or start a new instance.",
        details={"delta_bytes": size, "delta_bytes_max": limits.delta_bytes_max},
    )
