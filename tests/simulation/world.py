"""World: the real core, engine and store on a simulated disk, over many lives of the executor. One seed fixes it all.

A life opens the store, checks it against the witness, runs the engine with clients and faults, and ends: in order, by a
kill, by power loss in the middle of a write or fsync, or because the disk failed and the executor stopped. The last life
has no faults: in it everything that was ever acknowledged must come to its end.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import trio
from trio.testing import MockClock

import facets
from executor.adapters.state import FacetsStateStore, public_error
from executor.core.errors import PerdureError
from executor.core.lifecycle import FINAL
from executor.engine.engine import Engine, EngineLimits
from executor.engine.local import LocalInstances
from executor.engine.peers import PeersOver
from tests.simulation.determinism import START_MS, Threads, VirtualClock, deterministic
from tests.simulation.disk import Disk, Loss
from tests.simulation.programs import SimulatedHost
from tests.simulation.vfs import DiskVFS
from tests.simulation.witness import Key, Violation, Witness, WitnessedStore

COMMIT = "c" * 40
LIFE_S = 3_600.0
"""Virtual: a life that is not over by then hangs."""
LIMITS = EngineLimits(active_runs_max=16, sandboxes_max=4, stop_grace_s=1.0)


class NoCode:
    """A CodeSource of which the engine uses one method, and the start of a child two."""

    def startable(self, tenant: str, *, channel: str, commit: str | None) -> tuple[str, dict[str, str]]:
        """Every channel is on COMMIT."""
        return commit or COMMIT, {"Program": ""}

    def keep_for_instances(self, tenant: str, commit: str) -> None:
        """Nothing is ever collected."""

    def bundle(self, tenant: str, commit: str) -> Path:
        """A name that nobody opens."""
        return Path("/nowhere")


class World:
    """`story(life)` is called in each life, and is cut off where the life ends."""

    def __init__(self, seed: object, *, root: Path | None = None) -> None:
        self.random = Random(f"world {seed}")
        folder = Path("/dev/shm") if root is None and Path("/dev/shm").is_dir() else root
        self.root = Path(tempfile.mkdtemp(prefix="simulation-", dir=folder)).resolve()
        self.path = self.root / "state"
        self.disk = Disk(self.root, Random(f"disk {seed}"), sector_bytes=self.random.choice([512, 4096]))
        self.vfs = DiskVFS(self.disk)
        self.limits = facets.Limits(
            paged_bytes_min=self.random.choice([1_500, 1 << 20]),  # facets of this world are of one kind or of both
            facet_history_bytes_max=self.random.choice([2_000, 1 << 20]),
        )
        self.trace: list[str] = []
        self.witness = Witness(self.disk, self.say)
        self.now_ms = START_MS
        self.lives = 0
        self._threads = Random(f"threads {seed}")
        self._next: FacetsStateStore | None = None
        """What a second owner opened: the store of the next life."""

    def say(self, *words: object) -> None:
        """One line of the trace."""
        self.trace.append(" ".join(map(str, words)))

    def close(self) -> None:
        """Forget the world."""
        self.disk.turn_off()
        if self._next is not None:
            with suppress(facets.FacetError, PerdureError):
                self._next.close()
        self.vfs.unregister()
        shutil.rmtree(self.root)

    def open(self) -> FacetsStateStore:
        """The real store, its thread left out. Raises PerdureError when the disk fails."""
        if self._next is not None:
            store, self._next = self._next, None
            return store
        try:
            store = facets.StateStore.open(self.path, limits=self.limits, fold="manual", vfs=self.vfs.name)
            return FacetsStateStore(store)
        except facets.FacetError as error:
            raise public_error(error) from error

    def live(
        self,
        story: Callable[[Life], Awaitable[None]],
        *,
        loss: Loss = "kept",
        deep: bool = False,
        prepare: Callable[[], None] = lambda: None,
    ) -> BaseException | None:
        """One life and its end; then the disk as `loss` leaves it. What ended it before its story did, if anything did.

        `prepare`: called when the store is open and checked, to plan faults.
        """
        self.lives += 1
        self.say("life", self.lives)
        store: FacetsStateStore | None = None
        ended: BaseException | None = None
        try:
            store = self.open()
            self.witness.check_opened(store, deep=deep)
            prepare()
            clock = MockClock(autojump_threshold=0)
            with deterministic(self._threads) as threads:
                life = Life(self, store, threads)
                trio.run(life.run, story, clock=clock)
            self.now_ms += int(clock.current_time() * 1000) + 1 + life.clock.set_by_ms
        except BaseException as error:
            ended = error
            self._expect(error)
        finally:
            if self._next is not None and (self.disk.is_off or loss != "kept"):
                # The machine is gone, and both owners with it.
                self.disk.turn_off()
                self._release(self._next)
                self._next = None
            if ended is not None and self._next is None:
                self.disk.turn_off()
            if store is not None:
                self._release(store)
        was_off = self.disk.is_off
        self.say("over", type(ended).__name__, "off" if was_off else "in order", loss, self.disk.operations)
        self.disk.calm_down()
        if was_off:
            self.disk.turn_on(loss)
        return ended

    def _release(self, store: FacetsStateStore) -> None:
        try:
            store.close()
        except PerdureError as error:
            if not self.disk.is_off:
                self._expect(error)

    def _expect(self, error: BaseException) -> None:
        """A life may end with an error of the platform's own; anything else is a defect.

        But not where the disk shows nonsense: any end will do, if nothing false is said before.
        """
        is_excused = self.disk.is_confusing
        for leaf in leaves(error):
            if isinstance(leaf, Violation) or not (is_excused or isinstance(leaf, PerdureError | trio.Cancelled)):
                raise error


class Life:
    """One life of the executor, for its story: engine, sandboxes, and clients' calls that tell the witness."""

    def __init__(self, world: World, store: FacetsStateStore, threads: Threads) -> None:
        self.world = world
        self.witness = world.witness
        self.random = world.random
        self.real_store = store
        self.store = WitnessedStore(store, world.witness)
        self.threads = threads
        self.clock = VirtualClock(world.now_ms)
        self.engine: Engine
        self.host: SimulatedHost
        self.scope = trio.CancelScope()

    async def run(self, story: Callable[[Life], Awaitable[None]]) -> None:
        """The life, from the start of the engine to its orderly end, or to the end of power."""
        with trio.fail_after(LIFE_S), self.scope:
            self.world.disk.on_off = self.scope.cancel
            async with trio.open_nursery() as nursery:
                self.host = SimulatedHost(
                    self.witness, self.random, nursery, now_ms=self.clock.now_ms, delay=self.threads.delay
                )
                store: Any = self.store  # a port, by what it passes on
                code: Any = NoCode()
                self.engine = Engine(store, code, self.host, self.clock, LIMITS, self.threads.worker)
                self.engine.peers = PeersOver(LocalInstances(self.engine, store), code)
                async with self.engine.running():
                    await story(self)
                nursery.cancel_scope.cancel()

    # --- clients

    async def start(self, key: Key, payload: bytes) -> None:
        """Start it, and remember the answer."""
        self.witness.say("start", key)
        await self.engine.start(key, workflow="Program", commit=COMMIT, payload=payload)
        self.witness.promise(key, "started", payload)

    async def send_event(self, key: Key, id: str, type: str) -> None:
        """Send it, and remember the answer."""
        self.witness.say("event", key, id)
        await self.engine.send_event(key, id=id, type=type, payload=b"\xc0")
        self.witness.promise(key, "event", id)

    async def pause(self, key: Key) -> None:
        """Pause it, and remember the answer."""
        await self.engine.pause(key)
        self.witness.promise(key, "Paused")

    async def terminate(self, key: Key) -> None:
        """Terminate it, and remember the answer."""
        await self.engine.terminate(key)
        self.witness.promise(key, "Terminated")

    async def terminate_undoing(self, key: Key) -> None:
        """Terminate it and undo what it did, and remember the answer."""
        await self.engine.terminate(key, undo=True)
        self.witness.promise(key, "undoing or terminated")

    async def restart(self, key: Key, from_step: tuple[str, int] | None) -> None:
        """Run it again, and remember the answer."""
        self.witness.say("restart", key, from_step)
        await self.engine.restart(key, from_step=from_step)
        self.witness.promise(key, "Restarted")

    async def update(self, key: Key, id: str) -> None:
        """Update it, and remember the answer."""
        self.witness.say("update", key, id)
        await self.engine.asking.update(key, id=id, name="note", payload=b"\xc0", wait_s=30)
        self.witness.promise(key, "updated", id)

    async def delete(self, key: Key) -> None:
        """Delete it, and remember the answer."""
        known = self.witness.memory.get(key)
        born = known.born if known is not None else 0
        self.witness.say("delete", key)
        await self.engine.delete(key)
        self.witness.promise_deleted(key, born)

    async def delete_tenant(self, tenant: str) -> None:
        """Delete all that it has, and remember the answer."""
        there = {key: known.born for key, known in self.witness.memory.items() if key[0] == tenant}
        self.witness.say("delete tenant", tenant)
        await self.engine.delete_tenant(tenant)
        for key, born in there.items():
            self.witness.promise_deleted(key, born)

    def fold(self) -> None:
        """As the store's own thread does now and then. A full disk is told to nobody: it is tried again."""
        with suppress(facets.FacetError):
            self.real_store._store.fold()

    def usurp(self) -> None:
        """A second owner opens the data: the lock is void, the epoch is not. It is the owner of the next life."""
        self.witness.say("usurped")
        (self.world.path / "owner.lock").unlink()
        self.world._next = self.world.open()
        self.store.is_gone = True

    async def finish(self) -> None:
        """Let everything come to its end: events for who waits, `resume` for who is paused or held."""
        number = 0
        while True:
            rows = [row for row in self.witness.rows(self.real_store) if row.row.state not in FINAL]
            if not rows:
                return
            for row in rows:
                key = (row.tenant, row.instance)
                number += 1
                with suppress(PerdureError):
                    if row.row.state in ("paused", "held"):
                        await self.engine.resume(key)
                    for kind in ("go", "stop"):
                        await self.send_event(key, f"end-{self.world.lives}-{number}-{kind}", kind)
            await trio.sleep(20)


def leaves(error: BaseException) -> list[BaseException]:
    """The errors of a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in leaves(part)]
    return [error]
