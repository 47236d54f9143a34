"""Before an append: do these records fit, and what do they make of their instances? One pass over the batch.

The same records at the same place of the log always get the same keys, so that a start that reads the log comes to what
the run before it had told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from facets import attributes
from facets import delta as deltas
from facets.errors import FacetError, Refused, SequenceConflict
from facets.limits import Limits
from facets.records import NAME_CHARS_MAX, SEQUENCE_MAX, TIME_MS_MAX, RecordLike
from facets.tail import Last, Planned, Tail, image_size_after

Name = tuple[str, str]  # tenant, instance
Head = tuple[int, int, int]  # key, sequence of the last entry, bytes of the facet
_NONE: Head = (0, 0, 0)


def plan(
    records: Sequence[RecordLike],
    *,
    tail: Tail,
    stored: Callable[[Mapping[str, Sequence[str]]], Mapping[Name, Head]],
    next_key: int,
    limits: Limits | None,
) -> tuple[list[Planned], int]:
    """The records with their keys and what they make of their instances, and the next free key behind them.

    `stored` tells the heads of instances (by tenant) that the tail does not know. `limits` None: the records come from
    the log, and were checked when they went there. Raises Refused (`details` name the instance), SequenceConflict.
    """
    heads: dict[Name, Head] = {}
    unknown: dict[str, list[str]] = {}
    for record in records:
        name = (record.tenant, record.instance)
        if limits is not None:
            check(record, limits)
        if name in heads:
            continue
        held = tail.newest(*name)
        if held is None:
            heads[name] = _NONE
            unknown.setdefault(record.tenant, []).append(record.instance)
        else:
            last = held.last
            heads[name] = _NONE if last is None else (held.key, last.sequence, last.facet_bytes)
    if unknown:
        heads.update(stored(unknown))
    planned: list[Planned] = []
    for record in records:
        name = (record.tenant, record.instance)
        key, sequence, facet_bytes = heads[name]
        if record.sequence == sequence + 1:
            sequence += 1
            if not key:
                key, next_key = next_key, next_key + 1
        elif record.sequence or not key:
            raise _conflict(record, sequence)
        if record.delta:
            changed = image_size_after(record.delta)
            facet_bytes = facet_bytes if changed is None else changed
        heads[name] = (key, sequence, facet_bytes)
        planned.append(Planned(key, Last(record, sequence, facet_bytes)))
    return planned, next_key


def _conflict(record: RecordLike, sequence: int) -> SequenceConflict:
    return SequenceConflict(
        f"Record {record.sequence} of instance {record.instance} (tenant {record.tenant}) is not the next one: "
        f"its journal has {sequence} entries.",
        hint="Read its journal again; another run may have continued it.",
        details={
            "tenant": record.tenant,
            "instance": record.instance,
            "expected": sequence + 1,
            "found": record.sequence,
        },
    )


def check(record: RecordLike, limits: Limits) -> None:
    """Limits and form of what came from outside. Raises Refused, with the instance in its details."""
    tenant, instance, sequence, row, delta = record.tenant, record.instance, record.sequence, record.row, record.delta
    wake_at_ms = row.wake_at_ms
    if (
        tenant
        and instance
        and len(tenant) <= NAME_CHARS_MAX >= len(instance)
        and "\0" not in tenant
        and "\0" not in instance
        and "\0" not in row.state
        and "\0" not in row.workflow
        and "\0" not in row.commit
        and (wake_at_ms is None or -TIME_MS_MAX <= wake_at_ms <= TIME_MS_MAX)
        and -TIME_MS_MAX <= row.created_at_ms <= TIME_MS_MAX >= row.updated_at_ms >= -TIME_MS_MAX
        and (0 < sequence <= SEQUENCE_MAX or (sequence == 0 and not record.entry and not delta))
        and len(record.entry) <= limits.journal_entry_bytes_max
        and len(row.summary) <= limits.summary_bytes_max
        and (not row.attributes or attributes.problem(row.attributes) is None)
    ):
        if delta:
            _check_delta(record, delta, limits)
        return
    raise _refused(record, *_problem(record, limits))


def _check_delta(record: RecordLike, delta: bytes, limits: Limits) -> None:
    if len(delta) > limits.delta_bytes_max:
        text = f"its facet delta has {len(delta)} bytes, the limit is {limits.delta_bytes_max}"
        raise _refused(record, "delta_too_large", text)
    try:
        deltas.read_header(delta, bytes_max=limits.facet_bytes_max)
    except FacetError as error:
        details = {**error.details, "tenant": record.tenant, "instance": record.instance}
        raise Refused(str(error), code=error.code, details=details) from error


def _problem(record: RecordLike, limits: Limits) -> tuple[str, str]:
    """Code and text of what is wrong with a record that is refused."""
    names = (record.tenant, record.instance, record.row.state, record.row.workflow, record.row.commit)
    if not record.tenant or not record.instance or any("\0" in name for name in names):
        return "record_invalid", "its names must not be empty or hold NUL characters"
    if max(len(record.tenant), len(record.instance)) > NAME_CHARS_MAX:
        return "record_invalid", f"its names must not have more than {NAME_CHARS_MAX} characters"
    if not 0 <= record.sequence <= SEQUENCE_MAX:
        return "record_invalid", f"its sequence must be 0 … {SEQUENCE_MAX}, not {record.sequence}"
    if record.sequence == 0 and (record.entry or record.delta):
        return "record_invalid", "a record of sequence 0 changes the row only: no entry, no delta"
    if len(record.entry) > limits.journal_entry_bytes_max:
        text = f"its entry has {len(record.entry)} bytes, the limit is {limits.journal_entry_bytes_max}"
        return "journal_entry_too_large", text
    if len(record.row.summary) > limits.summary_bytes_max:
        text = f"its summary has {len(record.row.summary)} bytes, the limit is {limits.summary_bytes_max}"
        return "summary_too_large", text
    problem = attributes.problem(record.row.attributes)
    if problem is not None:
        return "attributes_invalid", problem
    return "record_invalid", "its times must be 64-bit milliseconds"


def _refused(record: RecordLike, code: str, text: str) -> Refused:
    return Refused(
        f"A record of instance {record.instance!r} (tenant {record.tenant!r}) is refused: {text}.",
        code=code,
        details={"tenant": record.tenant, "instance": record.instance},
    )
