"""The outside witness of a server that dies: it keeps every acknowledgement, and afterwards checks them against the disk.

`Server` is one server process (forked from a clean template process that has imported everything, so that a start costs
no imports; never from the test's own process). `World` is one data directory over the lives of many servers.

Laws, checked by `World.check_after_death` and `World.check_finished`:
- what was acknowledged, or said to be journaled, is in the journals that the dead process left;
- journals only grow: what was on disk at a death is a prefix of what is there at the end, byte for byte;
- a step attempt that is journaled never executes again, neither in a later process nor in the same one;
- every instance completes on the commit that it was pinned to when it was started, and every value in its result comes
  from that commit's code;
- the facet holds each step's row exactly once.
"""

from __future__ import annotations

import functools
import io
import multiprocessing
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import facets
from executor.core import codec, entries
from executor.core.entries import HIDDEN, AnyEntry
from tests.scenarios import crash_server

TIMEOUT_S = 30.0

Key = tuple[str, str]


class ServerDied(Exception):
    """The process ended before it answered."""


class CallRefused(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Server:
    """One process. `record` is everything that it has said so far, in order."""

    def __init__(self, data_dir: Path, *, point: str = "", nth: int = 1, **settings: Any) -> None:
        self.record: list[tuple[Any, ...]] = []
        self._answers: dict[int, tuple[Any, ...]] = {}
        self._numbers = 0
        self._changed = threading.Condition()
        self.is_over = False
        template = _template()
        requests_far, self._requests = template.Pipe(duplex=False)
        told, told_far = template.Pipe(duplex=False)
        self.process = template.Process(
            target=_serve, args=(data_dir, requests_far, told_far, point, nth, settings), daemon=True
        )
        self.process.start()
        requests_far.close()
        told_far.close()
        self._reader = threading.Thread(target=self._read, args=(told,), daemon=True)
        self._reader.start()

    def _read(self, told: Connection) -> None:
        with told:
            while True:
                try:
                    message = told.recv()
                except (EOFError, OSError):
                    break
                with self._changed:
                    self.record.append(message)
                    if message[0] in ("answer", "refused"):
                        self._answers[message[1]] = message
                    self._changed.notify_all()
        with self._changed:
            self.is_over = True
            self._changed.notify_all()

    def wait_ready(self) -> Server:
        """Return once it takes calls. Raises ServerDied."""
        self._wait(lambda: self.said("ready"))
        return self

    def wait_for(self, is_true: Callable[[list[tuple[Any, ...]]], bool]) -> None:
        """Return once that is true of `record`. Raises ServerDied."""
        self._wait(lambda: is_true(self.record))

    def said(self, what: str) -> list[tuple[Any, ...]]:
        """Its messages of this kind."""
        return [message for message in self.record if message[0] == what]

    def post(self, method: str, *args: Any, **kwargs: Any) -> int:
        """Ask, and do not wait."""
        with self._changed:
            self._numbers += 1
            number = self._numbers
        try:
            self._requests.send((number, method, args, kwargs))
        except OSError:
            raise ServerDied from None
        return number

    def answer(self, number: int) -> Any:
        """The answer to that question. Raises CallRefused, ServerDied."""
        self._wait(lambda: number in self._answers)
        kind, _, *facts = self._answers[number]
        if kind == "refused":
            raise CallRefused(*facts)
        return facts[0]

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Ask and wait."""
        return self.answer(self.post(method, *args, **kwargs))

    def _wait(self, is_true: Any) -> None:
        with self._changed:
            self._changed.wait_for(lambda: is_true() or self.is_over, TIMEOUT_S)
            if is_true():
                return
            if self.is_over:
                raise ServerDied
        raise AssertionError(f"nothing came for {TIMEOUT_S:g} s; the last messages: {self.record[-5:]}")

    def kill(self) -> int:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        return self.wait_over()

    def stop(self) -> int:
        """Ask it to stop in order, and wait for the end."""
        try:
            self._requests.send(None)
        except OSError:
            pass
        return self.wait_over()

    def wait_over(self, timeout_s: float = TIMEOUT_S) -> int:
        """The exit code once it has ended and all that it said is in `record`; negative: the signal."""
        self.process.join(timeout_s)
        assert self.process.exitcode is not None, f"still running; the last messages: {str(self.record[-9:])[:2000]}"
        self._reader.join(timeout_s)
        self._requests.close()
        return int(self.process.exitcode)


@functools.cache
def _template() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.scenarios.witness", "tests.scenarios.template"])
    return context


def _serve(
    data_dir: Path, requests: Connection, told: Connection, point: str, nth: int, settings: dict[str, Any]
) -> None:
    lock = threading.Lock()

    def tell(*message: Any) -> None:
        with lock:
            told.send(message)

    def receive() -> Any:
        try:
            return requests.recv()
        except (EOFError, OSError):
            return None

    raise SystemExit(crash_server.serve(data_dir, receive, tell, point=point, nth=nth, **settings))


@dataclass
class Expected:
    """What the witness knows of an instance. `commit` "": its start was not acknowledged yet."""

    workflow: str
    payload: Any
    commit: str = ""
    events: set[str] = field(default_factory=set)
    is_checked: bool = False


Durable = dict[Key, list[bytes]]


class World:
    """One data directory, its servers one after the other, and what the witness remembers."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.data_dir = folder / "data"
        self._folder = folder
        self.settings = settings
        self.server: Server | None = None
        self.instances: dict[Key, Expected] = {}
        self.deleted: set[Key] = set()
        self.markers: dict[str, str] = {}
        """commit -> what its code writes into every value"""
        self.history: list[tuple[Any, ...]] = []
        """What all servers said, and ("died", durable) at each death."""
        self.lives = 0

    @property
    def alive(self) -> Server:
        assert self.server is not None
        return self.server

    def start_server(self, *, point: str = "") -> Server:
        self.server = Server(self.data_dir, point=point, **self.settings)
        self.lives += 1
        return self.server

    def after_death(self) -> Durable:
        """The journals on disk, once the server is over; checked against what was acknowledged."""
        self.alive.wait_over()
        durable = self.read_disk()
        self.history += [*self.alive.record, ("died", durable)]
        self._check_acknowledged(durable)
        self.server = None
        return durable

    def close(self) -> None:
        if self.server is not None and not self.server.is_over:
            self.server.kill()

    def read_disk(self) -> Durable:
        """All journals as a recovery finds them; read from a copy, so that the real recovery is the next server's."""
        copy = self._folder / f"copy-{self.lives}"
        shutil.copytree(self.data_dir / "state", copy)
        try:
            with facets.StateStore.open(copy, fold="manual") as store:
                assert store.check() == []
                return {
                    key: [record.entry for record in store.journal(*key)]
                    for key in self.instances
                    if store.row(*key) is not None
                }
        finally:
            shutil.rmtree(copy)

    def _check_acknowledged(self, durable: Durable) -> None:
        said: dict[Key, int] = {}
        for message in self.alive.record:
            if message[0] == "journaled":
                for tenant, instance, sequence, *_ in message[1]:
                    said[tenant, instance] = max(said.get((tenant, instance), 0), sequence)
        for key, expected in self.instances.items():
            if key in self.deleted:
                continue
            journal = durable.get(key, [])
            assert len(journal) >= said.get(key, 0), f"{key}: entries that were said to be journaled are lost"
            decoded = codec.decode_journal(journal)
            if expected.commit:
                assert decoded, f"{key}: its acknowledged start is lost"
                assert isinstance(decoded[0], entries.Started)
                assert decoded[0].commit == expected.commit
            received = {entry.id for entry in decoded if isinstance(entry, entries.EventReceived)}
            assert expected.events <= received, f"{key}: acknowledged events are lost"

    # --- what the tests ask for; each remembers what was acknowledged

    def start(self, tenant: str, instance: str, workflow: str, payload: Any, **where: Any) -> str:
        """Start it, again if need be; its commit."""
        self.expect(tenant, instance, workflow, payload)
        status = self.alive.call("start", tenant, workflow, payload, id=instance, **where)
        self.acknowledge_start((tenant, instance), status)
        return str(status.commit)

    def expect(self, tenant: str, instance: str, workflow: str, payload: Any) -> Expected:
        """It is about to be started."""
        return self.instances.setdefault((tenant, instance), Expected(workflow, payload))

    def acknowledge_start(self, key: Key, status: Any) -> None:
        """Its start was answered with this status."""
        expected = self.instances[key]
        assert expected.commit in ("", status.commit), f"{key[1]} was moved to another commit"
        expected.commit = status.commit

    def send_event(self, tenant: str, instance: str, type: str, payload: Any, event_id: str) -> None:
        """Send it, again if need be."""
        expected = self.instances[tenant, instance]
        try:
            receipt = self.alive.call("send_event", tenant, instance, type, payload, event_id=event_id)
        except CallRefused as refused:
            # It was taken, and the instance went on to its end before the acknowledgement.
            if refused.code != "instance_finished":
                raise
        else:
            assert receipt.is_duplicate or event_id not in expected.events
        expected.events.add(event_id)

    def deploy(self, tenant: str, marker: str, source: str, **where: Any) -> str:
        """Deploy a version that writes `marker` into all it makes; its commit."""
        view = self.alive.call("deploy", tenant, {"workflows.py": source.encode()}, message=marker, **where)
        self.markers[view.commit] = marker
        return str(view.commit)

    def marker_of(self, tenant: str, commit: str) -> str:
        """Of a version whose deployment was not acknowledged, too."""
        if commit not in self.markers:
            self.markers[commit] = self.alive.call("version", tenant, commit).message
        return self.markers[commit]

    # --- the laws

    def check_executions(self) -> None:
        """No journaled attempt executes again: see the module's text."""
        journaled: set[tuple[str, str, str, int]] = set()
        for message in self.history + (self.server.record if self.server else []):
            match message:
                case ("journaled", facts):
                    for tenant, instance, _, kind, path, attempt in facts:
                        if kind in ("StepSucceeded", "AttemptFailed", "StepFailed"):
                            journaled.add((tenant, instance, path, attempt))
                case ("died", durable):
                    for (tenant, instance), stored in durable.items():
                        for entry in codec.decode_journal(stored):
                            if isinstance(entry, entries.StepSucceeded | entries.AttemptFailed | entries.StepFailed):
                                journaled.add((tenant, instance, entry.path, entry.attempt))
                case ("executed", tenant, instance, path, attempt):
                    again = (tenant, instance, path, attempt)
                    assert again not in journaled, f"{again} was journaled, and executed again"
                case _:
                    pass

    def check_grown(self, durable: Durable) -> None:
        """What was on disk at a death is a prefix of what is there now."""
        now = self.read_disk()
        for key, stored in durable.items():
            if key not in self.deleted:
                assert now[key][: len(stored)] == stored, f"{key}: its journal did not only grow"

    def journal(self, key: Key) -> list[AnyEntry]:
        """Without traces of how it was executed."""
        return [entry for entry in codec.decode_journal(self.read_disk()[key]) if type(entry) not in HIDDEN]

    def rows(self, key: Key, table: str = "note") -> list[tuple[Any, ...]]:
        """The rows of a table of the facet, as the sqlite3 module of Python reads it."""
        image = self.alive.call("facet", *key)
        with io.BytesIO(image):
            connection = sqlite3.connect(":memory:")
            try:
                connection.deserialize(image)
                return connection.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall()
            finally:
                connection.close()

    def unfinished(self) -> Iterable[Key]:
        return [key for key, expected in self.instances.items() if not expected.is_checked and key not in self.deleted]


def killed(code: int) -> bool:
    """Whether the process ended by SIGKILL."""
    return code == -signal.SIGKILL


def wait_until(is_true: Any, what: str, timeout_s: float = TIMEOUT_S) -> None:
    """For things that tell nobody when they become true (the end of a foreign process)."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.005)
