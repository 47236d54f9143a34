"""Crash at every write of short stories: each write, truncation, fsync and deletion in turn, with every outcome.

A story is run once to count what it does to the disk. Then again and again, with the power gone in the middle of the
n-th operation, and each kind of loss; then the executor starts, and goes on to the end.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio

from executor.core.errors import Conflict, PerdureError
from tests.simulation.disk import LOSSES, Loss
from tests.simulation.programs import payload_of
from tests.simulation.world import Life, World

IS_DEEP = os.environ.get("PERDURE_PROFILE") == "deep"
QUICK_STRIDE = 13
"""The quick profile takes every so many-th operation, and the losses in turn."""
KEY = ("acme", "one")
OTHER = ("birch", "two")
Story = Callable[[Life], Awaitable[None]]


async def start(life: Life) -> None:
    await life.start(KEY, payload_of([], 1))


async def start_again(life: Life) -> None:
    for _ in range(2):
        await life.start(KEY, payload_of([["nap", 50]], 1))


async def step_sleep_wake(life: Life) -> None:
    await life.start(KEY, payload_of([["step", 1, 5], ["nap", 500], ["step", 0, 5]], 1))
    await trio.sleep(3)


async def event_before_its_wait(life: Life) -> None:
    await life.start(KEY, payload_of([["nap", 300], ["wait", "go", None]], 1))
    await life.send_event(KEY, "early", "go")
    await life.send_event(KEY, "early", "go")
    await trio.sleep(1)


async def facet_steps(life: Life) -> None:
    await life.start(KEY, payload_of([["facet", 1], ["facet", 1], ["facet", 1]], 1))
    await trio.sleep(1)
    life.fold()


async def delete_and_begin_anew(life: Life) -> None:
    await life.start(KEY, payload_of([["facet", 1]], 1))
    await trio.sleep(1)
    life.fold()
    await life.delete(KEY)
    await life.start(KEY, payload_of([["facet", 1], ["nap", 10]], 2))
    await trio.sleep(1)
    life.fold()


async def folds_and_trims(life: Life) -> None:
    for number, key in enumerate((KEY, OTHER)):
        await life.start(key, payload_of([["facet", 1], ["nap", 100], ["facet", 1]], number))
        life.fold()
    await trio.sleep(1)
    life.fold()


async def claim_by_a_second_owner(life: Life) -> None:
    await life.start(KEY, payload_of([["nap", 100]], 1))
    life.usurp()
    await life.start(OTHER, payload_of([], 2))
    raise AssertionError("an owner that was claimed over has written")


async def children(life: Life) -> None:
    """One that is waited for, and one that is closed with its parent."""
    program = [["call", "terminate", ["step", 0, 1]], ["spawn", "terminate", ["wait", "never", None]]]
    await life.start(KEY, payload_of(program, 1))
    await trio.sleep(3)


async def undo(life: Life) -> None:
    await life.start(KEY, payload_of([["make", 0, 1], ["both", ["make", 1, 1], ["make", 9, 1]], ["fail"]], 1))
    await trio.sleep(5)


async def new_executions(life: Life) -> None:
    """By the program, and by a restart that goes back behind facet steps and an update."""
    await life.start(KEY, payload_of([["facet", 1], ["anew"], ["facet", 1], ["nap", 100], ["facet", 1]], 1))
    await trio.sleep(0.05)
    with suppress(Conflict):
        await life.update(KEY, "u1")
    await trio.sleep(1)
    await life.restart(KEY, ("nap1", 1))
    await trio.sleep(1)
    await life.restart(KEY, None)


STORIES: dict[str, tuple[Story, bool]] = {
    "first opening and a start": (start, True),
    "start": (start, False),
    "the same start twice": (start_again, False),
    "a failing step, a sleep, a wake-up": (step_sleep_wake, False),
    "an event before its wait": (event_before_its_wait, False),
    "facet steps": (facet_steps, False),
    "deletion and a new beginning": (delete_and_begin_anew, False),
    "folds and trims": (folds_and_trims, False),
    "children": (children, False),
    "undo": (undo, False),
    "new executions": (new_executions, False),
    "claim by a second owner": (claim_by_a_second_owner, False),
}
"""The story, and whether it has to be told from an empty folder."""


def tell(name: str, at: int, loss: Loss) -> int:
    """Tell the story with the power gone at operation `at` of it; 0: never. How many operations it took."""
    story, is_first = STORIES[name]
    world = World(f"{name} {at} {loss}")
    try:
        if not is_first:
            assert world.live(_nothing) is None
        begun = world.disk.operations
        world.disk.off_at = begun + at if at else None
        world.live(story, loss=loss)
        count = world.disk.operations - begun
        for life in (Life.finish, _nothing):
            ended = world.live(life, deep=True)
            if ended is not None:
                raise ended
        world.witness.check_finished()
        return count
    except BaseException as error:
        error.add_note("\n".join(world.trace[-60:]))
        error.add_note(f"repeat it by: tell({name!r}, {at}, {loss!r})")
        raise
    finally:
        world.close()


async def _nothing(life: Life) -> None:
    with suppress(PerdureError):
        await trio.sleep(0.1)


@pytest.mark.parametrize("name", STORIES)
def test_power_loss_at_every_write_loses_nothing_acknowledged(name: str) -> None:
    count = tell(name, 0, "kept")
    assert count > 15, "the story does not reach the disk"
    for at in range(1, count + 1):
        losses = LOSSES if IS_DEEP else (LOSSES[at // QUICK_STRIDE % len(LOSSES)],)
        if not IS_DEEP and at % QUICK_STRIDE:
            continue
        for loss in losses:
            tell(name, at, loss)
