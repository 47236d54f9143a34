"""ShardProcess: starts a shard process, carries calls to it, starts it again when it dies, stops it in good order.

A process that dies takes nothing with it: what was acknowledged is in its log, and the next one goes on from there.
Those who wait for its answers are told at once to try again. One that says that its store is broken, or somebody
else's, stops the whole executor: it is never started again over a write that failed.
"""

from __future__ import annotations

import logging
import os
import site
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from executor.core.errors import PerdureError, Unavailable
from executor.engine.peers import NoPeers
from executor.ports import CodeSource, Peers, Share
from executor.shards.calls import METHODS, Setup
from executor.shards.channel import Call, Channel
from executor.shards.slots import SlotLedger
from executor.wire import innermost

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "executor.shards.process")
BACKOFF_S = 0.1
BACKOFF_MAX_S = 10.0
STEADY_S = 30.0
"""A life this long was no failed start: the next one begins at once."""
STOP_S = 30.0
"""After this the process is killed: more than steps get to finish, and the last fold."""


class ShardProcess:
    """See the module's text. `run` is its life."""

    def __init__(self, setup: Setup, code: CodeSource, *, command: Sequence[str] = COMMAND) -> None:
        """`command`: of the program, to which the number of its end of the channel is added."""
        self._setup = setup
        self._command = list(command)
        self._code = code
        self.peers: Peers = NoPeers()
        """Who answers what instances of this process ask of others."""
        self.slots = SlotLedger()
        """One for all processes: what limits let begin."""
        self._shares: dict[str, Share] = {}
        """What tenants get that do not get the default."""
        self._channel: Channel | None = None
        self._nursery: trio.Nursery | None = None
        self._is_stopping = False
        self._stopped = trio.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._scope = trio.CancelScope()
        self.lives = 0

    @property
    def pid(self) -> int | None:
        """The present process, if there is one."""
        return None if self._process is None else self._process.pid

    async def call(self, name: str, *arguments: Any) -> Any:
        """See `Channel.call`. Raises Unavailable at once while the process is being started."""
        if self._channel is None:
            raise self._lost()
        return await self._channel.call(name, *arguments)

    async def set_share(self, tenant: str, share: Share) -> None:
        """Tell this life of the process what a tenant gets, and each one that follows."""
        if share == Share():
            self._shares.pop(tenant, None)
        else:
            self._shares[tenant] = share
        if self._channel is not None:
            await self._channel.call("set_share", tenant, share)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a process alive until `stop`. Started once the first one answers; raises why it could not be opened,
        and later why the executor must stop."""
        with self._scope:
            pause_s = BACKOFF_S
            while not self._stop_is_asked():
                began = trio.current_time()
                try:
                    await self._live(task_status)
                except PerdureError as error:
                    if not self.lives or not isinstance(error, Unavailable):
                        raise
                    log.warning("a shard process cannot be opened", extra=self._facts(error=str(error)))
                if self._stop_is_asked():
                    break
                log.error("a shard process ended and is started again", extra=self._facts())
                pause_s = BACKOFF_S if trio.current_time() - began > STEADY_S else min(2 * pause_s, BACKOFF_MAX_S)
                await trio.sleep(pause_s)
        self._stopped.set()

    async def stop(self) -> None:
        """Let steps finish, close the store, end the process. Shielded by the caller."""
        self._is_stopping = True
        if self._channel is not None:
            with trio.move_on_after(STOP_S):
                try:
                    await self._channel.call("stop")
                    await self._stopped.wait()
                except PerdureError as error:
                    log.warning("a shard process ended before it was stopped", extra=self._facts(error=str(error)))
        self._scope.cancel()

    def _stop_is_asked(self) -> bool:
        return self._is_stopping

    def _facts(self, **more: Any) -> dict[str, Any]:
        return {"shard_process": self._setup.number, **more}

    def _lost(self) -> Unavailable:
        if self._is_stopping:
            return Unavailable("the executor is stopping", code="shutting_down", hint="Try again when it is back.")
        return Unavailable(
            "the process that has this instance ended, and is being started again",
            code="busy",
            hint="Nothing acknowledged is lost; try again after a second.",
            retry_after_s=1,
        )

    async def _live(self, task_status: trio.TaskStatus[None]) -> None:
        """One process, from its start to its end. Raises PerdureError: it could not be opened, or must not go on."""
        ours, theirs = socket.socketpair()
        with theirs, _making(ours):
            # In this thread and not in a worker: the kernel ties the process's life to the thread that made it.
            process = self._process = subprocess.Popen(  # noqa: ASYNC220
                [*self._command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_environment(),
            )
        channel: Channel
        channel = Channel(
            ours, on_calls=lambda calls: self._take(calls, channel), on_cancel=lambda _number: None, lost=self._lost()
        )
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(_carry, channel, nursery)
                await channel.call("open", self._setup)
                for tenant, share in list(self._shares.items()):
                    await channel.call("set_share", tenant, share)
                self._channel = channel
                self.lives += 1
                if self.lives == 1:
                    # It outlives a cancellation from outside: stopping in order needs it.
                    self._scope.shield = True
                    task_status.started()
        except (PerdureError, BaseExceptionGroup) as error:
            failure = innermost(error)
            if not isinstance(failure, PerdureError):
                raise
        finally:
            self._channel = self._nursery = None
            with trio.CancelScope(shield=True):
                await _ended(process)
            self._process = None
            self.slots.lost(channel)
        failure = channel.end or failure
        if failure is not None:
            raise failure

    def _take(self, calls: list[Call], channel: Channel) -> None:
        # They come as soon as the process recovers what was active: before it says that it is open.
        assert self._nursery is not None
        for call in calls:
            if call.method == "take_slot":
                channel.answer(call.number, self.slots.take(channel, *METHODS["take_slot"].arguments(call.arguments)))
            elif call.method == "give_slot":
                self.slots.give(channel, *METHODS["give_slot"].arguments(call.arguments))
            else:
                self._nursery.start_soon(self._answer, call, channel)

    async def _answer(self, call: Call, channel: Channel) -> None:
        """What a shard process asks. It may come back to that same process, as a call of its own: there nobody waits
        for room, so none of the two keeps the other from being answered."""
        try:
            value = await self._value(call)
        except PerdureError as error:
            channel.fail(call.number, error)
        else:
            channel.answer(call.number, value)

    async def _value(self, call: Call) -> Any:
        arguments = METHODS[call.method].arguments(call.arguments)
        match call.method:
            case "bundle":
                return str(await trio.to_thread.run_sync(self._code.bundle, *arguments))
            case "start_children":
                return await self.peers.start_children(*arguments)
            case "child_ended":
                return await self.peers.child_ended(*arguments)
            case "close_children":
                return await self.peers.close_children(*arguments)
            case method:
                raise AssertionError(f"a shard process does not call {method}")


@contextmanager
def _making(ours: socket.socket) -> Iterator[None]:
    """A process that cannot be made (no memory, too many processes) is one that may be made later."""
    try:
        yield
    except OSError as error:
        ours.close()
        raise Unavailable(
            f"a shard process cannot be started: {error.strerror}", code="busy", hint="See what the machine lacks."
        ) from error


async def _carry(channel: Channel, nursery: trio.Nursery) -> None:
    try:
        await channel.run()
    finally:
        nursery.cancel_scope.cancel()


async def _ended(process: subprocess.Popen[bytes]) -> None:
    """The channel is closed: the process ends by itself at once. It is killed if it does not."""
    with trio.move_on_after(1) as late:
        await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
    if late.cancelled_caught:
        process.kill()
        await trio.to_thread.run_sync(process.wait)


def _environment() -> dict[str, str]:
    """Ours, with a place where the same packages are found, if the interpreter does not look there by itself."""
    root = str(Path(__file__).parents[2])
    environment = dict(os.environ)
    if root not in site.getsitepackages():
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    return environment
