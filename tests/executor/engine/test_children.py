"""Children and what instances owe to each other, over one engine or two, with answers and processes lost at each point."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from executor.core import carrying
from executor.core.commands import Cancel, Child, Complete, Fail, Sleep, Wait
from executor.core.entries import (
    Activated,
    ChildEnded,
    ChildRequested,
    ChildStarted,
    Parent,
    Released,
    Restarted,
    SleepEnded,
    Started,
    StartOptions,
    Terminated,
    WaitEnded,
)
from executor.core.errors import NotFound, PerdureError, Unavailable
from executor.core.failure import ErrorFact
from executor.core.ids import INSTANCE_ID_CHARS_MAX, child_id, is_instance_id
from executor.engine.commit import go_back
from executor.engine.engine import EngineLimits
from executor.engine.local import LocalInstances
from executor.engine.obligations import AUDIT_MS, GRACE_MS
from executor.engine.peers import PeersOver
from executor.engine.retention import Retention
from executor.engine.signal import Landing
from executor.ports import ChildEnd, ChildStart, Peers, Seen, Start
from executor.shards.router import RoutedInstances
from facets import shard_of
from tests.executor.engine.world import BASE_MS, COMMIT, NoCode, ScriptedHost, World, world

ASKED = b"q" * 16
PARENT = ("acme", "boss")
PATH = "call#1"
CHILD = ("acme", child_id("boss", PATH, 0))
NIL = b"\xc0"


def asks(path=PATH, workflow="Quick", *, close="terminate", is_awaited=True, id=None, channel=None, payload=NIL):
    return Child(path, ASKED, "w.py:1", workflow, payload, channel, id, close, is_awaited)


def found(seen, kind, path=PATH):
    return next((entry for entry in seen if isinstance(entry, kind) and entry.path == path), None)


def calls(seen):
    """step.call: what the child returns is what the parent returns."""
    ended = found(seen, ChildEnded)
    if ended is None:
        return [asks()], True
    if ended.state == "complete":
        return [Complete(ended.value)], False
    return [Fail(ended.error)], False


def calls_of(workflow, **options):
    def script(seen):
        ended = found(seen, ChildEnded)
        if ended is None:
            return [asks(workflow=workflow, **options)], True
        return ([Complete(ended.value)] if ended.state == "complete" else [Fail(ended.error)]), False

    return script


def calls_then_naps(seen):
    if found(seen, ChildEnded) is None:
        return [asks()], True
    return [Sleep("s#1", ASKED, "w.py:2", 60_000, None)], True


def quick(_seen):
    return [Complete(b"\xa4done")], False


def fails(_seen):
    return [Fail(ErrorFact("ValueError", "no luck", "", False))], False


def waits(seen):
    if found(seen, WaitEnded, "w#1") is None:
        return [Wait("w#1", ASKED, "w.py:2", "go", None)], True
    return [Complete(b"\xa4gone")], False


def gives_up(seen):
    """A call that is given up after a second."""
    if found(seen, SleepEnded, "s#1") is None:
        return [asks(workflow="Waiter"), Sleep("s#1", ASKED, "w.py:2", 1_000, None)], True
    return [Cancel(PATH), Wait("w#1", ASKED, "w.py:3", "go", None)], True


def starts_and_ends(close):
    def script(seen):
        if found(seen, ChildStarted) is None:
            return [asks(workflow="Waiter", close=close, is_awaited=False)], True
        return [Complete(NIL)], False

    return script


def many(count):
    def script(seen):
        if len(seen) == 1:
            return [asks(f"call#{number}") for number in range(count)], True
        ended = sum(isinstance(entry, ChildEnded) for entry in seen)
        return ([Complete(NIL)], False) if ended == count else ([], True)

    return script


@pytest.fixture
def host():
    host = ScriptedHost()
    host.scripts.update(
        {
            "Calls": calls,
            "Quick": quick,
            "Fails": fails,
            "Waiter": waits,
            "CallsFails": calls_of("Fails"),
            "CallsWaiter": calls_of("Waiter"),
            "CallsCaller": calls_of("CallsWaiter"),
            "CallsNobody": calls_of("Nobody"),
            "CallsTaken": calls_of("Quick", id="taken"),
            "CallsChannel": calls_of("Quick", channel="beta"),
            "GivesUp": gives_up,
            "CallsThenNaps": calls_then_naps,
            "StartsTerminate": starts_and_ends("terminate"),
            "StartsAbandon": starts_and_ends("abandon"),
            "Thousand": many(1_000),
        }
    )
    return host


@dataclass
class FaultyPeers:
    """Loses calls on their way there, or their answers on the way back, as long as it is told to."""

    inner: Peers | None = None
    lost_before: set[str] = field(default_factory=set)
    lost_after: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)

    async def _call(self, name, *arguments):
        self.calls.append(name)
        if name in self.lost_before:
            await trio.sleep_forever()
        assert self.inner is not None
        answer = await getattr(self.inner, name)(*arguments)
        if name in self.lost_after:
            await trio.sleep_forever()
        return answer

    async def start_children(self, starts: Sequence[ChildStart]) -> list[Seen | PerdureError]:
        return await self._call("start_children", starts)

    async def child_ended(self, tenant: str, parent: str, end: ChildEnd) -> None:
        await self._call("child_ended", tenant, parent, end)

    async def close_children(self, tenant: str, parent: str, children: Sequence[str]) -> None:
        await self._call("close_children", tenant, parent, children)


@asynccontextmanager
async def faulty(path: Path, host: ScriptedHost, **lost: set[str]) -> AsyncGenerator[tuple[World, FaultyPeers]]:
    peers = FaultyPeers(**lost)
    async with world(path, host=host, peers=peers) as w:
        peers.inner = PeersOver(LocalInstances(w.engine, w.store), NoCode(host))  # type: ignore[arg-type]
        yield w, peers


async def begin(w: World, workflow: str, key=PARENT, **options) -> None:
    await w.engine.starting.start_many(
        [Start(key, workflow, COMMIT, NIL, options=StartOptions(**options) if options else None)]
    )


def story(w: World, key=PARENT) -> list[str]:
    """Kinds of entries, without those of how it was executed."""
    return [type(entry).__name__ for entry in w.whole_journal(key) if type(entry) not in {Activated, Released}]


CALLED = ["Started", "ChildRequested", "ChildStarted", "ChildEnded", "Completed"]


def starts_of(w: World, key=CHILD) -> int:
    return story(w, key).count("Started")


# --- ids


def test_child_ids_are_legal_and_differ_by_parent_step_and_execution():
    asked = [
        ("boss", "a#1", 0),
        ("boss", "a#1", 1),
        ("boss", "a#1", 10),
        ("boss", "a#11", 0),
        ("bossa", "#1", 0),
        ("x" * 100, "a#1", 0),
        ("x" * 99 + "y", "a#1", 0),
    ]
    made = [child_id(*each) for each in asked]
    assert len(set(made)) == len(made)
    assert all(is_instance_id(each) and len(each) <= INSTANCE_ID_CHARS_MAX for each in made)
    assert made[0].startswith("boss.")
    assert made[0] == child_id("boss", "a#1", 0)
    grandchild = child_id(made[-1], "b#1", 0)
    assert is_instance_id(grandchild)
    assert grandchild != made[-1]


# --- the ordinary way


async def test_childs_value_is_journaled_in_the_parent_and_nothing_stays_due(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await begin(w, "Calls")
        assert await w.until_final(PARENT) == "complete"
        assert story(w) == CALLED
        requested, started, ended = w.journal(PARENT)[1:4]
        assert (requested.child, requested.commit, requested.channel) == (CHILD[1], COMMIT, None)
        assert (started.path, started.commit) == (PATH, COMMIT)
        assert (ended.state, ended.value, ended.error) == ("complete", b"\xa4done", None)
        child = w.journal(CHILD)[0]
        assert isinstance(child, Started)
        assert child.options.parent == Parent("boss", PATH, is_awaited=True)
        await w.until_gone(CHILD)
        assert w.store.next_wake_ms() is None
        assert w.store.row(*CHILD).row.wake_at_ms is None


async def test_failed_childs_error_is_the_parents(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await begin(w, "CallsFails")
        assert await w.until_final(PARENT) == "failed"
        ended = found(w.journal(PARENT), ChildEnded)
        assert (ended.state, ended.value, ended.error.message) == ("failed", None, "no luck")


async def test_terminated_child_is_told_to_the_parent(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await begin(w, "CallsWaiter")
        await w.until(CHILD, "waiting")
        await w.engine.terminate(CHILD)
        assert await w.until_final(PARENT) == "failed"
        ended = found(w.journal(PARENT), ChildEnded)
        assert ended.state == "terminated"
        assert ended.error.code == "instance_terminated"
        assert ended.error.message == f'child "{CHILD[1]}" was terminated'


@pytest.mark.parametrize(("workflow", "code"), [("CallsNobody", "unknown_workflow"), ("CallsTaken", "instance_exists")])
async def test_child_that_can_never_be_started_is_refused_to_the_run(tmp_path, host, workflow, code):
    async with world(tmp_path, host=host) as w:
        await begin(w, "Quick", ("acme", "taken"))  # same workflow and payload, and yet nobody's child
        await w.until_final(("acme", "taken"))
        await begin(w, workflow)
        assert await w.until_final(PARENT) == "failed"
        assert story(w) == ["Started", "ChildRequested", "ChildEnded", "Failed"]
        ended = found(w.journal(PARENT), ChildEnded)
        assert (ended.state, ended.error.code, ended.error.retryable) == ("refused", code, False)


async def test_child_on_a_channel_gets_the_commit_that_it_is_on(tmp_path, host):
    beta = "d" * 40
    async with faulty(tmp_path, host) as (w, peers):
        code = peers.inner._code
        startable = code.startable
        code.startable = lambda tenant, *, channel, commit: (
            beta if channel == "beta" else COMMIT,
            startable(tenant, channel=channel, commit=commit)[1],
        )
        await begin(w, "CallsChannel")
        assert await w.until_final(PARENT) == "complete"
        assert found(w.journal(PARENT), ChildRequested).commit is None
        assert found(w.journal(PARENT), ChildStarted).commit == beta
        assert w.journal(CHILD)[0].commit == beta


async def test_child_inherits_priority_and_unloading(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await begin(w, "Calls", priority=7, unload="every-wait")
        await w.until_final(PARENT)
        options = w.journal(CHILD)[0].options
        assert (options.priority, options.unload) == (7, "every-wait")


async def test_child_queues_behind_the_limits_that_its_workflow_declares(tmp_path, host):
    async with faulty(tmp_path, host) as (w, peers):
        peers.inner._code.declared["Quick"] = '{"flow": {"concurrency": 3}}'
        await begin(w, "Calls")
        await w.until_final(PARENT)
        [limit] = w.journal(CHILD)[0].options.limits
        assert (limit.name, limit.count) == ("Quick", 3)


# --- restarts


async def test_restart_behind_a_call_learns_again_how_its_child_ended(tmp_path, host):
    """The child told it once; the entry is of a past that counts no more."""
    async with world(tmp_path, host=host) as w:
        await begin(w, "CallsThenNaps")
        await w.until_final(CHILD)
        while story(w)[-1] != "SleepStarted":
            await wait_all_tasks_blocked(0.001)
        assert story(w) == ["Started", "ChildRequested", "ChildStarted", "ChildEnded", "SleepStarted"]
        await w.until_gone(CHILD)
        resumed = story(w).index("ChildStarted") + 1
        await _restart_after(w, resumed)
        while story(w)[-1] != "SleepStarted" or "Restarted" not in story(w):
            await wait_all_tasks_blocked(0.001)
        after = story(w)[story(w).index("Restarted") :]
        assert after == ["Restarted", "ChildStarted", "ChildEnded", "SleepStarted"]
        assert starts_of(w) == 1
        assert w.host.killed == []


async def _restart_after(w: World, count: int) -> None:
    """Back to the `count`-th entry of the story."""
    journal = w.whole_journal(PARENT)
    told = [number for number, entry in enumerate(journal, 1) if type(entry) not in {Activated, Released}]
    async with w.engine.residents.hold(PARENT) as resident:
        after = told[count - 1]
        past = carrying.load(resident.journal.upto(after))
        landing = Landing()
        go_back(resident, past, Restarted(w.clock.now_ms(), after, keeps_events=True), None)
        w.engine.commit(resident, (), landing=landing)
        await landing.wait()


async def test_restart_from_the_first_line_closes_the_child_of_before_and_asks_for_another(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await begin(w, "CallsWaiter")
        await w.until(CHILD, "waiting")
        await w.until(PARENT, "waiting")
        await w.engine.restart(PARENT)
        assert await w.until_final(CHILD) == "terminated"
        again = ("acme", child_id("boss", PATH, 1))
        await w.until(again, "waiting")
        await w.until(PARENT, "waiting")
        assert story(w).count("ChildEnded") == 0
        await w.engine.send_event(again, id="e", type="go", payload=NIL)
        assert await w.until_final(PARENT) == "complete"


# --- close policies


async def test_parents_end_terminates_children_it_would_close_and_they_say_by_whom(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await begin(w, "StartsTerminate")
        assert await w.until_final(CHILD) == "terminated"
        assert w.journal(CHILD)[-1] == Terminated(BASE_MS, "parent boss")
        await w.until_gone(PARENT)
        assert story(w) == ["Started", "ChildRequested", "ChildStarted", "Completed", "ChildClosed"]
        assert w.store.next_wake_ms() is None
        # The output of an ended instance is found though an entry follows it.
        assert (await LocalInstances(w.engine, w.store).status(*PARENT)).output == NIL


async def test_abandoned_child_goes_on_and_tells_nobody(tmp_path, host):
    async with faulty(tmp_path, host) as (w, peers):
        await begin(w, "StartsAbandon")
        assert await w.until_final(PARENT) == "complete"
        await w.until(CHILD, "waiting")
        await w.engine.send_event(CHILD, id="e", type="go", payload=NIL)
        assert await w.until_final(CHILD) == "complete"
        await w.until_gone(CHILD)
        assert peers.calls == ["start_children"]


async def test_call_that_is_given_up_closes_its_child_while_the_parent_goes_on(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await begin(w, "GivesUp")
        await w.until(CHILD, "waiting")
        await w.until(PARENT, "waiting")
        w.clock.advance(1_000)
        assert await w.until_final(CHILD) == "terminated"
        await w.until(PARENT, "waiting")
        await w.until_gone(PARENT)
        kinds = story(w)
        assert kinds.index("Cancelled") < kinds.index("ChildClosed")
        assert "ChildEnded" not in kinds
        assert w.store.row(*PARENT).row.wake_at_ms is None


async def test_parent_that_fails_closes_its_children_too(tmp_path, host):
    def script(seen):
        if found(seen, ChildStarted) is None:
            return [asks(workflow="Waiter", close="terminate", is_awaited=False)], True
        return [Fail(ErrorFact("ValueError", "no luck", "", False))], False

    host.scripts["StartsAndFails"] = script
    async with world(tmp_path, host=host) as w:
        await begin(w, "StartsAndFails")
        assert await w.until_final(PARENT) == "failed"
        assert await w.until_final(CHILD) == "terminated"
        assert w.journal(CHILD)[-1].by == "parent boss"


async def test_terminating_a_tree_ends_everybody_in_it(tmp_path, host):
    middle = ("acme", child_id("boss", PATH, 0))
    leaf = ("acme", child_id(middle[1], PATH, 0))
    async with world(tmp_path, host=host) as w:
        await begin(w, "CallsCaller")
        await w.until(leaf, "waiting")
        await w.engine.terminate(PARENT)
        assert await w.until_final(middle) == "terminated"
        assert await w.until_final(leaf) == "terminated"
        for key in (PARENT, middle, leaf):
            await w.until_gone(key)
        assert w.store.next_wake_ms() is None
        assert w.journal(leaf)[-1].by == f"parent {middle[1]}"


async def test_grandchilds_value_comes_up_through_everybody(tmp_path, host):
    middle = ("acme", child_id("boss", PATH, 0))
    leaf = ("acme", child_id(middle[1], PATH, 0))
    async with world(tmp_path, host=host) as w:
        await begin(w, "CallsCaller")
        await w.until(leaf, "waiting")
        await w.engine.send_event(leaf, id="e", type="go", payload=NIL)
        assert await w.until_final(PARENT) == "complete"
        assert found(w.journal(PARENT), ChildEnded).value == b"\xa4gone"


async def test_nobody_terminates_an_instance_that_is_not_its_child(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await begin(w, "Waiter", ("acme", "other"))
        await begin(w, "Waiter", ("acme", "nephew"), parent=Parent("brother", PATH, is_awaited=True))
        for name in ("other", "nephew"):
            await w.until(("acme", name), "waiting")
        await LocalInstances(w.engine, w.store).close_children("acme", "boss", ["other", "nephew", "nobody"])
        assert [w.store.row("acme", name).row.state for name in ("other", "nephew")] == ["waiting", "waiting"]


async def test_paused_parent_keeps_its_childs_end_until_it_is_resumed(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await begin(w, "CallsWaiter")
        await w.until(CHILD, "waiting")
        await w.engine.pause(PARENT)
        await w.engine.send_event(CHILD, id="e", type="go", payload=NIL)
        await w.until_final(CHILD)
        await w.until_gone(CHILD)
        assert w.store.row(*PARENT).row.state == "paused"
        assert found(w.journal(PARENT), ChildEnded).state == "complete"
        await w.engine.resume(PARENT)
        assert await w.until_final(PARENT) == "complete"


# --- lost processes and answers: each world ends with a call under way, the next one goes on from what is durable


@pytest.mark.parametrize("where", ["lost_before", "lost_after"])
async def test_child_is_started_once_whatever_was_lost_of_its_start(tmp_path, host, where):
    async with faulty(tmp_path, host, **{where: {"start_children"}}) as (w, peers):
        await begin(w, "Calls")
        while "start_children" not in peers.calls:
            await w.until(PARENT, "running", "queued")
            await wait_all_tasks_blocked()
        if where == "lost_after":
            await w.until_final(CHILD)
        else:
            assert w.store.row(*CHILD) is None
        assert "ChildStarted" not in story(w) or where == "lost_after"
    async with world(tmp_path, host=host) as w:
        assert await w.until_final(PARENT) == "complete"
        assert story(w) == CALLED
        assert starts_of(w) == 1


@pytest.mark.parametrize("where", ["lost_before", "lost_after"])
async def test_childs_end_reaches_the_parent_once_whatever_was_lost_of_it(tmp_path, host, where):
    async with faulty(tmp_path, host, **{where: {"child_ended"}}) as (w, peers):
        await begin(w, "Calls")
        await w.until_final(CHILD)
        while "child_ended" not in peers.calls:
            await wait_all_tasks_blocked()
        assert w.store.row(*CHILD).row.wake_at_ms == BASE_MS + GRACE_MS
        if where == "lost_after":
            await w.until_final(PARENT)
    async with world(tmp_path, host=host) as w:
        w.clock.advance(GRACE_MS)
        assert await w.until_final(PARENT) == "complete"
        await w.until_gone(CHILD)
        while w.store.row(*CHILD).row.wake_at_ms is not None:
            await wait_all_tasks_blocked(0.001)
        assert story(w) == CALLED


@pytest.mark.parametrize("where", ["lost_before", "lost_after"])
async def test_children_are_closed_whatever_was_lost_of_it(tmp_path, host, where):
    async with faulty(tmp_path, host, **{where: {"close_children"}}) as (w, peers):
        await begin(w, "StartsTerminate")
        await w.until_final(PARENT)
        while "close_children" not in peers.calls:
            await wait_all_tasks_blocked()
        assert "ChildClosed" not in story(w)
    async with world(tmp_path, host=host) as w:
        w.clock.advance(GRACE_MS)
        assert await w.until_final(CHILD) == "terminated"
        while w.store.row(*PARENT).row.wake_at_ms is not None:
            await wait_all_tasks_blocked(0.001)
        assert story(w).count("ChildClosed") == 1
        assert [kind for kind in story(w, CHILD) if kind == "Terminated"] == ["Terminated"]


async def test_parent_that_ends_while_its_childs_start_is_under_way_leaves_no_child_behind(tmp_path, host):
    async with faulty(tmp_path, host, lost_before={"start_children"}) as (w, peers):
        await begin(w, "CallsWaiter")
        while "start_children" not in peers.calls:
            await wait_all_tasks_blocked()
        await w.engine.terminate(PARENT)
    async with faulty(tmp_path, host) as (w, peers):
        w.clock.advance(GRACE_MS)
        while "ChildClosed" not in story(w):
            await wait_all_tasks_blocked(0.001)
        assert peers.calls == ["close_children"]
        assert w.store.row(*CHILD) is None


class HinderedPeers(FaultyPeers):
    """Says "busy" so many times."""

    times = 3

    async def _call(self, name, *arguments):
        if self.times:
            self.times -= 1
            raise Unavailable("the process that has this instance is being started", code="busy")
        return await super()._call(name, *arguments)


async def test_what_is_busy_is_tried_again_with_pauses_by_parent_and_child(tmp_path, host):
    peers = HinderedPeers()
    async with world(tmp_path, host=host, peers=peers) as w:
        peers.inner = PeersOver(LocalInstances(w.engine, w.store), NoCode(host))  # type: ignore[arg-type]
        await begin(w, "Calls")
        while peers.times:
            await wait_all_tasks_blocked()
            w.clock.advance(60_000)
        await w.until_final(CHILD)
        assert await w.until_final(PARENT) == "complete"
    peers = HinderedPeers()
    async with world(tmp_path / "two", host=host, peers=peers) as w:
        peers.inner = PeersOver(LocalInstances(w.engine, w.store), NoCode(host))  # type: ignore[arg-type]
        peers.times = 0
        await begin(w, "CallsWaiter")
        await w.until(CHILD, "waiting")
        peers.times = 3
        await w.engine.send_event(CHILD, id="e", type="go", payload=NIL)
        await w.until_final(CHILD)
        while peers.times:
            await wait_all_tasks_blocked(0.001)
            w.clock.advance(60_000)
        assert await w.until_final(PARENT) == "complete"


async def test_child_that_was_asked_for_is_not_started_while_its_parent_is_paused(tmp_path, host):
    peers = HinderedPeers()
    async with world(tmp_path, host=host, peers=peers) as w:
        peers.inner = PeersOver(LocalInstances(w.engine, w.store), NoCode(host))  # type: ignore[arg-type]
        peers.times = 1
        await begin(w, "Calls")
        while peers.times:
            await wait_all_tasks_blocked(0.001)
        await w.engine.pause(PARENT)
        w.clock.advance(60_000)
        await wait_all_tasks_blocked(0.01)
        assert peers.calls == []
        assert w.store.row(*PARENT).row.wake_at_ms is None
        await w.engine.resume(PARENT)
        assert await w.until_final(PARENT) == "complete"


async def test_request_that_a_crash_could_take_back_is_not_acted_upon(tmp_path, host):
    async with faulty(tmp_path, host) as (w, peers):
        await begin(w, "Waiter")
        await w.until(PARENT, "waiting")
        request = ChildRequested(BASE_MS, PATH, ASKED, "w.py:1", CHILD[1], "Quick", COMMIT, None, NIL, "abandon", True)
        async with w.engine.residents.hold(PARENT) as resident:
            async with w.engine.committer._writing:  # the disk takes its time
                w.engine.commit(resident, [request])
                w.engine.obligations.tend(resident)
                await wait_all_tasks_blocked(0.01)
                assert peers.calls == []
            await w.until_final(CHILD)
        assert "ChildStarted" in story(w)


@pytest.mark.parametrize("is_gone", [False, True])
async def test_parent_looks_after_a_child_whose_end_nobody_told_it(tmp_path, host, is_gone):
    """As after a backup was restored, whose stores are not of one moment: the child has told, or is not there yet."""
    async with faulty(tmp_path, host, lost_before={"child_ended"}) as (w, peers):
        await begin(w, "CallsWaiter")
        await w.until(CHILD, "waiting")
        await w.until(PARENT, "waiting")
        assert w.store.row(*PARENT).row.wake_at_ms == BASE_MS + AUDIT_MS
        await w.until_gone(CHILD)
        if is_gone:
            w.store.delete(*CHILD)
        else:
            await w.engine.send_event(CHILD, id="e", type="go", payload=NIL)
            while "child_ended" not in peers.calls:
                await wait_all_tasks_blocked(0.001)
            w.engine.residents.get(CHILD).has_told = True  # and so its row says
            async with w.engine.residents.hold(CHILD) as child:
                await w.engine.commit_and_wait(child, (), row_alone=True)
    async with faulty(tmp_path, host) as (w, peers):
        w.clock.advance(AUDIT_MS - 1)
        await wait_all_tasks_blocked(0.01)
        assert peers.calls == []
        w.clock.advance(1)
        if is_gone:
            await w.until(CHILD, "waiting")
            with trio.fail_after(30):
                while w.store.row(*PARENT).row.wake_at_ms != BASE_MS + 2 * AUDIT_MS:
                    await wait_all_tasks_blocked(0.001)
            await w.engine.send_event(CHILD, id="e", type="go", payload=NIL)
        assert await w.until_final(PARENT) == "complete"
        assert story(w) == CALLED
        assert peers.calls == ["start_children", *(["child_ended"] if is_gone else [])]


# --- deletions and expiry


async def test_ended_child_is_deleted_only_when_its_parent_knows(tmp_path, host):
    async with faulty(tmp_path, host) as (w, peers):
        await begin(w, "CallsWaiter")
        await w.until(CHILD, "waiting")
        inner, peers.inner = peers.inner, HinderedPeers()
        await w.engine.send_event(CHILD, id="e", type="go", payload=NIL)
        await w.until_final(CHILD)
        peers.inner.times = 100
        while w.engine.residents.get(CHILD) is not None:
            await wait_all_tasks_blocked(0.001)
            w.clock.advance(5)  # slowly: not as far as what wakes it again
            assert w.clock.now_ms() < BASE_MS + GRACE_MS
        with pytest.raises(Unavailable):
            await w.engine.delete(CHILD)
        peers.inner = inner
        await w.engine.delete(CHILD)
        assert w.store.row(*CHILD) is None
        assert await w.until_final(PARENT) == "complete"


async def test_deleted_parent_is_no_ones_trouble(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await begin(w, "StartsAbandon")
        await w.until_final(PARENT)
        await w.engine.delete(PARENT)
        await w.engine.send_event(CHILD, id="e", type="go", payload=NIL)
        assert await w.until_final(CHILD) == "complete"
        end = ChildEnd(PATH, CHILD[1], COMMIT, "complete", NIL, None)
        await LocalInstances(w.engine, w.store).child_ended("acme", "boss", end)
        assert w.store.row(*PARENT) is None


async def test_end_of_another_child_or_one_not_wanted_any_more_changes_nothing(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await begin(w, "CallsWaiter")
        await w.until(CHILD, "waiting")
        await w.until(PARENT, "waiting")
        before = story(w)
        end = ChildEnd(PATH, "somebody", COMMIT, "complete", NIL, None)
        await LocalInstances(w.engine, w.store).child_ended("acme", "boss", end)
        assert story(w) == before
        await w.engine.terminate(PARENT)
        await w.until_final(CHILD)
        ended = story(w)
        await LocalInstances(w.engine, w.store).child_ended(
            "acme", "boss", ChildEnd(PATH, CHILD[1], COMMIT, "complete", NIL, None)
        )
        assert [kind for kind in story(w) if kind != "ChildClosed"] == ended[: len(before) + 1]
        assert "ChildEnded" not in story(w)


async def test_instance_is_deleted_when_its_own_time_of_being_kept_is_over_and_not_before(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await begin(w, "Quick", retain_complete_ms=5_000, retain_failed_ms=0)
        await begin(w, "Quick", ("acme", "kept"))
        await w.until_final(PARENT)
        await w.until_gone(PARENT)
        assert w.store.row(*PARENT).row.wake_at_ms == BASE_MS + 5_000
        w.clock.advance(4_999)
        await wait_all_tasks_blocked(0.01)
        assert w.store.row(*PARENT) is not None
        w.clock.advance(1)
        while w.store.row(*PARENT) is not None:
            await wait_all_tasks_blocked(0.001)
        with pytest.raises(NotFound):
            await w.engine.delete(PARENT)
        await w.engine.delete(("acme", "kept"))


async def test_expiry_waits_until_the_parent_knows(tmp_path, host):
    """Kept for hardly any time: the end is told first, also over a crash."""
    limits = EngineLimits(retain_failed_s=0.001, stop_grace_s=0.1)

    async def is_kept(w):
        w.store._store.fold()  # what the log alone has is looked at later
        await Retention(w.engine)._look()
        return w.store.row(*CHILD) is not None

    peers = FaultyPeers(lost_before={"child_ended"})
    async with world(tmp_path, host=host, peers=peers, limits=limits) as w:
        peers.inner = PeersOver(LocalInstances(w.engine, w.store), NoCode(host))  # type: ignore[arg-type]
        await begin(w, "CallsWaiter")
        await w.until(CHILD, "waiting")
        await w.engine.terminate(CHILD)
        while "child_ended" not in peers.calls:
            await wait_all_tasks_blocked()
        w.clock.advance(1_000)
        assert await is_kept(w)
    async with world(tmp_path, host=host, limits=limits) as w:
        assert await is_kept(w)
        w.clock.advance(GRACE_MS)
        assert await w.until_final(PARENT) == "failed"
        await w.until_gone(CHILD)
        w.clock.advance(1)
        while await is_kept(w):
            await wait_all_tasks_blocked(0.001)


async def test_platforms_retention_leaves_alone_what_has_its_own_time_or_owes_something(tmp_path, host):
    limits = EngineLimits(retain_complete_s=1, retain_failed_s=1, stop_grace_s=0.1)
    peers = FaultyPeers(lost_before={"child_ended"})
    async with world(tmp_path, host=host, limits=limits, peers=peers) as w:
        peers.inner = PeersOver(LocalInstances(w.engine, w.store), NoCode(host))  # type: ignore[arg-type]
        await begin(w, "Quick", ("acme", "plain"))
        await begin(w, "Quick", ("acme", "own"), retain_complete_ms=86_400_000)
        await begin(w, "Calls")
        for key in (("acme", "plain"), ("acme", "own"), CHILD):
            await w.until_final(key)
        w.clock.advance(GRACE_MS - 1)
        w.store._store.fold()
        await Retention(w.engine)._look()
        kept = [w.store.row(*key) is not None for key in (("acme", "plain"), ("acme", "own"), CHILD)]
        assert kept == [False, True, True]


async def test_instance_that_somebody_works_on_is_not_expired_now(tmp_path, host):
    """They may be about to restart it."""
    async with world(tmp_path, host=host) as w:
        await begin(w, "Quick", retain_complete_ms=1_000)
        await w.until_final(PARENT)
        await w.until_gone(PARENT)
        residents = w.engine.residents
        async with residents.hold(PARENT):
            [resident] = await residents.hold_many([PARENT])
            assert not await w.engine.obligations.expire([resident])  # somebody else holds it
            residents.release(resident)
        assert w.store.row(*PARENT) is not None


# --- many, and over two engines


async def test_thousand_children_of_one_parent_are_started_in_batches_and_all_told(tmp_path, host):
    async with faulty(tmp_path, host) as (w, peers):
        await begin(w, "Thousand")
        with trio.fail_after(60):
            assert await w.until_final(PARENT) == "complete"
        kinds = story(w)
        assert kinds.count("ChildStarted") == kinds.count("ChildEnded") == 1_000
        assert 10 <= peers.calls.count("start_children") <= 12
        assert peers.calls.count("child_ended") == 1_000


@asynccontextmanager
async def two(path: Path, host: ScriptedHost) -> AsyncGenerator[tuple[World, World]]:
    """Two engines with a store each, as two shard processes have; instances know each other through a router."""
    peers = [FaultyPeers(), FaultyPeers()]
    async with AsyncExitStack() as stack:
        worlds = [
            await stack.enter_async_context(world(path / str(number), host=host, peers=peers[number]))
            for number in range(2)
        ]
        router = RoutedInstances(
            [LocalInstances(w.engine, w.store) for w in worlds], [shard % 2 for shard in range(256)], layout=1
        )
        for each in peers:
            each.inner = PeersOver(router, NoCode(host))  # type: ignore[arg-type]
        yield worlds[0], worlds[1]


async def test_parent_and_child_may_be_in_different_processes(tmp_path, host):
    name = next(
        f"boss-{number}"
        for number in range(100)
        if shard_of("acme", f"boss-{number}") % 2 == 0
        and shard_of("acme", child_id(f"boss-{number}", PATH, 0)) % 2 == 1
    )
    parent, child = ("acme", name), ("acme", child_id(name, PATH, 0))
    async with two(tmp_path, host) as (one, other):
        await begin(one, "CallsWaiter", parent)
        await other.until(child, "waiting")
        assert one.store.row(*child) is None
        await other.engine.send_event(child, id="e", type="go", payload=NIL)
        assert await one.until_final(parent) == "complete"
        assert found(one.journal(parent), ChildEnded).value == b"\xa4gone"
        await one.engine.delete(parent)
        await begin(one, "CallsWaiter", ("acme", name))
