"""Whatever becomes of attempts, sandboxes, processes and executions: what a journal names has exactly its bytes, and what
none names takes no room in the end."""

from __future__ import annotations

import random
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from executor.adapters.state import FacetsStateStore
from executor.engine.blobs import Blobs
from executor.engine.resident import Run
from executor.ports import Append, Row
from executor.sandbox.protocol import BlobPart, BlobStored, NeedBlob, PutBlob

PATHS = ("a#1", "b#1", "c#1")
QUICK = settings.default.max_examples if settings.default is not None else 50
MOVES = st.sampled_from(
    ["begin", "begin", "put", "put", "put", "succeed", "succeed", "fail", "kill sandbox", "kill", "restart", "continue"]
)


class _Sandbox:
    """A warm one: what it is sent is there to be looked at."""

    is_dead = False

    def __init__(self) -> None:
        self.sandbox = self
        self.taken: list[Any] = []

    async def send(self, frames: list[Any]) -> None:
        self.taken += frames


class _World:
    def __init__(self, path: Path, chance: random.Random) -> None:
        self.path = path
        self.chance = chance
        self.named: dict[str, int] = {}
        self.past: list[dict[str, int]] = [{}]
        self.bytes: dict[int, bytes] = {}
        self.writing: dict[str, int] = {}
        self.number = 0
        self.store = FacetsStateStore.open(path)
        row = Row("waiting", None, "W", "c" * 40, 1, 1, b"", b"")
        self.store.append([Append("acme", "i", 1, b"started", None, row)])
        self._begin()

    def _begin(self) -> None:
        """A run, of an executor that may be new."""
        self.warm = _Sandbox()
        self.run = Run(1, self.warm, 0, 0)  # type: ignore[arg-type]
        self.resident = SimpleNamespace(
            key=("acme", "i"),
            instance=SimpleNamespace(blobs=self.named),
            row=self.store.row("acme", "i"),
            is_settled=True,
            run=self.run,
        )
        self.blobs = Blobs(SimpleNamespace(store=self.store))  # type: ignore[arg-type]
        self.writing = {}

    async def sweep(self) -> None:
        swept = self.blobs.to_sweep(self.resident)  # type: ignore[arg-type]
        if swept is not None:
            await self.blobs.sweep(*swept)

    async def ask(self, question: PutBlob | NeedBlob) -> Any:
        assert self.blobs.accept(self.warm, question) is None  # type: ignore[arg-type]
        await self.blobs.answer(self.warm, (self.run, self.resident), question)  # type: ignore[arg-type]
        return self.warm.taken.pop()

    async def move(self, move: str) -> None:
        free = [path for path in PATHS if path not in self.named]
        fresh = [path for path in free if path not in self.writing] or free
        open_ = fresh if move == "begin" else sorted(self.writing)
        path = self.chance.choice(open_) if open_ else ""
        match move:
            case "begin" if path:
                self.number += 1
                self.writing[path] = id_ = self.chance.getrandbits(62) + 1
                self.bytes[id_] = b""
            case "put" if path:
                id_ = self.writing[path]
                parts = [
                    self.chance.randbytes(self.chance.randrange(1, 900)) for _ in range(self.chance.randrange(1, 5))
                ]
                count = len(await self.parts(id_))
                assert await self.ask(PutBlob(1, 1, path, id_, count, parts)) == BlobStored(1, 1)
                self.bytes[id_] += b"".join(parts)
            case "succeed" if path and self.bytes[self.writing[path]]:
                self.past.append(dict(self.named))
                self.named[path] = self.writing.pop(path)
            case "fail":
                self.writing.pop(path, None)
            case "kill sandbox":
                await self.sweep()
                self._begin()
                await self.sweep()
            case "kill":
                self.store._store._thread.stop()
                self.store._store._blobs.close()
                self.store._store._lock.release()
                self.store = FacetsStateStore.open(self.path)
                self._begin()
                await self.sweep()
            case "restart":
                at = self.chance.randrange(len(self.past))
                self.named, self.past = dict(self.past[at]), self.past[: at + 1]
                self._begin()
                await self.sweep()
            case "continue":
                self.named, self.past = {}, [{}]
                self._begin()
                await self.sweep()
            case _:
                pass

    async def parts(self, id_: int) -> list[bytes]:
        found: list[bytes] = []
        while (answer := await self.ask(NeedBlob(1, 1, id_, len(found)))).data is not None:
            assert isinstance(answer, BlobPart)
            found.append(answer.data)
        return found

    async def check(self) -> None:
        for id_ in self.named.values():
            assert b"".join(await self.parts(id_)) == self.bytes[id_]

    def end(self) -> None:
        self.store._store.fold()
        assert self.store.check() == []
        self.store.close()
        if (self.path / "blobs.db").exists():
            connection = apsw.Connection(str(self.path / "blobs.db"))
            sizes = sorted(size for (size,) in connection.execute("SELECT size FROM blob"))
            assert sizes == sorted(len(self.bytes[id_]) for id_ in self.named.values())
            assert connection.pragma("freelist_count") == 0
            connection.close()


@example(moves=["begin", "put", "begin", *["put"] * 9, "succeed", "succeed"], seed=1)
@example(moves=["begin", "put", "succeed", "kill sandbox", "begin", "put"], seed=1)
@given(moves=st.lists(MOVES, min_size=5, max_size=40), seed=st.integers(0, 1 << 32))
@settings(max_examples=max(QUICK // 4, 10))
def test_a_named_stream_has_its_bytes_and_no_other_takes_room(moves: list[str], seed: int) -> None:
    async def main(path: Path) -> None:
        world = _World(path / "state", random.Random(seed))
        for move in moves:
            await world.move(move)
            await world.check()
        await world.sweep()
        world.end()

    with tempfile.TemporaryDirectory() as path:
        trio.run(partial(main, Path(path)))
