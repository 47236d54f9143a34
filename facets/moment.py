"""Moment: rows and journals as they are at one moment, over the state database and the tail."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice

from facets import index
from facets.chunks import decode_chunk, decode_run, row_id, row_ids, sequence_of
from facets.errors import Corrupt
from facets.forgetting import gaps_of, is_gone, kept
from facets.index import Snapshot
from facets.records import InstanceRow, JournalRecord, RecordLike
from facets.tail import View


class Moment:
    """`view` of the tail was taken before the snapshot began (see tail.py). Used by one thread, while that is open."""

    __slots__ = ("_found", "_name", "_snapshot", "_view")

    def __init__(self, snapshot: Snapshot, view: View) -> None:
        self._snapshot = snapshot
        self._view = view
        self._name: tuple[str, str] | None = None
        self._found: tuple[InstanceRow | None, Sequence[RecordLike]] = None, ()

    def row(self, tenant: str, instance: str) -> InstanceRow | None:
        """What the index knows of an instance; None: there is none."""
        return self._find(tenant, instance)[0]

    def journal(self, tenant: str, instance: str, *, after: int = 0, limit: int | None = None) -> list[JournalRecord]:
        """Journal entries behind sequence `after`, in order, `limit` at most; empty if there is no such instance.

        What was forgotten is left out. Raises Corrupt if something else is missing.
        """
        row, ahead = self._find(tenant, instance)
        if row is None:
            return []
        last = row.sequence if limit is None else min(row.sequence, after + limit)
        found = self._between(row.generation, ahead, after, last)
        if [record.sequence for record in found] == list(range(after + 1, last + 1)):
            return found
        gaps = gaps_of(self._snapshot.connection, row.generation)
        expected = list(islice(chain.from_iterable(kept(gaps, after, row.sequence)), limit))
        if expected:
            found = self._between(row.generation, ahead, expected[0] - 1, expected[-1])
        if [record.sequence for record in found] != expected:
            raise _gap(tenant, instance, after)
        return found

    def entries(self, tenant: str, instance: str, sequences: Sequence[int]) -> list[JournalRecord]:
        """Those journal entries, in that order; each chunk is read once if the sequences grow.

        What was forgotten is left out. Raises Corrupt if another one is missing.
        """
        row, ahead = self._find(tenant, instance)
        found: list[JournalRecord] = []
        near: dict[int, JournalRecord] = {}
        for sequence in sequences:
            if sequence not in near and row is not None:
                around = self._around(row.generation, ahead, sequence - 1, sequence)
                near = {record.sequence: record for record in around}
            if sequence in near:
                found.append(near[sequence])
            elif row is None or not is_gone(gaps_of(self._snapshot.connection, row.generation), sequence):
                raise _gap(tenant, instance, sequence - 1)
        return found

    def _find(self, tenant: str, instance: str) -> tuple[InstanceRow | None, Sequence[RecordLike]]:
        """Row and records in the tail; who asks for the one mostly asks for the other next."""
        if self._name != (tenant, instance):
            self._found = index.find_with_tail(self._snapshot, self._view, tenant, instance)
            self._name = tenant, instance
        return self._found

    def _between(self, key: int, ahead: Sequence[RecordLike], after: int, last: int) -> list[JournalRecord]:
        """The entries behind `after` up to `last` that there are, in order."""
        return [record for record in self._around(key, ahead, after, last) if after < record.sequence <= last]

    def _around(self, key: int, ahead: Sequence[RecordLike], after: int, last: int) -> list[JournalRecord]:
        """The entries behind `after` up to `last`, in order, and others that were read with them."""
        found = self._stored(key, after, last)
        found += [JournalRecord(each.sequence, each.entry, bool(each.delta)) for each in ahead if each.sequence]
        return found

    def _stored(self, key: int, after: int, last: int) -> list[JournalRecord]:
        found: list[JournalRecord] = []
        connection = self._snapshot.connection
        stored = connection.execute("SELECT tail_first, tail FROM instance WHERE key = ?", (key,)).fetchone()
        if stored is None:
            return found
        tail_first, tail = stored
        if after + 1 < tail_first:
            low, high = row_ids(key)
            start = connection.execute(
                "SELECT max(id) FROM chunk WHERE id BETWEEN ? AND ?", (low, row_id(key, after + 1))
            ).get
            for identifier, content in connection.execute(
                "SELECT id, content FROM chunk WHERE id BETWEEN ? AND ? ORDER BY id", (start or low, high)
            ):
                if sequence_of(identifier) > last:
                    break
                found += decode_chunk(sequence_of(identifier), content)
        if tail_first <= last:
            found += decode_run(tail_first, tail)
        return found


def _gap(tenant: str, instance: str, after: int) -> Corrupt:
    return Corrupt(
        f"The journal of instance {instance} (tenant {tenant}) has a gap behind entry {after}.",
        code="journal_corrupt",
        hint="The instance is stopped; its bytes are kept. Restore a backup.",
        details={"tenant": tenant, "instance": instance},
    )
