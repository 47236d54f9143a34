"""What a hostile tenant can make the engine do: never more than in proportion to what it sent, and never its end."""

from __future__ import annotations

import json
import re

import msgspec
import pytest
import trio
import trio.testing

from executor.core import attributes, bounds, search, values
from executor.core.commands import (
    AcceptUpdate,
    Cancel,
    Child,
    Complete,
    Continue,
    Emit,
    SetAttributes,
    SetStatus,
    Sleep,
    StepDone,
    Wait,
)
from executor.core.entries import ChildEnded, ChildRequested, ChildStarted, StartOptions, StepSucceeded, WaitEnded
from executor.core.errors import Conflict, Refused, Unavailable
from executor.engine import asking, children, hearing, limits, querying, restarting
from executor.engine.engine import EngineLimits
from executor.ports import Start
from executor.sandbox.protocol import Turn
from tests.executor.engine.world import COMMIT, ScriptedHost, world

ASKED = b"q" * 16
KEY = ("acme", "one")
WAIT = Wait("w#1", ASKED, "w.py:2", "go", None)


@pytest.fixture
def host():
    host = ScriptedHost()
    host.scripts["Good"] = lambda _seen: ([Complete(b"\xc0")], False)
    return host


def once(commands, idle=True):
    """A script that says these commands in its first turn."""

    def script(seen):
        return ([], idle) if len(seen) > 1 else (commands, idle)

    return script


async def start(w, workflow, key=KEY):
    await w.engine.start(key, workflow=workflow, commit=COMMIT, payload=b"\xc0")


async def lives(w):
    """The engine still does what others want."""
    await start(w, "Good", ("other", "one"))
    assert await w.until_final(("other", "one")) == "complete"


@pytest.mark.parametrize(
    "match", [b"\x01", b"\xc1", b"\x81\x01\x02", values.encode([1]), values.encode({"n": "x" * 20_000}), b"\x91" * 900]
)
async def test_malformed_match_ends_its_sandbox_and_nothing_else(tmp_path, host, match):
    host.scripts["Bad"] = once([msgspec.structs.replace(WAIT, match=match)])
    async with world(tmp_path, host=host, limits=EngineLimits(deaths_max=1)) as w:
        await w.engine.start(KEY, workflow="Bad", commit=COMMIT, payload=b"\xc0")
        assert await w.until(KEY, "held") == "held"
        assert "WaitStarted" not in w.kinds(KEY)
        await w.engine.send_event(KEY, id="e1", type="go", payload=values.encode({"n": 1}))
        await lives(w)


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x82\x01\x02\xc0\x02", b"\x91" * 900])
async def test_malformed_payload_of_a_child_with_a_flow_ends_its_sandbox_and_nothing_else(tmp_path, host, payload):
    host.scripts["Bad"] = once([Child("c#1", ASKED, "w.py:3", "Flows", payload, None, None, "terminate", True)])
    host.scripts["Flows"] = host.scripts["Good"]
    async with world(tmp_path, host=host, limits=EngineLimits(deaths_max=1)) as w:
        w.engine.peers._code.declared["Flows"] = json.dumps({"flow": {"concurrency": 1, "per": "payload.a"}})
        await start(w, "Bad")
        assert await w.until(KEY, "held") == "held"
        assert "ChildRequested" not in w.kinds(KEY)
        await lives(w)


async def test_small_changes_of_large_attributes_fill_no_journal_beyond_its_limit(tmp_path, host):
    large = values.encode({f"a{number}": "x" * 200 for number in range(30)})
    toggles = [SetAttributes(number, values.encode({"b": number})) for number in range(2, 3_000)]
    host.scripts["Bad"] = once([SetAttributes(1, large), *toggles])
    async with world(tmp_path, host=host, limits=EngineLimits(journal_bytes_max=500_000)) as w:
        await start(w, "Bad")
        await w.until(KEY, "held")
        assert w.journal(KEY)[-1].code == "limit_exceeded"
        assert sum(len(stored) for _, stored in w.store.journal(*KEY)) < 510_000


async def test_large_row_is_written_once_for_the_entries_of_a_turn(tmp_path, host, monkeypatch):
    shown = [SetStatus(1, values.encode("x" * 4_000)), SetAttributes(1, values.encode({"a": "x" * 200}))]
    sleeps = [Sleep(f"{number}{'s' * 1_000}#1", ASKED, "w.py:1", 60_000, None) for number in range(20)]
    emits = [Emit("s", [b"\xc0"], "", 0, number) for number in range(1, 501)]
    host.scripts["Shows"] = once([*shown, *sleeps, *emits])
    async with world(tmp_path, host=host) as w:
        written = []
        submit = w.engine.committer.submit

        def counted(records, size, on_done):
            written.append((len(msgspec.msgpack.encode(records)), size))
            submit(records, size, on_done)

        monkeypatch.setattr(w.engine.committer, "submit", counted)
        await start(w, "Shows")
        await w.until(KEY, "waiting")
        total = sum(one for one, _ in written)
        assert total < 200_000, "520 rows of 25,000 bytes would be 13 MB"
        assert sum(size for _, size in written) > total // 2, "the committer knows what waits to be written"
        row = w.store.row(*KEY)
        assert attributes.decode(row.row.attributes) == {"a": "x" * 200}
        assert len(row.row.summary) > 20_000


async def test_looking_through_unread_events_again_and_again_holds_it(tmp_path, host, monkeypatch):
    monkeypatch.setattr(limits, "LOOKED_BYTES_MAX", 1_000_000)
    monkeypatch.setattr(hearing, "LOOKED_BYTES_MAX", 1_000_000)
    match = values.encode({"n": 1})

    def script(seen):
        if not any(isinstance(entry, WaitEnded) for entry in seen):
            return [WAIT], True
        asks = [(Wait(f"v#{n}", ASKED, "w.py:1", "looked", None, match), Cancel(f"v#{n}")) for n in range(400)]
        return [command for pair in asks for command in pair], False

    host.scripts["Looks"] = script
    async with world(tmp_path, host=host) as w:
        await start(w, "Looks")
        await w.until(KEY, "waiting")
        for number in (1, 2):
            payload = values.encode({"n": 2, "x": {"n": 1}, "y": "x" * 10_000})
            await w.engine.send_event(KEY, id=f"e{number}", type="looked", payload=payload)
        await w.engine.send_event(KEY, id="e3", type="go", payload=b"\xc0")
        await w.until(KEY, "held")
        held = w.journal(KEY)[-1]
        assert held.code == "limit_exceeded"
        assert held.message.startswith("its waits with a match have looked through 10")
        assert 40 < w.kinds(KEY).count("WaitStarted") < 60
        await lives(w)


async def test_continuing_without_end_is_held_before_its_entries_have_no_numbers_left(tmp_path, host, monkeypatch):
    monkeypatch.setattr(limits, "HISTORY_ENTRIES_MAX", 100)
    host.scripts["Spins"] = lambda _seen: ([Continue(b"\xc0")], False)
    async with world(tmp_path, host=host) as w:
        await start(w, "Spins")
        await w.until(KEY, "held")
        held = w.journal(KEY)[-1]
        assert held.code == "limit_exceeded"
        assert held.message == ("all its executions have 102 journal entries, the limit is 100; start another instance")
        await lives(w)


async def test_instances_that_continue_without_end_leave_others_their_turns(tmp_path, host):
    host.scripts["Spins"] = lambda _seen: ([Continue(b"\xc0")], False)
    async with world(tmp_path, host=host, limits=EngineLimits(active_runs_max=4, stop_grace_s=0.1)) as w:
        for number in range(20):
            await start(w, "Spins", ("acme", f"spin{number}"))
        await lives(w)
        for number in range(20):
            await w.engine.terminate(("acme", f"spin{number}"))


async def test_accepted_updates_that_do_not_end_have_a_limit(tmp_path, host, monkeypatch):
    monkeypatch.setattr(asking, "UPDATES_OPEN_MAX", 2)
    host.scripts["Never"] = lambda _seen: ([WAIT], True)

    def accept(sandbox, frame):
        position = sandbox.runs[frame.run].position
        sandbox.say([Turn(frame.run, position, [AcceptUpdate(frame.id, frame.name, frame.payload)], idle=False)])

    host.on_question = accept
    async with world(tmp_path, host=host) as w:
        await start(w, "Never")
        await w.until(KEY, "waiting")

        async def update(id, payload=b"\x01", wait_s=60):
            await w.engine.asking.update(KEY, id=id, name="add", payload=payload, wait_s=wait_s)

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for number in range(2):
                    nursery.start_soon(update, f"u{number}")
                    while w.kinds(KEY).count("UpdateAccepted") <= number:
                        await trio.sleep(0.001)
                    with pytest.raises(Unavailable, match="it goes on"):
                        await update(f"u{number}", wait_s=0)
                with pytest.raises(Refused) as caught:
                    await update("u2")
                assert caught.value.code == "limit_exceeded"
                assert caught.value.message == "2 accepted updates have not ended, the limit is 2"
                with pytest.raises(Conflict, match="another name or payload"):
                    await update("u1", b"\x02")
                nursery.cancel_scope.cancel()


async def test_queries_of_one_tenant_wait_behind_themselves(tmp_path, host, monkeypatch):
    monkeypatch.setattr(querying, "WAITING_MAX", 6)
    async with world(tmp_path, host=host) as w:
        asked, go = [], trio.Event()

        async def answer(key, _question):
            asked.append(key[0])
            if key[0] == "acme":
                await go.wait()

        monkeypatch.setattr(w.engine.querying, "_query", answer)

        async def query(tenant):
            await w.engine.querying.query((tenant, "one"), sql="SELECT 1", parameters=b"\x90", limit=1)

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(query, "acme")
            await trio.testing.wait_all_tasks_blocked()
            assert asked == ["acme", "acme"]
            await query("other")
            with pytest.raises(Unavailable, match="6 queries of this tenant are under way, the limit is 6"):
                await query("acme")
            go.set()
        assert asked.count("acme") == 6
        await query("acme")


@pytest.mark.parametrize(("bound", "limit"), [("HISTORY_ENTRIES_MAX", 5), ("HISTORY_BYTES_MAX", 300)])
async def test_history_that_is_full_takes_nothing_in_but_its_end(tmp_path, host, monkeypatch, bound, limit):
    host.scripts["Waits"] = lambda _seen: ([WAIT], True)
    async with world(tmp_path, host=host) as w:
        await start(w, "Waits")
        await w.until(KEY, "waiting")
        monkeypatch.setattr(bounds, bound, limit)
        refusals = []
        for number in range(9):
            for call in (w.engine.pause, w.engine.resume):
                try:
                    await call(KEY)
                except Refused as refused:
                    refusals.append(refused)
        assert refusals, "its history grows no more"
        for attempt in (
            lambda: w.engine.send_event(KEY, id="e1", type="other", payload=b"\xc0"),
            lambda: w.engine.set_attributes(KEY, {"a": 1}),
            lambda: w.engine.restart(KEY),
        ):
            with pytest.raises(Refused) as caught:
                await attempt()
            assert (caught.value.code, caught.value.hint) == ("limit_exceeded", "Terminate it, and start another.")
            assert re.fullmatch(r'the history of instance "one" is full: \d+ entries, \d+ bytes', caught.value.message)
        await w.engine.terminate(KEY)
        assert await w.until_final(KEY) == "terminated"


async def test_restarts_from_a_step_have_a_limit_and_one_from_the_first_line_forgets_them(tmp_path, host, monkeypatch):
    monkeypatch.setattr(restarting, "RESTARTS_MAX", 3)

    def steps(seen):
        names = [entry.path for entry in seen if isinstance(entry, StepSucceeded)]
        wanted = [StepDone(path, ASKED, "w.py:1", 1, 0, b"\xc0") for path in ("a#1", "b#1") if path not in names]
        return ([*wanted[:1]], False) if wanted else ([WAIT], True)

    host.scripts["Steps"] = steps
    async with world(tmp_path, host=host) as w:
        await start(w, "Steps")
        await w.until(KEY, "waiting")
        for _ in range(3):
            await w.engine.restart(KEY, from_step=("b", 1))
            await w.until(KEY, "waiting")
        with pytest.raises(Refused) as caught:
            await w.engine.restart(KEY, from_step=("b", 1))
        assert caught.value.code == "limit_exceeded"
        assert caught.value.message == 'instance "one" was restarted 3 times from a step, the limit is 3'
        await w.engine.restart(KEY)
        await w.until(KEY, "waiting")
        await w.engine.restart(KEY, from_step=("b", 1))


async def test_children_of_children_without_end_are_refused(tmp_path, host, monkeypatch):
    monkeypatch.setattr(children, "DEPTH_MAX", 3)

    def bomb(seen):
        if any(isinstance(entry, ChildStarted | ChildEnded) for entry in seen):
            return [Complete(b"\xc0")], False
        return [Child("c#1", ASKED, "w.py:3", "Bomb", b"\xc0", None, None, "abandon", False)], True

    host.scripts["Bomb"] = bomb
    async with world(tmp_path, host=host) as w:
        await start(w, "Bomb")
        name, names = KEY[1], []
        while name is not None:
            names.append(name)
            await w.until_final(("acme", name))
            journal = w.journal(("acme", name))
            ended = [entry for entry in journal if isinstance(entry, ChildEnded)]
            begun = any(isinstance(entry, ChildStarted) for entry in journal)
            name = next(entry.child for entry in journal if isinstance(entry, ChildRequested)) if begun else None
        assert len(names) == 4
        assert (ended[0].state, ended[0].error.code) == ("refused", "limit_exceeded")
        assert ended[0].error.message == "there are 3 instances above this child, the limit is 3"


async def test_no_cursor_shows_rows_of_another_tenant(tmp_path, host):
    host.scripts["Waits"] = lambda _seen: ([WAIT], True)
    async with world(tmp_path, host=host) as w:
        for tenant in ("acme", "other"):
            options = [StartOptions(attributes=attributes.encode({"k": number})) for number in range(4)]
            starts = [Start((tenant, f"i{n}"), "Waits", COMMIT, b"\xc0", options=one) for n, one in enumerate(options)]
            await w.engine.start_many(starts)
        orders = [search.query(order_by=order) for order in (None, "updated", "k", "-k")]
        cursors = [w.store.page("other", query, limit=2, after=None)[1] for query in orders]
        cut = [cursor[:place] + more for cursor in cursors for place in (3, 9, -2, -1) for more in ("", "A", "_", "é")]
        shown = set()
        for query in orders:
            for cursor in [*cursors, *cut]:
                try:
                    rows, _ = w.store.page("acme", query, limit=100, after=cursor)
                except Refused as refused:
                    assert refused.code == "bad_request"
                else:
                    shown |= {row.tenant for row in rows}
        assert shown == {"acme"}
