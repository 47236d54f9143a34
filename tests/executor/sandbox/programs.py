"""Generated workflow programs, printed as Python source.

A program is a list of statements over a list `seen`, which gathers everything the code can see (results, time,
randomness, the order in which things happened) and is returned. So "same values seen" is "same result".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

PRELUDE = """
import asyncio, random, secrets, time, uuid
from datetime import datetime
from executor.workflow import *

def plus(x, y=1):
    return x + y

async def later(x):
    for _ in range(x % 4):
        await asyncio.sleep(0)
    return {"later": x}

def flaky(step, failures):
    if step.current().attempt <= failures:
        raise ValueError(f"failure {step.current().attempt}")
    return step.current().attempt

class Job(Workflow):
    async def run(self, event, step):
        seen = []
"""

FAMILIES = (
    "do",
    "retry",
    "sleep",
    "aiosleep",
    "wait",
    "ambient",
    "gather",
    "group",
    "set",
    "completed",
    "timeout",
    "queue",
)


RICH_FAMILIES = (
    *FAMILIES,
    "scope",
    "map",
    "map never",
    "poll",
    "status",
    "attributes",
    "emit",
    "match",
    "undo",
    "call",
    "start",
)
"""With everything else that the language has."""
ENDS = ("return", "fail", "anew")


def _blocks(depth: int, families: Sequence[str] = FAMILIES) -> st.SearchStrategy[list[Any]]:
    leaf = st.tuples(st.sampled_from(families), st.integers(0, 9))
    if depth == 0:
        return st.lists(leaf, min_size=1, max_size=3)
    inner = _blocks(depth - 1, families)
    branch = st.tuples(st.just("if"), inner, inner)
    loop = st.tuples(st.just("for"), st.integers(1, 2), inner)
    return st.lists(st.one_of(leaf, leaf, leaf, branch, loop), min_size=1, max_size=4)


programs = _blocks(1)
rich_programs = _blocks(1, RICH_FAMILIES)


def source(program: Sequence[Any]) -> str:
    """The module of a program."""
    lines: list[str] = []
    _print(program, lines, "        ")
    return PRELUDE + "\n".join(lines) + "\n        return seen\n"


RICH_CLASS = """
class Job(Workflow):
    @Workflow.update
    async def note(self, payload, step):
        with step.group("note"):
            self.seen.append(["note", payload, await step.do("note", later, payload), random.random()])
        await step.sleep("note", payload)
        if payload % 3 == 0:
            raise ValueError("noted")
        return len(self.seen)

    @note.validator
    def check(self, payload):
        random.random()

    async def run(self, event, step):
        seen = self.seen = []
"""
_ENDINGS = {
    "return": "return seen",
    "fail": "raise ValueError(repr(seen)[:2000])",
    "anew": "if event.payload is None:\n    self.continue_as_new(len(repr(seen)))\nreturn [event.payload, seen]",
}


def rich_source(program: Sequence[Any], end: str) -> str:
    """The module of a program of RICH_FAMILIES, that ends like one of ENDS and can be updated meanwhile."""
    lines: list[str] = []
    _print(program, lines, "        ")
    head = PRELUDE[: PRELUDE.index("class Job")] + RICH_CLASS
    return head + "\n".join(lines + [" " * 8 + line for line in _ENDINGS[end].split("\n")]) + "\n"


def _print(program: Sequence[Any], lines: list[str], indent: str) -> None:
    for statement in program:
        if statement[0] == "if":
            lines.append(f"{indent}if len(repr(seen)) % 2:")
            _print(statement[1], lines, indent + "    ")
            lines.append(f"{indent}else:")
            _print(statement[2], lines, indent + "    ")
        elif statement[0] == "for":
            lines.append(f"{indent}for _ in range({statement[1]}):")
            _print(statement[2], lines, indent + "    ")
        else:
            lines += [indent + line for line in _LEAVES[statement[0]].replace("N", str(statement[1])).split("\n")]


_LEAVES = {
    "scope": (
        'with step.group("scope") as scoped:\n'
        '    seen.append(await step.do("in", plus, N))\n'
        '    async with step.group("inner"):\n'
        '        await asyncio.gather(step.sleep("in", N), scoped.do("in", later, N))\n'
        "seen.append(time.time())"
    ),
    "map": 'seen += await step.map("map", later, range(N % 5), concurrency=1 + N % 3)',
    "map never": (
        "async def halves(x):\n"
        "    if x % 2:\n"
        '        raise ValueError(f"odd {x}")\n'
        "    return x // 2\n"
        'seen += [str(r) for r in await step.options(retry=Retry(limit=0)).map("m", halves, range(N), stop_on="never")]\n'
        "try:\n"
        '    seen += await step.options(retry=Retry(limit=0)).map("m", halves, [0, 2, N])\n'
        "except StepFailed as failed:\n"
        "    seen.append(str(failed))"
    ),
    "poll": (
        "begun = time.time()\n"
        "try:\n"
        '    seen.append(await step.poll("poll", plus, N, until=lambda r: time.time() > begun + N / 2, every=1,'
        ' backoff="linear", timeout=4))\n'
        "except PollTimeout as timeout:\n"
        "    seen.append(str(timeout))"
    ),
    "status": 'self.status = {"n": len(seen)}\nseen.append(self.status["n"])',
    "attributes": "self.set_attributes(n=N, size=len(seen))",
    "emit": 'for item in range(N % 4):\n    step.emit(f"stream {item % 2}", [item, len(seen)])',
    "match": (
        "try:\n"
        '    seen.append((await step.wait_for_event("m", type="t0", timeout=N, match={"k": N % 2})).id)\n'
        "except EventTimeout as timeout:\n"
        "    seen.append(str(timeout))"
    ),
    "undo": (
        'await step.options(undo=lambda output, error: [output, str(error)[:99]]).do("undoable", plus, N)\n'
        "undoable = step.options(undo=Undo(lambda output, error: 1 / 0, retry=Retry(limit=N % 2, delay=1)))\n"
        'seen += await asyncio.gather(*(undoable.do("u", later, n) for n in range(N % 3)))'
    ),
    "call": (
        "try:\n"
        "    async with asyncio.timeout(N):\n"
        '        seen.append(await step.call("call", "Good" if N % 2 else "Bad", len(seen)))\n'
        "except (ChildFailed, TimeoutError) as failed:\n"
        "    seen.append(str(failed))"
    ),
    "start": 'seen.append((await step.start("start", "Good", N)).id)',
    "do": 'seen.append(await step.do("do N", plus, len(seen), y=N))\nprint("did", seen[-1])',
    "retry": (
        "try:\n"
        '    seen.append(await step.options(retry=Retry(limit=1, delay=N)).do("flaky", flaky, step, N % 3))\n'
        "except StepFailed as failed:\n"
        "    seen.append(str(failed))"
    ),
    "sleep": 'await step.sleep("nap", N)\nseen.append(time.time())',
    "aiosleep": "await asyncio.sleep(N / 10)\nseen.append(str(datetime.now()))",
    "wait": (
        "try:\n"
        '    seen.append((await step.wait_for_event("wait", type=f"t{N % 2}", timeout=N + 1)).payload)\n'
        "except EventTimeout as timeout:\n"
        "    seen.append(str(timeout))"
    ),
    "ambient": "seen += [random.random(), str(uuid.uuid4()), secrets.token_hex(4), random.Random().random(), time.time_ns()]",
    "gather": 'seen += await asyncio.gather(*(step.do("g", later, i + N) for i in range(3)), step.sleep("g", N))',
    "group": (
        "async def branch(n):\n"
        '    seen.append(["branch", n, await step.do("in group", later, n)])\n'
        '    seen.append(["branch", n, await step.do("in group", plus, n)])\n'
        "async with asyncio.TaskGroup() as group:\n"
        "    for n in range(1 + N % 3):\n"
        "        group.create_task(branch(n))"
    ),
    "set": (
        'tasks = {asyncio.create_task(step.do("set", later, i + N), name=f"n{i}") for i in range(4)}\n'
        "seen.append([task.get_name() for task in tasks])\n"
        "done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)\n"
        "seen.append([task.result() for task in done])\n"
        "for task in pending:\n"
        "    if N % 2:\n"
        "        task.cancel()\n"
        "seen.append([repr(r) for r in await asyncio.gather(*pending, return_exceptions=True)])"
    ),
    "completed": (
        'for first in asyncio.as_completed([step.do("done", later, i + N) for i in range(3)] + [asyncio.sleep(N)]):\n'
        "    seen.append(await first)"
    ),
    "timeout": (
        "try:\n"
        "    async with asyncio.timeout(N):\n"
        '        seen.append(await step.do("t", later, N))\n'
        '        await step.sleep("t", 5)\n'
        '        seen.append((await step.wait_for_event("t", type="t0")).payload)\n'
        "except TimeoutError:\n"
        '    seen.append(["timeout", time.time()])'
    ),
    "queue": (
        "queue, gate = asyncio.Queue(2), asyncio.Event()\n"
        "async def produce():\n"
        "    for i in range(3):\n"
        '        await queue.put(await step.do("make", plus, i))\n'
        "    gate.set()\n"
        "producer = asyncio.create_task(produce())\n"
        "for _ in range(3):\n"
        "    seen.append(await queue.get())\n"
        "await gate.wait()"
    ),
}

stories = st.fixed_dictionaries(
    {
        "order": st.integers(0, 1_000),
        "seed": st.binary(min_size=16, max_size=16),
        "events": st.lists(st.tuples(st.sampled_from(["t0", "t1"]), st.integers()), max_size=3),
    }
)

rich_stories = st.fixed_dictionaries(
    {
        "order": st.integers(0, 1_000),
        "seed": st.binary(min_size=16, max_size=16),
        "events": st.lists(
            st.tuples(st.sampled_from(["t0", "t1"]), st.fixed_dictionaries({"k": st.integers(0, 1)})), max_size=3
        ),
        "updates": st.lists(st.tuples(st.just("note"), st.integers(0, 9)), max_size=3),
    }
)
