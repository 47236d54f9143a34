"""A real server process that can be told to die at a named point, and that tells a witness outside what happens.

It is the executor as `executor.main.running` composes it, over real stores and real sandboxes. Only this process wraps
what it is made of; the product has no hooks. Two pipes lead out: requests come in on one; on the other go, in the order
in which they became true, what the witness must remember:

    ("ready", epoch)                               the executor takes calls
    ("answer", number, value)                      a call was acknowledged
    ("refused", number, code, message)             a call was refused
    ("executed", tenant, instance, step, attempt)  a step's code ran (it prints a line that begins with MARK)
    ("journaled", [(tenant, instance, sequence, kind, path, attempt), …])    an append returned
    ("hit", point)                                 the named point was reached for the n-th time: SIGKILL follows
    ("stopped",), ("failed", code, message)        the executor ended in order, or with an error

Run by `witness.Server`, or by hand: `python -m tests.scenarios.crash_server DATA_DIR [POINT [N]]` (then it reads
Python literals `(number, method, args, kwargs)` line by line and prints what it would tell).
"""

from __future__ import annotations

import ast
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import trio

import facets
import facets.fold
import facets.log
import facets.output
import gitstore
import gitstore.channels
import gitstore.database
import gitstore.maintenance
import gitstore.mirror
import gitstore.prepare
import gitstore.quarantine
from executor import main
from executor.adapters.code import GitCodeSource
from executor.adapters.code_errors import translated as code_translated
from executor.adapters.state import FacetsStateStore, translated
from executor.config import Config
from executor.core import codec, entries
from executor.core.errors import PerdureError
from executor.engine.engine import Engine
from executor.engine.output import OutputBuffer
from executor.ports import Append
from executor.sandbox.pool import SandboxHost
from executor.service import ADMINISTRATOR, Service
from executor.shards import owner
from tests.facets.faulty_vfs import FaultyVFS

MARK = "@executes"
ADMIN_TOKEN = "crash-server-admin-token"

KINDS: dict[type, str] = {
    entries.Started: "start",
    entries.EventReceived: "event",
    entries.StepSucceeded: "step",
    entries.AttemptFailed: "failed attempt",
    entries.SleepStarted: "sleep",
    entries.SleepEnded: "wake",
    entries.WaitStarted: "wait",
    entries.WaitEnded: "end of a wait",
    entries.Completed: "completion",
    entries.Paused: "pause",
    entries.Resumed: "resume",
}
ROW_ONLY = "rest"
"""A record without an entry: the row says that the instance rests."""

POINTS: tuple[str, ...] = (
    *(f"{when} the append of a {kind}" for kind in (*KINDS.values(), ROW_ONLY) for when in ("before", "after")),
    "append: written, not committed",
    "start: before the pin of the commit",
    "start: commit pinned, not journaled",
    "deploy: before the bundle",
    "deploy: bundle published, objects not",
    "deploy: pack moved, its index not",
    "deploy: objects published, rows not",
    "deploy: in the transaction of the rows",
    "deploy: rows committed, mirror not written",
    "deploy: mirror written, not answered",
    "move of a channel: rows committed, mirror not written",
    "sandbox: before it is opened",
    "sandbox: opened, no run in it",
    "output: written, not committed",
    "output: committed",
    "fold: written, not committed",
    "fold: committed, log not trimmed",
    "fold: state safe, log not trimmed",
    "fold: log trimmed",
    "garbage: new pack there, old ones not deleted",
    "garbage: an index deleted, its pack not",
    "garbage: objects collected, bundles not",
    "deletion: before an instance is deleted",
    "deletion: instance deleted, not answered",
    "deletion: state of a tenant deleted, its code not",
    "recovery: state read, not serving",
    "stop: in order, before the stores are closed",
)


class Tell(Protocol):
    def __call__(self, *message: Any) -> None: ...


class Points:
    """Counts how often the armed point is reached, and dies there."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._armed = ""
        self._left = 0

    def arm(self, point: str, nth: int = 1) -> None:
        assert point in POINTS, point
        with self._lock:
            self._armed, self._left = point, nth

    def reach(self, point: str) -> None:
        assert point in POINTS, point
        with self._lock:
            if point != self._armed:
                return
            self._left -= 1
            if self._left:
                return
            self._tell("hit", point)
            os.kill(os.getpid(), signal.SIGKILL)


def wrap(points: Points, tell: Tell, disk: FaultyVFS | None, history_kept: int) -> None:
    """Put the points around what the executor is made of, in this process; its state on `disk`, if there is one."""
    wrap_state(points, tell, disk)
    wrap_log_and_fold(points)
    wrap_code(points, history_kept)
    wrap_engine(points, tell)


def facts(records: Sequence[Append]) -> list[tuple[str, str, int, str, str, int]]:
    """What the witness remembers of records."""
    found = []
    for record in records:
        if record.sequence:
            entry, _ = codec.decode(record.entry)
            kind = type(entry).__name__
            path, attempt = getattr(entry, "path", ""), getattr(entry, "attempt", 0)
            found.append((record.tenant, record.instance, record.sequence, kind, path, attempt))
    return found


def kinds(records: Sequence[Append]) -> list[str]:
    """The kinds of records that have points, each once, in order."""
    found = [KINDS.get(type(codec.decode(record.entry)[0])) if record.sequence else ROW_ONLY for record in records]
    return list(dict.fromkeys(kind for kind in found if kind is not None))


def wrap_state(points: Points, tell: Tell, disk: FaultyVFS | None) -> None:
    class State(FacetsStateStore):
        @classmethod
        @translated
        def open(cls, path: Path, **_: Any) -> FacetsStateStore:
            # Folds and trims all the time, so that every crash meets them.
            limits = facets.Limits(fold_interval_ms=20, log_bytes_max=40_000)
            return cls(facets.StateStore.open(path, limits=limits, vfs=None if disk is None else disk.name))

        def append(self, records: Sequence[Append]) -> None:
            for kind in kinds(records):
                points.reach(f"before the append of a {kind}")
            super().append(records)
            tell("journaled", facts(records))
            for kind in kinds(records):
                points.reach(f"after the append of a {kind}")

        def close(self) -> None:
            if disk is not None:
                # A file system's own error while SQLite closes a file is its to ignore; one raised in Python is not.
                disk.failing_sync = None
            super().close()

        def delete(self, tenant: str, instance: str) -> None:
            points.reach("deletion: before an instance is deleted")
            super().delete(tenant, instance)
            points.reach("deletion: instance deleted, not answered")

    owner.FacetsStateStore = State  # type: ignore[misc]  # this process only


def before_commit(module: Any, on_commit: Callable[[], None]) -> None:
    """`on_commit` runs at the end of each transaction of the module, before its COMMIT."""
    plain = module.transaction

    @contextmanager
    def transaction(connection: Any, path: Path) -> Iterator[None]:
        with plain(connection, path):
            yield
            on_commit()

    module.transaction = transaction


def wrap_log_and_fold(points: Points) -> None:
    here = threading.local()

    def around(owner: Any, name: str, *, before: str = "", after: str = "", flag: str = "") -> None:
        around_method(points, owner, name, before=before, after=after, here=here, flag=flag)

    around(facets.log.CommitLog, "append", flag="appends")
    around(facets.log.CommitLog, "trim", before="fold: state safe, log not trimmed", after="fold: log trimmed")
    around(facets.fold.Fold, "trim", before="fold: committed, log not trimmed")
    around(facets.output.OutputStore, "append", after="output: committed", flag="prints")
    before_commit(facets.fold, lambda: points.reach("fold: written, not committed"))

    def in_log() -> None:
        if getattr(here, "appends", False):
            points.reach("append: written, not committed")

    def in_output() -> None:
        if getattr(here, "prints", False):
            points.reach("output: written, not committed")

    before_commit(facets.log, in_log)
    before_commit(facets.output, in_output)


def around_method(
    points: Points, owner: Any, name: str, *, before: str = "", after: str = "", here: Any = None, flag: str = ""
) -> None:
    plain = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if before:
            points.reach(before)
        if flag:
            setattr(here, flag, True)
        try:
            result = plain(*args, **kwargs)
        finally:
            if flag:
                setattr(here, flag, False)
        if after:
            points.reach(after)
        return result

    setattr(owner, name, call)


def wrap_code(points: Points, history_kept: int) -> None:
    class Code(GitCodeSource):
        @classmethod
        @code_translated
        def open(cls, path: Path, *, pack_bytes_max: int) -> GitCodeSource:
            limits = gitstore.Limits(pack_bytes_max=pack_bytes_max, channel_history_kept=history_kept)
            return cls(gitstore.GitStore.open(path, limits=limits))

        def keep_for_instances(self, tenant: str, commit: str) -> None:
            points.reach("start: before the pin of the commit")
            super().keep_for_instances(tenant, commit)
            points.reach("start: commit pinned, not journaled")

        def delete_tenant(self, name: str) -> None:
            points.reach("deletion: state of a tenant deleted, its code not")
            super().delete_tenant(name)

    main.GitCodeSource = Code  # type: ignore[misc]  # this process only
    here = threading.local()

    def around(owner: Any, name: str, *, before: str = "", after: str = "", flag: str = "") -> None:
        around_method(points, owner, name, before=before, after=after, here=here, flag=flag)

    around(
        gitstore.prepare,
        "analysis_and_bundle",
        before="deploy: before the bundle",
        after="deploy: bundle published, objects not",
    )
    around(gitstore.quarantine.Quarantine, "publish", flag="publishes")
    around(gitstore.channels, "add_move", after="deploy: in the transaction of the rows")
    around(
        gitstore.database.Database,
        "commit_push",
        before="deploy: objects published, rows not",
        after="deploy: rows committed, mirror not written",
    )
    around(gitstore.mirror, "rewrite", after="deploy: mirror written, not answered")
    around(gitstore.mirror, "refresh", before="move of a channel: rows committed, mirror not written")
    around(gitstore.maintenance, "_write_pack", after="garbage: new pack there, old ones not deleted", flag="_")
    around(gitstore.maintenance, "_collect_objects", flag="collects")
    around(gitstore.database.Database, "forget_bundles", before="garbage: objects collected, bundles not")
    plain_rename, plain_unlink = Path.rename, Path.unlink

    def rename(path: Path, target: Any) -> Path:
        result = plain_rename(path, target)
        if getattr(here, "publishes", False) and path.suffix == ".pack":
            points.reach("deploy: pack moved, its index not")
        return result

    def unlink(path: Path, missing_ok: bool = False) -> None:
        plain_unlink(path, missing_ok)
        if getattr(here, "collects", False) and path.suffix == ".idx":
            points.reach("garbage: an index deleted, its pack not")

    Path.rename, Path.unlink = rename, unlink  # type: ignore[method-assign]  # this process only


def wrap_engine(points: Points, tell: Tell) -> None:
    plain_add, plain_open = OutputBuffer.add, SandboxHost.open
    plain_recover, plain_stop = Engine._recover, Engine._stop

    def add(self: OutputBuffer, line: Any) -> None:
        if line.text.startswith(MARK):
            tell("executed", line.tenant, line.instance, line.step, line.attempt)
        plain_add(self, line)

    async def open_(self: SandboxHost, spec: Any) -> Any:
        points.reach("sandbox: before it is opened")
        sandbox = await plain_open(self, spec)
        points.reach("sandbox: opened, no run in it")
        return sandbox

    async def recover(self: Engine) -> None:
        await plain_recover(self)
        points.reach("recovery: state read, not serving")

    async def stop(self: Engine) -> None:
        await plain_stop(self)
        points.reach("stop: in order, before the stores are closed")

    OutputBuffer.add = add  # type: ignore[method-assign]  # this process only, as below
    SandboxHost.open = open_  # type: ignore[method-assign, assignment]
    Engine._recover = recover  # type: ignore[method-assign]
    Engine._stop = stop  # type: ignore[method-assign]


# --- the process


class Serving:
    """Calls of the service by name, each in a task of its own; and a few questions of the tests."""

    def __init__(self, receive: Callable[[], Any], tell: Tell, points: Points, disk: FaultyVFS | None) -> None:
        self._receive = receive
        self._disk = disk
        self._tell = tell
        self._points = points
        self._hosts: list[SandboxHost] = []

    async def run(self, data_dir: Path, settings: dict[str, Any]) -> None:
        host_run, hosts = SandboxHost.run, self._hosts

        async def noted_run(host: SandboxHost, **kwargs: Any) -> None:
            hosts.append(host)
            await host_run(host, **kwargs)

        SandboxHost.run = noted_run  # type: ignore[method-assign, assignment]
        config = Config(data_dir=data_dir, admin_token=ADMIN_TOKEN, **settings)
        async with main.running(config) as service:
            self._tell("ready", (await service.health()).epoch)
            async with trio.open_nursery() as nursery:
                while True:
                    request = await trio.to_thread.run_sync(self._receive, abandon_on_cancel=True)
                    if request is None:
                        break
                    nursery.start_soon(self._answer, service, *request)
                nursery.cancel_scope.cancel()
        self._tell("stopped")

    async def _answer(self, service: Service, number: int, method: str, args: Any, kwargs: Any) -> None:
        try:
            if method == "arm":
                value: Any = self._points.arm(*args)
            elif method == "processes":
                value = self._processes()
            elif method == "push":
                value = await self._push(service, *args)
            elif method == "disk":
                # Which fault it has from now on, and for which files.
                assert self._disk is not None
                value = setattr(self._disk, *args)
            elif method == "undo":
                value = await trio.to_thread.run_sync(code_translated(lambda: self._git(service).undo(*args, who="me")))
            elif method == "verify":
                value = await trio.to_thread.run_sync(code_translated(lambda: self._git(service).verify(*args)))
            else:
                value = await getattr(service, method)(ADMINISTRATOR, *args, **kwargs)
        except PerdureError as error:
            self._tell("refused", number, error.code, error.message)
        else:
            self._tell("answer", number, value)

    def _git(self, service: Service) -> gitstore.GitStore:
        """What has no surface yet is asked of the store itself."""
        return service._code._store  # type: ignore[attr-defined, no-any-return]  # the adapter's own

    async def _push(self, service: Service, tenant: str, body: Any) -> bytes:
        chunks = await service.git_exchange(ADMINISTRATOR, tenant, "git-receive-pack", body, protocol=None)
        return b"".join([chunk async for chunk in chunks])

    def _processes(self) -> dict[str, list[int]]:
        """Process ids of the sandboxes, and of what forks them."""
        sandboxes = [sandbox.pid for host in self._hosts for sandbox in host.sandboxes.values()]
        cells = [host.opener.cell.process.pid for host in self._hosts if host.opener.cell is not None]
        return {"sandboxes": sandboxes, "cells": cells}


def serve(
    data_dir: Path,
    receive: Callable[[], Any],
    tell: Tell,
    *,
    point: str = "",
    nth: int = 1,
    faulty: bool = False,
    history_kept: int = 50,
    **settings: Any,
) -> int:
    """Run until asked to stop (0), or until the executor fails (1). `receive`: the next request, None for the end.

    `history_kept`: versions of each channel that a garbage collection keeps for its history.
    `faulty`: the state is on a disk that gets faults on request (`tests.facets.faulty_vfs`).
    """
    disk = FaultyVFS() if faulty else None
    points = Points(tell)
    if point:
        points.arm(point, nth)
    wrap(points, tell, disk, history_kept)
    try:
        trio.run(Serving(receive, tell, points, disk).run, data_dir, settings)
    except PerdureError as error:
        tell("failed", error.code, error.message)
        return 1
    except BaseException as error:
        tell("failed", type(error).__name__, repr(error))
        raise
    return 0


def _by_hand(arguments: list[str]) -> int:
    lock = threading.Lock()

    def tell(*message: Any) -> None:
        with lock:
            print(message, flush=True)

    def receive() -> Any:
        line = sys.stdin.readline()
        return ast.literal_eval(line) if line.strip() else None

    data_dir, point, nth = Path(arguments[0]), *(*arguments[1:], "", "1")[:2]
    return serve(data_dir, receive, tell, point=point, nth=int(nth))


if __name__ == "__main__":
    sys.exit(_by_hand(sys.argv[1:]))
