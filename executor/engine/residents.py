"""Residents: the instances in memory, each there once, read from the store when somebody needs it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import TracebackType

import trio

from executor.core.errors import NotFound, PerdureError
from executor.core.instance import Instance
from executor.core.journal import Journal
from executor.engine.reads import Reads, Stored
from executor.engine.resident import Key, Resident


class Hold:
    """`async with` it: the instance in memory, kept there for the block. Raises NotFound, Corrupt on entering."""

    __slots__ = ("_create", "_key", "_resident", "_residents")

    def __init__(self, residents: Residents, key: Key, create: bool) -> None:
        self._residents = residents
        self._key = key
        self._create = create
        self._resident: Resident

    async def __aenter__(self) -> Resident:
        resident = self._residents.get(self._key)
        if resident is None or self._residents.is_deleting(self._key[0]):
            resident = await self._residents.load(self._key, create=self._create)
        resident.holds += 1
        self._resident = resident
        return resident

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._residents.release(self._resident)


class Residents:
    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._by_key: dict[Key, Resident] = {}
        self._loading: dict[Key, trio.Event] = {}
        self._deleting: set[str] = set()
        self._deletions = 0
        """Grows when the deletion of a tenant begins and when it ends."""

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: Key) -> Resident | None:
        """The resident of `key`, if there is one."""
        return self._by_key.get(key)

    def of(self, tenant: str) -> list[Resident]:
        """All residents of a tenant."""
        return [resident for key, resident in self._by_key.items() if key[0] == tenant]

    def new(self, key: Key) -> Resident:
        """A resident for an instance that certainly does not exist yet."""
        resident = self._by_key[key] = Resident(key, Instance(), Journal(), 0, is_resting=False)
        return resident

    def hold(self, key: Key, *, create: bool = False) -> Hold:
        """See Hold. `create`: an instance that does not exist is an empty resident."""
        return Hold(self, key, create)

    async def load(self, key: Key, *, create: bool = False) -> Resident:
        """The resident of `key`, read from the store if need be; the caller must hold or use it without an await."""
        while True:
            if key[0] in self._deleting:
                raise NotFound(f'there is no tenant "{key[0]}"', code="tenant_not_found")
            resident = self._by_key.get(key)
            if resident is not None:
                return resident
            loading = self._loading.get(key)
            if loading is None:
                break
            await loading.wait()
        [loaded] = await self._load_now([key], create=create)
        if isinstance(loaded, PerdureError):
            raise loaded
        return loaded

    async def hold_many(self, keys: Sequence[Key], *, create: bool = False) -> list[Resident | PerdureError]:
        """The residents of `keys`, in that order, read in one hop; each held until the caller calls `release`."""
        missing = [
            key
            for key in dict.fromkeys(keys)
            if key not in self._by_key and key not in self._loading and key[0] not in self._deleting
        ]
        loaded = await self._load_now(missing, create=create) if missing else []
        answers = dict(zip(missing, loaded, strict=True))
        found: list[Resident | PerdureError] = []
        for key in keys:
            answer = self._by_key.get(key) or answers.get(key)
            if answer is None or key[0] in self._deleting:
                try:
                    answer = await self.load(key, create=create)
                except PerdureError as error:
                    answer = error
            if isinstance(answer, Resident):
                answer.holds += 1
            found.append(answer)
        return found

    async def _load_now(self, keys: Sequence[Key], *, create: bool) -> list[Resident | PerdureError]:
        for key in keys:
            self._loading[key] = trio.Event()
        try:
            deletions = -1
            answers: list[Stored | PerdureError] = []
            while deletions != self._deletions:
                # What was read before a deletion is gone after it, and must not come back to life in memory.
                deletions = self._deletions
                answers = await self._reads.read(keys)
            return [self._admit(key, answer, create=create) for key, answer in zip(keys, answers, strict=True)]
        finally:
            for key in keys:
                self._loading.pop(key).set()

    def _admit(self, key: Key, answer: Stored | PerdureError, *, create: bool) -> Resident | PerdureError:
        if isinstance(answer, PerdureError):
            return answer
        if self.is_deleting(key[0]):
            return NotFound(f'there is no tenant "{key[0]}"', code="tenant_not_found")
        if answer.row is None and not create:
            return _not_found(key)
        is_resting = answer.row is not None and answer.row.row.state == "waiting"
        resident = Resident(key, answer.instance, answer.journal, answer.instance.sequence, is_resting)
        resident.row = answer.row
        resident.forgotten = answer.journal.first
        resident.history_bytes = answer.journal.size
        resident.journal_bytes = resident.history_bytes - answer.journal.size_before(answer.instance.begin_at)
        self._by_key[key] = resident
        return resident

    def release(self, resident: Resident) -> None:
        """Give a hold back."""
        resident.holds -= 1
        self.evict(resident)

    def evict(self, resident: Resident) -> None:
        """Let it leave memory if nobody works on it."""
        if resident.is_evictable:
            self.forget(resident)

    def forget(self, resident: Resident) -> None:
        """Out of the registry, whoever works on it."""
        if self._by_key.get(resident.key) is resident:
            del self._by_key[resident.key]

    # --- what is going away

    @contextmanager
    def barred(self, key: Key) -> Generator[None]:
        """For the deletion of an instance: it leaves memory, and nobody reads it from the store before the end."""
        self._by_key.pop(key, None)
        gone = self._loading[key] = trio.Event()
        try:
            yield
        finally:
            if self._loading.get(key) is gone:  # else somebody deletes it once more
                del self._loading[key]
            gone.set()

    def gone(self, keys: Sequence[Key]) -> None:
        """These have been deleted: they leave memory, and what is being read of them is read again."""
        self._deletions += 1
        for key in keys:
            resident = self._by_key.pop(key, None)
            if resident is not None:
                resident.is_lost = True
                resident.loss = _not_found(key)

    def is_deleting(self, tenant: str) -> bool:
        return tenant in self._deleting

    def begin_deleting(self, tenant: str) -> None:
        """From now on `load` says that there is no such tenant."""
        self._deleting.add(tenant)
        self._deletions += 1

    def end_deleting(self, tenant: str) -> None:
        self._deleting.discard(tenant)
        self._deletions += 1


def _not_found(key: Key) -> NotFound:
    return NotFound(
        f'tenant "{key[0]}" has no instance "{key[1]}"',
        code="instance_not_found",
        hint="List the tenant's instances to see which there are.",
    )
