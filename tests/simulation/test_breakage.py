"""The simulation must be able to fail: each law is broken in the product on purpose, and the witness must see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw
import pytest
import trio

import facets.database
import facets.fold
import facets.index
import facets.log
from executor.adapters.state import FacetsStateStore
from executor.core import decide
from executor.core.commands import Undo
from executor.core.entries import Failed
from executor.core.errors import PerdureError
from executor.engine import children
from executor.engine.committer import Committer
from executor.engine.engine import Engine
from facets.errors import FacetError, StoreFailed
from tests.simulation.stories import RandomStory
from tests.simulation.world import World, leaves

SEEDS = range(5_000, 5_120)
Patch = pytest.MonkeyPatch


def log_without_fsync(patch: Patch) -> None:
    """The log's transactions are as lazy as those of the state database."""
    connect = facets.log.connect

    def lazy(*args: Any, **options: Any) -> apsw.Connection:
        return connect(*args, **{**options, "synchronous": "NORMAL"})

    patch.setattr(facets.log, "connect", lazy)


def acknowledged_first(patch: Patch) -> None:
    """Callers hear of it before the disk does."""

    async def write(self: Any) -> None:
        units = self._take()
        records = [record for unit in units for record in unit[0]]
        for _, _, on_done in units:
            on_done(None)
        await trio.lowlevel.checkpoint()
        if records:
            await self._writer.run(self._store.append, records)

    patch.setattr(Committer, "_write_batch", write)


def failed_fsync_is_tried_again(patch: Patch) -> None:
    """And the second time, when the kernel calls the lost pages clean, it "works"."""
    append = facets.log.CommitLog.append

    def stubborn(self: Any, head: int, epoch: int, batch: bytes) -> int:
        try:
            return append(self, head, epoch, batch)
        except StoreFailed:
            self._failure = None
            return append(self, head, epoch, batch)

    patch.setattr(facets.log.CommitLog, "append", stubborn)


def found_is_taken_for_durable(patch: Patch) -> None:
    """What a process finds of one that died of a failed fsync is appended to as it is."""
    patch.setattr(facets.database, "_renew", lambda *_: None)


def nobody_is_fenced(patch: Patch) -> None:
    """The head's position is looked at, its epoch is not."""
    append = facets.log.CommitLog.append

    def open_to_all(self: Any, head: int, epoch: int, batch: bytes) -> int:
        found = self.head()
        return append(self, found.position, found.epoch, batch)

    patch.setattr(facets.log.CommitLog, "append", open_to_all)


def log_trimmed_too_early(patch: Patch) -> None:
    """The log is shortened though what was folded is not on disk yet."""

    def hasty(self: Any, *, compact: bool = False) -> bool:
        return self._log.trim(self.folded + 1, erase=compact)  # type: ignore[no-any-return]

    patch.setattr(facets.fold.Fold, "trim", hasty)


def deltas_lost_by_the_fold(patch: Patch) -> None:
    """The fold takes journals and forgets facets."""
    patch.setattr(facets.fold.Fold, "_add_deltas", lambda *_: None)


def last_due_row_forgotten(patch: Patch) -> None:
    """The wake index leaves one out."""
    due = facets.index.due
    patch.setattr(facets.index, "due", lambda *args: due(*args)[:-1])


def reported_steps_are_asked_again(patch: Patch) -> None:
    """An activation does not wait for what a dead run has reported to become durable."""

    async def at_once(self: Any, resident: Any, sequence: int) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(Engine, "until_durable", at_once)


def answers_rest_on_nothing(patch: Patch) -> None:
    """A full disk is taken for a success."""
    append = facets.StateStore.append

    def blind(self: Any, records: Any) -> int:
        try:
            return append(self, records)
        except facets.StorageFull:
            return 0

    patch.setattr(facets.StateStore, "append", blind)


def undo_is_skipped(patch: Patch) -> None:
    """An instance that is to undo what it did fails at once."""
    on_command = decide.on_command

    def hasty(instance: Any, command: Any, **facts: Any) -> Any:
        found = on_command(instance, command, **facts)
        if isinstance(command, Undo) and found.entries:
            return decide.Decided((*found.entries, Failed(facts["now_ms"], command.error)))
        return found

    patch.setattr(decide, "on_command", hasty)


def parents_are_told_another_result(patch: Patch) -> None:
    """What a child returned gets lost on the way."""
    end = children.ChildEnd

    def garbled(path: str, child: str, commit: str, state: Any, value: bytes | None, error: Any) -> Any:
        return end(path, child, commit, state, None if value is None else b"\xc0", error)

    patch.setattr(children, "ChildEnd", garbled)


def restart_leaves_the_facet(patch: Patch) -> None:
    """It goes back in the journal, and not in the facet."""
    patch.setattr(FacetsStateStore, "revert", lambda *_args, **_options: None)


QUICK = [log_without_fsync, acknowledged_first, nobody_is_fenced, deltas_lost_by_the_fold]
DEEP = [
    undo_is_skipped,
    parents_are_told_another_result,
    restart_leaves_the_facet,
    failed_fsync_is_tried_again,
    found_is_taken_for_durable,
    log_trimmed_too_early,
    last_due_row_forgotten,
    reported_steps_are_asked_again,
    answers_rest_on_nothing,
]


def is_seen(seeds: range) -> bool:
    for seed in seeds:
        world = World(seed)
        try:
            RandomStory(world).run()
        except BaseException as error:
            # A violation, or a store that refuses what it finds: either way somebody noticed.
            if any(
                isinstance(leaf, AssertionError | PerdureError | FacetError | trio.TooSlowError)
                for leaf in leaves(error)
            ):
                return True
            raise
        finally:
            world.close()
    return False


@pytest.mark.parametrize("harm", QUICK)
def test_broken_product_is_seen(harm: Callable[[Patch], None], monkeypatch: Patch) -> None:
    harm(monkeypatch)
    assert is_seen(SEEDS)


@pytest.mark.deep
@pytest.mark.parametrize("harm", DEEP)
def test_product_broken_in_a_rarer_way_is_seen(harm: Callable[[Patch], None], monkeypatch: Patch) -> None:
    harm(monkeypatch)
    assert is_seen(range(5_000, 9_000))


def test_product_as_it_is_keeps_all_laws_in_these_worlds() -> None:
    """So what is seen above is the harm."""
    assert not is_seen(SEEDS[:15])
