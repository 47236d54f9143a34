"""WarmSandboxes: sandbox processes in use and kept warm, by (tenant, commit), bounded in number.

One sandbox carries all instances of its tenant and commit, up to `runs_max`; only above that another is opened beside
it. One that carries no run is kept for `idle_s` and then ended; when all places are taken the idle one that has been
used least lately gives way. An instance under suspicion of killing its sandbox gets one of its own (`alone`).

Instances that want the same sandbox while it is opened wait for that one opening, and share its outcome.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import trio

from executor.core.errors import PerdureError, Unavailable
from executor.core.instance import Instance
from executor.core.journal import Journal
from executor.engine.intake import Disk, Intake, OnFrames
from executor.engine.outbox import POSTED_BYTES_MAX, Outbox
from executor.engine.resident import Key, Resident, Run
from executor.engine.signal import Signal
from executor.ports import CodeSource, Sandbox, SandboxHost
from executor.sandbox.protocol import ProtocolError, ToSandbox
from executor.sandbox.spec import DeathReason, SandboxDied, SandboxFailed, SandboxSpec

RUNS_MAX = 10_000
"""Runs in one sandbox. Each takes 7 KiB there when it does nothing but wait, so a sandbox's 256 MiB leave 18 KiB for
what the tenant's code keeps per run; and its death costs no more than so many replays. For more at once a platform
raises `active_runs_max`, of which a tenant gets three quarters, and nothing else."""
USE_HALF_LIFE_S = 60.0
"""In this time what a sandbox was used for comes to count half."""

Place = tuple[str, str, str]
"""Tenant, commit, and the id of the only instance allowed in ("" for all)."""

OnDeath = Callable[["WarmSandbox", SandboxDied], None]


class WarmSandbox:
    """A sandbox and the runs in it. What is posted to it is sent by its own task."""

    __slots__ = (
        "_used",
        "_used_at_s",
        "idle_since",
        "is_dead",
        "outbox",
        "place",
        "reserved",
        "runs",
        "sandbox",
        "taken",
    )

    def __init__(self, place: Place, sandbox: Sandbox, now_s: float) -> None:
        self.place = place
        self.sandbox = sandbox
        self.runs: dict[int, tuple[Run, Resident]] = {}
        self.outbox = Outbox()
        self.taken = Signal()
        self.idle_since = now_s
        self.reserved = 0
        self.is_dead = False
        self._used = 0.0
        self._used_at_s = now_s

    def post(self, frame: ToSandbox) -> None:
        """Queue a frame. Nothing happens if the sandbox is dead: its death is reported once, to everybody."""
        if not self.is_dead:
            self.outbox.post(frame)

    def post_journal(self, run: Run, journal: Journal, end: int, instance: Instance) -> None:
        """Queue the run's entries behind `run.sent`, up to `end`, which are then `sent`."""
        if not self.is_dead:
            self.outbox.post_journal(run.number, journal, run.sent + 1, end, instance)
        run.sent = end

    @property
    def load(self) -> int:
        """Runs in it, and those that may come."""
        return len(self.runs) + self.reserved

    @property
    def is_idle(self) -> bool:
        return not self.runs and not self.reserved

    def note_use(self, now_s: float) -> None:
        """Another instance is activated in it."""
        self._used = self.use(now_s) + 1
        self._used_at_s = now_s

    def use(self, now_s: float) -> float:
        """Activations, each counting less the longer it is ago."""
        return self._used * math.exp2((self._used_at_s - now_s) / USE_HALF_LIFE_S)


class _Opening:
    """One that is under way; `error` says how it failed for all who waited."""

    def __init__(self) -> None:
        self.is_over = trio.Event()
        self.error: PerdureError | SandboxDied | SandboxFailed | None = None


class WarmSandboxes:
    """`open` and `close` are called by the engine; frames and deaths are handed to its callbacks."""

    def __init__(
        self,
        host: SandboxHost,
        code: CodeSource,
        *,
        count_max: int,
        idle_s: float,
        on_frames: OnFrames[WarmSandbox],
        on_death: OnDeath,
        on_short: Callable[[], None],
        disk: Disk,
        runs_max: int = RUNS_MAX,
    ) -> None:
        """`on_short`: places are short; whoever keeps runs without need gives them up. `disk`: see `Intake`."""
        self._host = host
        self._code = code
        self._count_max = count_max
        self._idle_s = idle_s
        self._intake = Intake(on_frames, disk)
        self._on_death = on_death
        self._on_short = on_short
        self._runs_max = runs_max
        self._warm: dict[Place, list[WarmSandbox]] = {}
        """The living ones, oldest first: that one is filled first, so that the others fall idle."""
        self._count = 0
        self._opening: dict[Place, _Opening] = {}
        self._booting: Counter[str] = Counter()
        self._freed = Signal()
        self._nursery: trio.Nursery | None = None

    def __len__(self) -> int:
        return self._count

    def all(self) -> list[WarmSandbox]:
        """The living ones."""
        return [warm for several in self._warm.values() for warm in several]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of all sandboxes and end the idle ones, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                await trio.sleep(self._idle_s / 2)
                now = trio.current_time()
                for warm in self.all():
                    if warm.is_idle and now - warm.idle_since >= self._idle_s:
                        self._end(warm, "killed")

    def warm(self, tenant: str, commit: str) -> WarmSandbox | None:
        """A living sandbox that has room for one more run now, without a reservation; None: `reserve` one."""
        return self._with_room((tenant, commit, ""))

    def _with_room(self, place: Place) -> WarmSandbox | None:
        for warm in self._warm.get(place, ()):
            if warm.load < self._runs_max:
                warm.note_use(trio.current_time())
                return warm
        return None

    async def reserve(self, key: Key, commit: str, *, alone: bool) -> WarmSandbox:
        """A living sandbox for the instance, with one reservation that the caller gives back by `release`.

        Raises what `SandboxHost.open` raises, and Unavailable (`sandbox_unavailable`).
        """
        place = (key[0], commit, key[1] if alone else "")
        while True:
            warm = self._with_room(place)
            if warm is not None:
                warm.reserved += 1
                return warm
            opening = self._opening.get(place)
            if opening is None:
                await self._open_for_all(place)
            else:
                await opening.is_over.wait()
                if opening.error is not None:
                    raise opening.error.with_traceback(None)
                # Cancelled, or filled by those who were here before: look again.

    async def _open_for_all(self, place: Place) -> None:
        opening = self._opening[place] = _Opening()
        try:
            await self._open(place)
        except (PerdureError, SandboxDied, SandboxFailed) as error:
            opening.error = error
            raise
        finally:
            del self._opening[place]
            opening.is_over.set()

    def release(self, warm: WarmSandbox) -> None:
        """Give a reservation back."""
        warm.reserved -= 1
        self._note_idle(warm)

    def leave(self, warm: WarmSandbox, run: Run) -> None:
        """The run is over or dropped."""
        warm.runs.pop(run.number, None)
        self._note_idle(warm)

    def _note_idle(self, warm: WarmSandbox) -> None:
        if warm.is_idle:
            warm.idle_since = trio.current_time()
            self._freed.notify()
            if warm.place[2] and not warm.is_dead:
                self._end(warm, "killed")

    async def _open(self, place: Place) -> None:
        tenant, commit, _ = place
        while not self._has_place(tenant):
            self._on_short()
            if not self._has_place(tenant):
                await self._freed.wait()
        self._booting[tenant] += 1
        try:
            bundle = await trio.to_thread.run_sync(self._code.bundle, tenant, commit)
            sandbox = await self._host.open(SandboxSpec(tenant, commit, bundle))
        finally:
            self._booting[tenant] -= 1
            self._freed.notify()
        if self._nursery is None:
            sandbox.kill()
            raise Unavailable("the executor is stopping", code="shutting_down")
        warm = WarmSandbox(place, sandbox, trio.current_time())
        self._warm.setdefault(place, []).append(warm)
        self._count += 1
        self._nursery.start_soon(self._read, warm)
        self._nursery.start_soon(self._write, warm)

    def _has_place(self, tenant: str) -> bool:
        """Whether one more sandbox of the tenant may be opened now; idle ones give way.

        Those that wait for a place are not counted, or they would wait for one another.
        """
        own = self._booting[tenant] + sum(len(several) for place, several in self._warm.items() if place[0] == tenant)
        if own >= share_of(self._count_max):
            return self._evict_one(tenant)
        return self._booting.total() + self._count < self._count_max or self._evict_one(None)

    def _evict_one(self, tenant: str | None) -> bool:
        idle = [warm for warm in self.all() if warm.is_idle and tenant in (None, warm.place[0])]
        if not idle:
            return False
        now_s = trio.current_time()
        self._end(min(idle, key=lambda warm: (warm.use(now_s), warm.idle_since)), "killed")
        return True

    def _end(self, warm: WarmSandbox, reason: DeathReason, detail: str = "") -> None:
        warm.is_dead = True
        warm.outbox.clear()
        warm.outbox.has_mail.notify()
        warm.taken.notify()
        several = self._warm.get(warm.place, [])
        if warm in several:
            several.remove(warm)
            self._count -= 1
            if not several:
                del self._warm[warm.place]
        self._freed.notify()
        warm.sandbox.kill(reason, detail)

    def condemn(self, warm: WarmSandbox, detail: str) -> None:
        """The sandbox broke the protocol: end it, and report its death to all its runs."""
        if not warm.is_dead:
            self._end(warm, "protocol", detail)
            self._on_death(warm, SandboxDied("protocol", detail))

    async def _read(self, warm: WarmSandbox) -> None:
        try:
            while not warm.is_dead:
                if warm.outbox.posted_bytes > POSTED_BYTES_MAX:
                    await warm.taken.wait()  # first it takes what it has asked for
                else:
                    await self._intake.take(warm.place[0], warm, await warm.sandbox.receive())
        except SandboxDied as died:
            if not warm.is_dead:
                self._end(warm, died.reason)
                self._on_death(warm, died)

    async def _write(self, warm: WarmSandbox) -> None:
        try:
            while not warm.is_dead:
                if not warm.outbox:
                    await warm.outbox.has_mail.wait()
                elif message := warm.outbox.take():
                    await warm.sandbox.send(message)
                    warm.taken.notify()
        except ProtocolError as error:
            self.condemn(warm, str(error))
        except SandboxDied as died:
            if not warm.is_dead:
                self._end(warm, died.reason)
                self._on_death(warm, died)

    def stop(self) -> None:
        """End all sandboxes; nothing is reported."""
        for warm in self.all():
            self._end(warm, "killed")


def share_of(places: int) -> int:
    """How many of all places one tenant may have: three quarters, so that another's work always finds one."""
    return max(1, places * 3 // 4)
