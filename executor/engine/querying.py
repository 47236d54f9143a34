"""Querying: SQL on an instance's facet, from outside, whatever state the instance is in.

Each question has a sandbox of its own, without tenant code, which is killed when it has answered or its time is up: a
tenant's image is opened there and nowhere else, and the tenant's code need not be importable. What is read is the facet
as of the last durable record; if a record is written while pages of a large facet are fetched, the question is asked
again.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
import tempfile
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from executor.core.errors import NotFound, Refused, Unavailable
from executor.engine.resident import Key
from executor.engine.turns import Turns
from executor.ports import Pages, Queried, Sandbox, SandboxHost
from executor.sandbox.protocol import (
    CHUNK_BYTES,
    PAGE_CHUNK_MAX,
    PAGE_CHUNKS_MAX,
    FacetImage,
    FacetPages,
    NeedFacet,
    NeedPages,
    Query,
    QueryAnswer,
)
from executor.sandbox.spec import SandboxDied, SandboxFailed, SandboxSpec

if TYPE_CHECKING:
    from executor.engine.engine import Engine

AT_ONCE_MAX = 4
"""Questions that are answered at once, each in a process of its own; more of them wait."""
OF_TENANT_MAX = 2
"""Of them those of one tenant: who asks for much waits behind itself. Others wait for no more than the first place that
becomes free, so for QUESTION_S_MAX, if they took less of late (turns.py)."""
WAITING_MAX = 50
"""Questions of one tenant that are answered or wait."""
QUESTION_S_MAX = 20.0
"""From its sandbox's opening to its end; a statement is given 5 s."""
ATTEMPTS_MAX = 5
"""How often a question is asked again because the facet has changed meanwhile."""
COLUMNS_MAX = 2_000
PAGES_ASKED_MAX = 100_000
_CELLS = frozenset({type(None), int, float, str, bytes})
_CHANGED = "facet_delta_mismatch"


class Querying:
    def __init__(self, engine: Engine, host: SandboxHost) -> None:
        self._engine = engine
        self._host = host
        self._turns = Turns(AT_ONCE_MAX, OF_TENANT_MAX)
        self._asked: dict[str, int] = {}
        """How many questions a tenant has."""
        self._no_code: Path | None = None

    async def query(self, key: Key, *, sql: str, parameters: bytes, limit: int) -> Queried:
        """The first `limit` rows that one statement gives. `parameters`: MessagePack of a list or a map.

        Raises NotFound, Refused (`facet_refused`: what the statement may not do, or a bound of time, rows or bytes),
        Corrupt, Unavailable.
        """
        async with self._turn(key[0]):
            with trio.move_on_after(QUESTION_S_MAX):
                return await self._query(key, Query(0, sql, parameters, limit))
        raise Refused(
            f"the query has not ended within {QUESTION_S_MAX:g} s", code="facet_refused", hint="Ask for less at once."
        )

    @asynccontextmanager
    async def _turn(self, tenant: str) -> AsyncGenerator[None]:
        """A place. Raises Unavailable."""
        count = self._asked.get(tenant, 0)
        if count >= WAITING_MAX:
            raise Unavailable(
                f"{count} queries of this tenant are under way, the limit is {WAITING_MAX}",
                code="busy",
                hint="Try again after a second.",
                retry_after_s=1,
            )
        self._asked[tenant] = count + 1
        try:
            async with self._turns.turn(tenant):
                yield
        finally:
            count = self._asked.pop(tenant)
            if count > 1:
                self._asked[tenant] = count - 1

    async def _query(self, key: Key, question: Query) -> Queried:
        spec = SandboxSpec(key[0], "query", self._bundle())
        try:
            sandbox = await self._host.open(spec)
        except (SandboxDied, SandboxFailed) as error:
            raise Unavailable(f"no sandbox for the query: {error}", code="sandbox_unavailable") from None
        try:
            for number in range(1, ATTEMPTS_MAX + 1):
                found = await self._ask(sandbox, key, msgspec.structs.replace(question, run=number))
                if found is not None:
                    return found
        except SandboxDied as died:
            raise Refused(
                f"the query was stopped: {died.detail}",
                code="facet_refused",
                hint="Ask for less at once.",
                reason=died.reason,
            ) from None
        finally:
            sandbox.kill()
        raise Unavailable("the facet changes faster than it can be read", code="busy", hint="Ask again.")

    async def _ask(self, sandbox: Sandbox, key: Key, question: Query) -> Queried | None:
        """None: the facet changed while it was read."""
        row = await self._engine.reads.row(key)
        if row is None:
            raise NotFound(f'tenant "{key[0]}" has no instance "{key[1]}"', code="instance_not_found")
        await sandbox.send([question])
        asked = 0
        while True:
            for frame in await sandbox.receive():
                asked += 1
                if getattr(frame, "run", 0) != question.run or asked > PAGES_ASKED_MAX:
                    raise SandboxDied("protocol", "it spoke of something else")
                if isinstance(frame, QueryAnswer):
                    # Of many rows that takes a while.
                    return await trio.to_thread.run_sync(_answered, frame, question, row.sequence)
                if isinstance(frame, NeedFacet | NeedPages):
                    await self._send(sandbox, key, frame)
                else:
                    raise SandboxDied("protocol", f"a {type(frame).__name__} does not answer a query")

    async def _send(self, sandbox: Sandbox, key: Key, need: NeedFacet | NeedPages) -> None:
        store = self._engine.store
        if isinstance(need, NeedPages):
            if not (0 <= need.first < PAGE_CHUNK_MAX and 0 <= need.count <= PAGE_CHUNKS_MAX and need.number > 0):
                raise SandboxDied("protocol", "it asks for pages that no facet has")
            pages = await trio.to_thread.run_sync(store.pages, *key, need.first, need.count)
            await sandbox.send([FacetPages(need.run, need.number, *pages)])
            return
        found = await trio.to_thread.run_sync(store.facet, *key)
        if isinstance(found, Pages):
            await sandbox.send([FacetPages(need.run, 0, *found)])
            return
        for offset in range(0, max(len(found), 1), CHUNK_BYTES):
            await sandbox.send([FacetImage(need.run, offset, len(found), found[offset : offset + CHUNK_BYTES])])

    def _bundle(self) -> Path:
        """A version without any code, in the format that `sandbox/loader.py` draws."""
        if self._no_code is None:
            index = {
                "cache_tag": sys.implementation.cache_tag,
                "magic": importlib.util.MAGIC_NUMBER.hex(),
                "files": {},
                "workflows": [],
            }
            head = json.dumps(index).encode()
            descriptor, name = tempfile.mkstemp(prefix="perdure-no-code-")
            os.close(descriptor)
            self._no_code = Path(name)
            self._no_code.write_bytes(b"PDBUNDL1" + len(head).to_bytes(4, "little") + head)
            weakref.finalize(self, self._no_code.unlink, missing_ok=True)
        return self._no_code


def _answered(answer: QueryAnswer, question: Query, sequence: int) -> Queried | None:
    """What a sandbox says is hostile: its form is checked, its texts are bounded."""
    if answer.code == _CHANGED:
        return None
    if answer.code:
        raise Refused(
            answer.message[:2_000],
            code="facet_refused",
            hint=answer.hint[:500] or None,
            reason=answer.code[:64],
        )
    width = len(answer.columns)
    if width > COLUMNS_MAX or len(answer.rows) > question.limit or not all(_is_row(row, width) for row in answer.rows):
        raise SandboxDied("protocol", "its answer is no table")
    return Queried(answer.columns, answer.rows, answer.is_cut, sequence)


def _is_row(row: list[Any], width: int) -> bool:
    return len(row) == width and all(
        type(value) in _CELLS and (type(value) is not float or math.isfinite(value)) for value in row
    )
