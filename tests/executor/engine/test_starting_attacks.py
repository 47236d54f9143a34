"""Starts of ids that exist: what they cost does not grow with what those instances have."""

from __future__ import annotations

from executor.core.commands import Complete, StepDone
from executor.core.errors import Unavailable
from executor.core.summary import LARGE
from executor.engine import local, starting
from executor.engine.local import LocalInstances
from executor.ports import Seen, Start
from tests.executor.engine.world import COMMIT, ScriptedHost, world

HALF = b"\xc6" + (LARGE // 2).to_bytes(4, "big") + bytes(LARGE // 2)
"""A value of half a MiB."""


def ended(value, steps=0):
    """A script that ends with `value` after steps that give half a MiB each."""
    done = [StepDone(f"s#{number}", b"q" * 16, "w.py:2", 1, 0, HALF) for number in range(1, steps + 1)]
    return lambda _seen: ([*done, Complete(value)], False)


def started(w, *names, workflow="Small"):
    return [Start(("acme", name), workflow, COMMIT, b"\xc0") for name in names]


async def test_instances_that_exist_are_read_in_portions(tmp_path, monkeypatch):
    monkeypatch.setattr(starting, "THERE_BYTES_MAX", 3 * LARGE)
    host = ScriptedHost()
    host.scripts = {"Small": ended(b"\xc0"), "Large": ended(b"\xc0", steps=5)}
    async with world(tmp_path, host=host) as w:
        small = started(w, *"abcdefg")
        large = started(w, "large", workflow="Large")
        await w.engine.start_many([*small, *large])
        for start in [*small, *large]:
            await w.until_final(start.key)
            await w.until_gone(start.key)
        portions: list[list[str]] = []
        hold_many = w.engine.residents.hold_many

        async def spied(keys, *, create=False):
            assert not len(w.engine.residents), "what was read before has left memory"
            portions.append([name for _, name in keys])
            return await hold_many(keys, create=create)

        monkeypatch.setattr(w.engine.residents, "hold_many", spied)
        again = await w.engine.start_many([*small[:4], *large, *small[3:], *small[6:]])
        assert [row.instance for row in again] == [*"abcd", "large", *"defg", "g"]
        assert {row.row.state for row in again} == {"complete"}
        assert portions == [["a", "b", "c"], ["d"], ["large"], ["d", "e", "f"], ["g", "g"]]


async def test_the_answer_to_many_starts_has_a_bounded_part_of_the_outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "OUTPUT_BYTES", LARGE)
    host = ScriptedHost()
    host.scripts["Small"] = ended(HALF)
    async with world(tmp_path, host=host) as w:
        instances = LocalInstances(w.engine, w.store)
        starts = started(w, *"abcd")
        assert all(isinstance(seen, Seen) for seen in await instances.start_many(starts))
        for start in starts:
            await w.until_final(start.key)
        answers = await instances.start_many(starts)
        assert [seen.output for seen in answers[:2]] == [HALF, HALF]
        assert [type(answer) for answer in answers[2:]] == [Unavailable, Unavailable]
        assert (
            answers[3].message == 'instance "d" is there and has ended; with its output the answer would be too large'
        )
        assert [seen.output for seen in await instances.start_many(starts[3:])] == [HALF]
