"""WarmSandboxes: sandbox processes in use and kept warm, one per (tenant, commit), bounded in number.

A sandbox that carries no run is kept for `idle_s` and then ended; when all places are taken the one that is idle
longest gives way. An instance under suspicion of killing its sandbox gets one of its own (`alone`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import trio

from executor.core.errors import Unavailable
from executor.engine.resident import Key, Resident, Run
from executor.engine.signal import Signal
from executor.ports import CodeSource, Sandbox, SandboxHost
from executor.sandbox.protocol import Entries, FacetImage, FromSandbox, ProtocolError, ToSandbox
from executor.sandbox.spec import DeathReason, SandboxDied, SandboxSpec

MESSAGE_BYTES = 2 * 1024 * 1024

Place = tuple[str, str, str]
"""Tenant, commit, and the id of the only instance allowed in ("" for all)."""

OnFrames = Callable[["WarmSandbox", list[FromSandbox]], None]
OnDeath = Callable[["WarmSandbox", SandboxDied], None]


@dataclass(slots=True, eq=False)
class WarmSandbox:
    """A sandbox and the runs in it. Frames are gathered in `outbox` and sent in one message by its own task."""

    place: Place
    sandbox: Sandbox
    runs: dict[int, tuple[Run, Resident]] = field(default_factory=dict)
    outbox: list[ToSandbox] = field(default_factory=list)
    has_mail: trio.Event = field(default_factory=trio.Event)
    idle_since: float = 0.0
    reserved: int = 0
    is_dead: bool = False

    def post(self, frame: ToSandbox) -> None:
        """Queue a frame. Nothing happens if the sandbox is dead: its death is reported once, to everybody."""
        if not self.is_dead:
            self.outbox.append(frame)
            self.has_mail.set()

    @property
    def is_idle(self) -> bool:
        return not self.runs and not self.reserved


class WarmSandboxes:
    """`open` and `close` are called by the engine; frames and deaths are handed to its callbacks."""

    def __init__(
        self,
        host: SandboxHost,
        code: CodeSource,
        *,
        count_max: int,
        idle_s: float,
        on_frames: OnFrames,
        on_death: OnDeath,
        on_short: Callable[[], None],
    ) -> None:
        """`on_short`: places are short; whoever keeps runs without need gives them up."""
        self._host = host
        self._code = code
        self._count_max = count_max
        self._idle_s = idle_s
        self._on_frames = on_frames
        self._on_death = on_death
        self._on_short = on_short
        self._warm: dict[Place, WarmSandbox] = {}
        self._opening: dict[Place, trio.Event] = {}
        self._booting: Counter[str] = Counter()
        self._freed = Signal()
        self._nursery: trio.Nursery | None = None

    def __len__(self) -> int:
        return len(self._warm)

    def all(self) -> list[WarmSandbox]:
        """The living ones."""
        return list(self._warm.values())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of all sandboxes and end the idle ones, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                await trio.sleep(self._idle_s / 2)
                now = trio.current_time()
                for warm in list(self._warm.values()):
                    if warm.is_idle and now - warm.idle_since >= self._idle_s:
                        self._end(warm, "killed")

    def warm(self, tenant: str, commit: str) -> WarmSandbox | None:
        """A living sandbox that has room for one more run now, without a reservation; None: `reserve` one."""
        return self._warm.get((tenant, commit, ""))

    async def reserve(self, key: Key, commit: str, *, alone: bool) -> WarmSandbox:
        """A living sandbox for the instance, with one reservation that the caller gives back by `release`.

        Raises what `SandboxHost.open` raises, and Unavailable (`sandbox_unavailable`).
        """
        place = (key[0], commit, key[1] if alone else "")
        while True:
            warm = self._warm.get(place)
            if warm is not None:
                warm.reserved += 1
                return warm
            opening = self._opening.get(place)
            if opening is not None:
                await opening.wait()
                # If that opening failed, this caller tries itself and gets the error at first hand.
                continue
            self._opening[place] = trio.Event()
            try:
                warm = await self._open(place)
                warm.reserved += 1
                return warm
            finally:
                self._opening.pop(place).set()

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

    async def _open(self, place: Place) -> WarmSandbox:
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
        warm = WarmSandbox(place, sandbox, idle_since=trio.current_time())
        self._warm[place] = warm
        if self._nursery is None:
            raise Unavailable("the executor is stopping", code="shutting_down")
        self._nursery.start_soon(self._read, warm)
        self._nursery.start_soon(self._write, warm)
        return warm

    def _has_place(self, tenant: str) -> bool:
        """Whether one more sandbox of the tenant may be opened now; idle ones give way.

        Those that wait for a place are not counted, or they would wait for one another.
        """
        own = self._booting[tenant] + sum(place[0] == tenant for place in self._warm)
        if own >= share_of(self._count_max):
            return self._evict_one(tenant)
        return self._booting.total() + len(self._warm) < self._count_max or self._evict_one(None)

    def _evict_one(self, tenant: str | None) -> bool:
        idle = [warm for warm in self._warm.values() if warm.is_idle and tenant in (None, warm.place[0])]
        if not idle:
            return False
        self._end(min(idle, key=lambda warm: warm.idle_since), "killed")
        return True

    def _end(self, warm: WarmSandbox, reason: DeathReason, detail: str = "") -> None:
        warm.is_dead = True
        warm.has_mail.set()
        if self._warm.get(warm.place) is warm:
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
                self._on_frames(warm, await warm.sandbox.receive())
        except SandboxDied as died:
            if not warm.is_dead:
                self._end(warm, died.reason)
                self._on_death(warm, died)

    async def _write(self, warm: WarmSandbox) -> None:
        try:
            while not warm.is_dead:
                await warm.has_mail.wait()
                frames, warm.outbox, warm.has_mail = warm.outbox, [], trio.Event()
                for message in _messages(frames):
                    await warm.sandbox.send(message)
        except ProtocolError as error:
            self.condemn(warm, str(error))
        except SandboxDied as died:
            if not warm.is_dead:
                self._end(warm, died.reason)
                self._on_death(warm, died)

    def stop(self) -> None:
        """End all sandboxes; nothing is reported."""
        for warm in list(self._warm.values()):
            self._end(warm, "killed")


def share_of(places: int) -> int:
    """How many of all places one tenant may have: three quarters, so that another's work always finds one."""
    return max(1, places * 3 // 4)


def _messages(frames: list[ToSandbox]) -> Iterator[list[ToSandbox]]:
    """The frames in messages of a size that either side can hold."""
    message: list[ToSandbox] = []
    size = 0
    for frame in frames:
        message.append(frame)
        match frame:
            case Entries():
                size += sum(map(len, frame.entries))
            case FacetImage():
                size += len(frame.data)
            case _:
                pass
        if size >= MESSAGE_BYTES:
            yield message
            message, size = [], 0
    if message:
        yield message
