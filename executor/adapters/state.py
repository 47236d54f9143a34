"""The StateStore port over `facets`. Errors of facets become PerdureErrors here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar, cast

import msgspec

import facets
from executor.core.errors import Conflict, Corrupt, NotFound, PerdureError, Refused, Unavailable
from executor.core.search import COUNT_MAX, Query
from executor.ports import Append, OutputText, Pages, Row, StoredEntry, StoredRow
from executor.views import LogLine

P = ParamSpec("P")
R = TypeVar("R")
Stream = Literal["stdout", "stderr", "log"]


def public_error(error: facets.FacetError) -> PerdureError:
    """The same error in the platform's families and codes."""
    details = {str(key): value for key, value in error.details.items()}
    match error:
        case facets.DataInUse():
            return Refused(error.message, code="data_in_use", hint=error.hint, **details)
        case facets.SchemaTooNew():
            return Refused(error.message, code="schema_too_new", hint=error.hint, **details)
        case facets.StorageFull():
            return Unavailable(error.message, code="storage_full", hint=error.hint, **details)
        case facets.Unavailable() if not isinstance(error, facets.StoreFailed):
            return Unavailable(error.message, code="busy", hint=error.hint, **details)
        case facets.SequenceConflict() if error.details.get("expected") == 1:
            # It was deleted meanwhile: that is its writer's matter, and nobody else's.
            tenant, instance = str(error.details["tenant"]), str(error.details["instance"])
            message = f'tenant "{tenant}" has no instance "{instance}"'
            return NotFound(message, code="instance_not_found", tenant=tenant, instance=instance)
        case facets.Fenced():
            return Conflict(error.message, code="data_in_use", hint=error.hint, **details)
        case facets.NotFound():
            return NotFound(error.message, code="instance_not_found", hint=error.hint, **details)
        case facets.Refused():
            if error.code == "blobs_too_large":
                return Refused(error.message, code="payload_too_large", hint=error.hint, **details)
            code = "bad_request" if error.code in {"cursor_invalid", "query_invalid"} else "facet_refused"
            return Refused(error.message, code=code, hint=error.hint, **details)
        case _:
            return Corrupt(error.message, code="corrupt_store", hint=error.hint, **details)


def translated(method: Callable[P, R]) -> Callable[P, R]:
    """Let no FacetError out of `method`."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except facets.FacetError as error:
            raise public_error(error) from error

    return call


class FacetsMoment:
    """See `executor.ports.StoredMoment`."""

    def __init__(self, moment: facets.Moment) -> None:
        self._moment = moment

    @translated
    def row(self, tenant: str, instance: str) -> StoredRow | None:
        row = self._moment.row(tenant, instance)
        return None if row is None else _stored(row)

    @translated
    def journal(self, tenant: str, instance: str, *, after: int = 0) -> list[bytes]:
        return [record.entry for record in self._moment.journal(tenant, instance, after=after)]

    @translated
    def entries(self, tenant: str, instance: str, sequences: Sequence[int]) -> dict[int, bytes]:
        return {record.sequence: record.entry for record in self._moment.entries(tenant, instance, sequences)}


class FacetsStateStore:
    """See `executor.ports.StateStore`."""

    def __init__(self, store: facets.StateStore) -> None:
        self._store = store

    @classmethod
    @translated
    def open(
        cls, path: Path, *, facet_bytes_max: int | None = None, blobs_bytes_max: int | None = None
    ) -> FacetsStateStore:
        """`facet_bytes_max`: of one instance's facet, up to 1 GiB; `blobs_bytes_max`: of its byte streams together.
        None: the store's own limit.

        Raises Refused (`data_in_use`, `schema_too_new`), Corrupt, Unavailable (`storage_full`).
        """
        limits = facets.Limits()
        limits = facets.Limits(
            facet_bytes_max=limits.facet_bytes_max if facet_bytes_max is None else facet_bytes_max,
            blobs_bytes_max=limits.blobs_bytes_max if blobs_bytes_max is None else blobs_bytes_max,
        )
        return cls(facets.StateStore.open(path, limits=limits))

    @property
    def epoch(self) -> int:
        return self._store.epoch

    @translated
    def append(self, records: Sequence[Append]) -> None:
        self._store.append(records)

    def check_delta(self, delta: bytes) -> None:
        try:
            limits = self._store.limits
            facets.delta.check(delta, bytes_max=limits.facet_bytes_max, body_bytes_max=limits.delta_bytes_max)
        except facets.FacetError as error:
            raise Refused(error.message, code="facet_refused", hint=error.hint) from error

    @translated
    def row(self, tenant: str, instance: str) -> StoredRow | None:
        row = self._store.row(tenant, instance)
        return None if row is None else _stored(row)

    @translated
    def journal(self, tenant: str, instance: str, *, after: int = 0, limit: int | None = None) -> list[StoredEntry]:
        found = self._store.journal(tenant, instance, after=after, limit=limit)
        return [(record.sequence, record.entry) for record in found]

    def forget(self, tenant: str, instance: str, *, before: int, but: Sequence[int], keep_bytes: int) -> None:
        # What it does not reach now goes with the next one, and what is broken shows at what has to work.
        with suppress(facets.FacetError):
            self._store.forget(tenant, instance, before=before, but=but, keep_bytes=keep_bytes)

    @contextmanager
    def at_once(self) -> Iterator[FacetsMoment]:
        try:
            with self._store.at_once() as moment:
                yield FacetsMoment(moment)
        except facets.FacetError as error:
            raise public_error(error) from error

    @translated
    def image(self, tenant: str, instance: str) -> bytes:
        return self._store.image(tenant, instance)

    @translated
    def facet(self, tenant: str, instance: str) -> bytes | Pages:
        found = self._store.facet(tenant, instance)
        return found if isinstance(found, bytes) else Pages(*found.stamp, found.first, found.chunks)

    @translated
    def pages(self, tenant: str, instance: str, first: int, count: int) -> Pages:
        found = self._store.pages(tenant, instance, first, count)
        return Pages(*found.stamp, found.first, found.chunks)

    @translated
    def revert(self, tenant: str, instance: str, *, after: int) -> bytes | None:
        return self._store.revert(tenant, instance, after=after)

    def may_have_blobs(self, generation: int) -> bool:
        return self._store.blobs.may_have(generation)

    @translated
    def put_blob(
        self, tenant: str, instance: str, id: int, first: int, parts: Sequence[bytes], *, keep: Collection[int]
    ) -> None:
        self._store.blobs.put(tenant, instance, id, first, parts, keep=keep)

    @translated
    def blob_part(self, tenant: str, instance: str, id: int, number: int) -> bytes | None:
        return self._store.blobs.part(tenant, instance, id, number)

    @translated
    def sweep_blobs(self, generation: int, keep: Collection[int]) -> None:
        self._store.blobs.sweep(generation, keep)

    @translated
    def due(self, now_ms: int, *, limit: int) -> list[StoredRow]:
        return [_stored(row) for row in self._store.due(now_ms, limit=limit)]

    @translated
    def next_wake_ms(self) -> int | None:
        return self._store.next_wake_ms()

    @translated
    def in_states(self, states: Collection[str], *, limit: int, after: int) -> list[StoredRow]:
        return [_stored(row) for row in self._store.in_states(states, limit=limit, after=after)]

    @translated
    def page(self, tenant: str, query: Query, *, limit: int, after: str | None) -> tuple[list[StoredRow], str | None]:
        rows, cursor = self._store.list(tenant, facets_query(query), limit=limit, after=after)
        return [_stored(row) for row in rows], cursor

    @translated
    def matches(self, tenant: str, query: Query) -> int:
        return self._store.matches(tenant, facets_query(query), limit=COUNT_MAX)

    @translated
    def counts(self, tenant: str) -> dict[str, int]:
        return self._store.count(tenant)

    @translated
    def commits(self, tenant: str) -> set[str]:
        return self._store.commits(tenant)

    @translated
    def delete(self, tenant: str, instance: str) -> None:
        self._store.delete(tenant, instance)

    @translated
    def delete_many(self, keys: Sequence[tuple[str, str]]) -> None:
        self._store.delete_many(keys)

    @translated
    def delete_tenant(self, tenant: str) -> None:
        self._store.delete_tenant(tenant)

    @translated
    def expire(self, before_ms: Mapping[str, int], *, after: int) -> tuple[list[tuple[str, str]], int | None]:
        return self._store.expire(before_ms, after=after)

    @translated
    def append_output(self, lines: Sequence[OutputText]) -> None:
        self._store.append_output([_line(line) for line in lines])

    @translated
    def output(self, tenant: str, instance: str, *, after: int, limit: int) -> list[LogLine]:
        found = self._store.output(tenant, instance, after=after, limit=limit)
        return [
            LogLine(
                cursor=cursor,
                at_ms=line.at_ms,
                stream=cast("Stream", line.stream),
                level=line.level,
                step=line.step,
                attempt=line.attempt,
                text=line.text,
            )
            for cursor, line in found
        ]

    @translated
    def backup(self, target: Path) -> None:
        self._store.backup(target)

    @translated
    def check(self) -> list[str]:
        return self._store.check()

    @translated
    def close(self) -> None:
        self._store.close()


def facets_query(query: Query) -> facets.Query:
    """The same search in the store's words."""
    where = tuple(facets.Condition(one.name, one.operator, one.values) for one in query.where)
    return facets.Query(**{**msgspec.structs.asdict(query), "where": where})


def _stored(row: facets.InstanceRow) -> StoredRow:
    return StoredRow(
        row.tenant,
        row.instance,
        row.generation,
        row.sequence,
        Row(
            row.state,
            row.wake_at_ms,
            row.workflow,
            row.commit,
            row.created_at_ms,
            row.updated_at_ms,
            row.summary,
            row.attributes,
        ),
    )


def _line(line: OutputText) -> facets.OutputLine:
    return facets.OutputLine(
        line.tenant,
        line.instance,
        line.position,
        line.number,
        line.at_ms,
        line.stream,
        line.level,
        line.step,
        line.attempt,
        line.text,
    )
