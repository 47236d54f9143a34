"""The program of a shard process: `python -m executor.shards.process FD`, where FD is its end of the channel.

It owns one store and runs an engine over it, and answers calls until it is told to stop or the front is gone. Without
its front it has no right to be: it ends at once, as by a kill, and everything goes on from its log at the next start.
Code is the front's: which bundle a commit has is asked over the channel.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import trio

from executor import logs
from executor.core.errors import Corrupt, PerdureError, Unavailable
from executor.engine.engine import EngineLimits
from executor.engine.local import LocalInstances
from executor.ports import CodeSource, Start
from executor.sandbox.cell import Isolation
from executor.shards.calls import METHODS, Setup
from executor.shards.channel import Call, Channel
from executor.shards.owner import owning
from executor.shards.remote import CalledPeers, CalledSlots
from executor.wire import innermost

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1

_INLINE_BYTES = 8 * 1024 * 1024
_LENT_S = 60.0
"""For so long a large image can be fetched from this process's memory; the front does so at once."""


async def _image(of: LocalInstances, tenant: str, name: str) -> bytes | list[str]:
    """The image; a large one as the path of a file in memory, which the front reads: it would fill the channel."""
    image = await of.image(tenant, name)
    if len(image) <= _INLINE_BYTES:
        return image
    descriptor = os.memfd_create("image")
    with open(descriptor, "wb", closefd=False) as file:  # noqa: ASYNC230 - memory
        file.write(image)
    trio.lowlevel.spawn_system_task(_forget, descriptor)
    return [f"/proc/{os.getpid()}/fd/{descriptor}"]


async def _forget(descriptor: int) -> None:
    try:
        await trio.sleep(_LENT_S)
    finally:
        os.close(descriptor)


_PERFORM: dict[str, Callable[..., Awaitable[Any]]] = {
    "outcome": lambda of, tenant, name, wait_s: of.outcome(tenant, name, wait_s=wait_s),
    "reschedule": lambda of, tenant, name, payload, start_at_ms, debounce: of.reschedule(
        tenant, name, payload=payload, start_at_ms=start_at_ms, debounce=debounce
    ),
    "send_event": lambda of, tenant, name, event, kind, payload: of.send_event(
        tenant, name, id=event, type=kind, payload=payload
    ),
    "page": lambda of, tenant, query, limit, after: of.page(tenant, query, limit=limit, after=after),
    "journal": lambda of, tenant, name, after, limit, wait_s: of.journal(
        tenant, name, after=after, limit=limit, wait_s=wait_s
    ),
    "output": lambda of, tenant, name, after, limit, wait_s: of.output(
        tenant, name, after=after, limit=limit, wait_s=wait_s
    ),
    "image": _image,
    "pause": lambda of, tenant, name, by: of.pause(tenant, name, by=by),
    "resume": lambda of, tenant, name, by: of.resume(tenant, name, by=by),
    "terminate": lambda of, tenant, name, undo, by: of.terminate(tenant, name, undo=undo, by=by),
    "restart": lambda of, tenant, name, from_step, by: of.restart(tenant, name, from_step=from_step, by=by),
    "retry": lambda of, tenant, name, by: of.retry(tenant, name, by=by),
    "query": lambda of, tenant, name, sql, parameters, limit: of.query(
        tenant, name, sql=sql, parameters=parameters, limit=limit
    ),
    "update": lambda of, tenant, name, update, handler, payload, wait_s: of.update(
        tenant, name, id=update, name=handler, payload=payload, wait_s=wait_s
    ),
    "ask": lambda of, tenant, name, handler, payload: of.ask(tenant, name, name=handler, payload=payload),
    "stream": lambda of, tenant, name, stream, offset, limit, wait_s: of.stream(
        tenant, name, name=stream, offset=offset, limit=limit, wait_s=wait_s
    ),
    "backup": lambda of, target: of.backup(Path(target)),
}
"""Methods of the port with arguments by name; all others take them by position."""
_LARGE = frozenset({"page", "journal", "output", "image", "blob_part", "query", "stream", "check"})
"""Whose answers may be large: they wait until the front has taken what was said before."""


class CalledCode:
    """The part of CodeSource that an engine uses, asked of the front. Called from worker threads."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._token = trio.lowlevel.current_trio_token()
        self._known: dict[tuple[str, str], Path] = {}

    def bundle(self, tenant: str, commit: str) -> Path:
        """A bundle is a cache and may be dropped meanwhile: then it is asked for again."""
        path = self._known.get((tenant, commit))
        if path is None or not path.exists():
            found = trio.from_thread.run(self._channel.call, "bundle", tenant, commit, trio_token=self._token)
            path = self._known[tenant, commit] = Path(found)
        return path


class Server:
    """Answers the front's calls."""

    def __init__(self, ours: socket.socket) -> None:
        self.channel = Channel(
            ours,
            on_calls=self._take,
            on_cancel=self._cancel,
            lost=Unavailable("the front is gone", code="shutting_down"),
        )
        self.slots = CalledSlots(self.channel)
        self.begun: tuple[int, Setup] | None = None
        self.stop_number = 0
        self.changed = trio.Event()
        self._instances: LocalInstances | None = None
        self._nursery: trio.Nursery | None = None
        self._scopes: dict[int, trio.CancelScope] = {}

    def serve(self, instances: LocalInstances, nursery: trio.Nursery) -> None:
        """From now on calls are answered."""
        self._instances, self._nursery = instances, nursery

    def _take(self, calls: list[Call]) -> None:
        starts: list[Call] = []
        for call in calls:
            if call.method == "start":
                starts.append(call)
            elif call.method == "slot_granted":
                self.slots.on_granted(*METHODS["slot_granted"].arguments(call.arguments))
            elif call.method == "open":
                self.begun = (call.number, METHODS["open"].arguments(call.arguments)[0])
                self.changed.set()
            elif call.method == "stop":
                self.stop_number = call.number
                self.changed.set()
            else:
                self._spawn(call)
        if not starts:
            return
        if self._nursery is None:
            for call in starts:
                self.channel.fail(call.number, _not_open())
        else:
            self._nursery.start_soon(self._start, starts)

    def _spawn(self, call: Call) -> None:
        if self._nursery is None:
            self.channel.fail(call.number, _not_open())
            return
        scope = self._scopes[call.number] = trio.CancelScope()
        self._nursery.start_soon(self._answer, call, scope)

    def _cancel(self, number: int) -> None:
        scope = self._scopes.get(number)
        if scope is not None:
            scope.cancel()

    async def _start(self, calls: list[Call]) -> None:
        """Single starts that came together share one group commit."""
        assert self._instances is not None
        try:
            starts = [cast("Start", METHODS["start"].arguments(call.arguments)[0]) for call in calls]
            answers = await self._instances.start_many(starts)
        except Exception as error:
            told = _told(error, "start")
            for call in calls:
                self.channel.fail(call.number, told)
            return
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, PerdureError):
                self.channel.fail(call.number, answer)
            else:
                self.channel.answer(call.number, answer)

    async def _answer(self, call: Call, scope: trio.CancelScope) -> None:
        assert self._instances is not None
        name = call.method
        try:
            with scope:
                if name in _LARGE:
                    await self.channel.room()
                perform = _PERFORM.get(name)
                arguments = METHODS[name].arguments(call.arguments)
                if perform is None:
                    value = await getattr(self._instances, name)(*arguments)
                else:
                    value = await perform(self._instances, *arguments)
                self.channel.answer(call.number, value)
        except Exception as error:  # the process's border: whatever it is belongs to who asked
            self.channel.fail(call.number, _told(error, name))
        finally:
            self._scopes.pop(call.number, None)


def _told(error: Exception, method: str) -> PerdureError:
    inner = innermost(error)
    if isinstance(inner, PerdureError):
        return inner
    log.error("a call failed", exc_info=error, extra={"method": method})
    return PerdureError("a shard process failed at this call", hint="Its log has the details.")


def _not_open() -> Unavailable:
    return Unavailable("the shard process is not open yet", code="busy", hint="Try again.", retry_after_s=1)


async def serve(ours: socket.socket) -> int:
    """Open, answer until told to stop, close in good order; the exit code."""
    server = Server(ours)
    channel = server.channel
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_carry, channel)
        await server.changed.wait()
        if server.begun is None:
            return 1
        number, setup = server.begun
        server.changed = trio.Event()
        logs.setup(setup.log_level, setup.log_format)
        is_open = False
        try:
            async with _owned(setup, channel, server.slots) as instances, trio.open_nursery() as answering:
                server.serve(instances, answering)
                channel.answer(number, None)
                is_open = True
                await server.changed.wait()
                answering.cancel_scope.cancel()
        except (PerdureError, BaseExceptionGroup) as error:
            inner = innermost(error)
            if not isinstance(inner, PerdureError):
                if not isinstance(inner, Exception):
                    raise
                log.exception("the shard process failed")
                inner = Corrupt("a shard process failed; its log has the details", code="internal")
            channel.fail(0 if is_open else number, inner)
            await channel.flushed()
            nursery.cancel_scope.cancel()
            return 1
        channel.answer(server.stop_number, None)
        await channel.flushed()
        nursery.cancel_scope.cancel()
    return 0


async def _carry(channel: Channel) -> None:
    await channel.run()
    os._exit(1)  # the front is gone; nothing acknowledged is lost by it


def _owned(setup: Setup, channel: Channel, slots: CalledSlots) -> Any:
    return owning(
        Path(setup.path),
        setup.place,
        cast("CodeSource", CalledCode(channel)),  # the engine uses this much of it
        isolation=Isolation.CELL if setup.is_confined else Isolation.NONE,
        hash_seed=setup.hash_seed,
        limits=EngineLimits(
            active_runs_max=setup.active_runs_max,
            sandboxes_max=setup.sandboxes_max,
            sandbox_idle_s=setup.sandbox_idle_s,
            retain_complete_s=setup.retain_complete_s,
            retain_failed_s=setup.retain_failed_s,
            unloads_at_every_wait=setup.unloads_at_every_wait,
            steps_max=setup.steps_max,
            journal_bytes_max=setup.journal_bytes_max,
            history_bytes_max=setup.history_bytes_max,
            resident_bytes_max=setup.resident_bytes_max,
        ),
        facet_bytes_max=setup.facet_bytes_max,
        blobs_bytes_max=setup.blobs_bytes_max,
        peers=lambda _instances: CalledPeers(channel),
        slots=slots,
    )


def main() -> None:
    """See the module's text."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        # A terminal or a service manager tells all processes of a group; the front decides. Not SIG_IGN, which the
        # sandboxes would inherit.
        signal.signal(number, lambda _number, _frame: None)
    try:
        ours = socket.socket(fileno=int(sys.argv[1]))
    except (IndexError, ValueError, OSError):
        sys.exit("this program is started by the executor")
    sys.exit(trio.run(partial(serve, ours)))


if __name__ == "__main__":
    main()
