"""A parent of many children: what a commit of it looks at does not grow with their number."""

from __future__ import annotations

from random import Random

import pytest

from executor.core import summary
from executor.core.entries import Cancelled, ChildEnded, ChildRequested, ChildStarted, Restarted, Started, Terminated
from executor.core.folding import restarted
from executor.core.instance import Instance
from tests.executor.engine.world import COMMIT, ScriptedHost, world

KEY = ("acme", "boss")
NIL = b"\xc0"


class Counted(dict):
    """Counts what is taken out of it one by one."""

    looked = 0

    def _each(self, found):
        for each in found:
            Counted.looked += 1
            yield each

    def __iter__(self):
        return self._each(super().__iter__())

    def items(self):
        return self._each(super().items())

    def values(self):
        return self._each(super().values())


def requested(path, *, close="terminate", is_awaited=True):
    return ChildRequested(1, path, b"q" * 16, "w.py:1", f"child-{path}", "W", COMMIT, None, NIL, close, is_awaited)


def is_right(instance: Instance) -> bool:
    children = instance.children
    to_start = {path: child.request for path, child in children.items() if not child.is_started}
    awaiting = {path: child.request for path, child in children.items() if child.request.is_awaited}
    return (instance.to_start, instance.awaiting) == (to_start, awaiting)


@pytest.mark.parametrize("seed", range(20))
def test_children_to_start_and_awaited_are_as_the_children_say(seed):
    random = Random(seed)
    instance = Instance()
    instance.apply(Started(1, "W", COMMIT, NIL, b"s" * 16))
    pasts = [instance.copy()]
    for number in range(60):
        path = random.choice([*instance.children, f"c#{number}"])
        choice = random.randrange(6)
        if path not in instance.children:
            close = random.choice(["terminate", "abandon"])
            instance.apply(requested(path, close=close, is_awaited=random.random() < 0.6))
        elif choice == 0:
            instance.apply(ChildEnded(1, path, "complete", NIL, None))
        elif choice == 1:
            instance.apply(Cancelled(1, path))
        elif choice == 2:
            past = random.choice(pasts)
            instance = restarted(instance, past.copy(), Restarted(1, past.sequence, True))
            pasts = [kept for kept in pasts if kept.sequence <= past.sequence]
        else:
            instance.apply(ChildStarted(1, path, COMMIT))
        assert is_right(instance)
        pasts.append(instance.copy())
    instance.apply(Terminated(1, "x"))
    assert is_right(instance)
    assert not instance.children


async def test_a_commit_looks_at_as_many_children_as_are_shown_however_many_there_are(tmp_path):
    host = ScriptedHost()
    host.scripts["W"] = lambda _seen: ([], True)
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="W", commit=COMMIT, payload=NIL)
        await w.until(KEY, "waiting")
        async with w.engine.residents.hold(KEY) as resident:
            instance = resident.instance
            for number in range(5_000):
                instance.apply(requested(f"c#{number}"))
                instance.apply(ChildStarted(1, f"c#{number}", COMMIT))
            resident.is_resting = True
            before = {name: getattr(instance, name) for name in ("children", "awaiting", "to_start")}
            for name, found in before.items():
                setattr(instance, name, Counted(found))
            instance.apply(ChildEnded(1, "c#7", "complete", NIL, None))
            Counted.looked = 0
            resident.summary = summary.encode(instance)
            assert w.engine.row(resident).wake_at_ms is not None
            w.engine.obligations.tend(resident)
            assert Counted.looked <= summary.WAITS_SHOWN_MAX + 2
            shown = [wait.path for wait in summary.decode(resident.summary).waits]
            assert shown == [f"c#{number}" for number in range(21) if number != 7]
            for name in before:
                setattr(instance, name, dict(getattr(instance, name)))
            resident.is_lost = True
