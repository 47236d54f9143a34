"""Version pins under arbitrary git: pushes, force-pushes, deletions, tags, rollbacks, pins, collections, restarts.

A hypothesis state machine over the real platform (a server process of its own, real sandboxes, raw pushes in git's
protocol), beside a model in plain Python. Each version's code writes its own marker into every step's result, from two
of its files. Instances advance one event at a time, so that any git operation falls between any two of their steps.

Laws:
- every step of an instance reports the marker of the commit that the instance was pinned to at its start;
- a new instance gets the channel's commit, and the channel is where the model says;
- nothing that an instance, a ref or a channel needs becomes unloadable.

Collections keep only the channel's last version here, so that they do remove what nobody needs.
"""

from __future__ import annotations

import atexit
import io
import itertools
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.gitstore.git_requests import NONE, Objects, push_request, read_answer
from tests.scenarios.crash_server import MARK
from tests.scenarios.witness import CallRefused, Server, World

MAIN = "refs/heads/main"
STEPS = 3
NAMES = st.sampled_from(["side", "feature/x"])

SOURCE = f"""
import helper

from executor.workflow import Workflow

VERSION = "@MARKER@"


def mark(number):
    print("{MARK}")
    import late  # not imported before the first step: found in the pinned version all the same

    return [VERSION, helper.VERSION, late.VERSION, number]


class Walk(Workflow):
    async def run(self, event, step):
        seen = []
        for number in range(event.payload):
            seen.append(await step.do("mark", mark, number))
            await step.wait_for_event("next", type="next")
        return [VERSION, seen]
"""


def files(marker: str) -> dict[str, bytes]:
    module = f'VERSION = "{marker}"\n'.encode()
    return {"workflows.py": SOURCE.replace("@MARKER@", marker).encode(), "helper.py": module, "late.py": module}


class Platform:
    """One server for all examples, each in a tenant of its own; started at the first use."""

    def __init__(self) -> None:
        self.world: World | None = None
        self._numbers = itertools.count(1)

    @property
    def server(self) -> Server:
        if self.world is None:
            folder = tempfile.TemporaryDirectory(prefix="perdure-versions-")
            self.world = World(Path(folder.name), history_kept=1)
            atexit.register(folder.cleanup)
            atexit.register(self.world.close)
            self.world.start_server().wait_ready()
        return self.world.alive

    def new_tenant(self) -> str:
        name = f"tenant{next(self._numbers)}"
        self.server.call("create_tenant", name)
        return name

    def restart(self, *, in_order: bool) -> None:
        assert self.world is not None
        if in_order:
            assert self.server.stop() == 0
        else:
            self.server.kill()
        self.world.start_server().wait_ready()


PLATFORM = Platform()
happened: Counter[str] = Counter()
"""What did take place over all examples: an operation that never succeeded would prove nothing."""
EXPECTED = {
    "push of heads",
    "deletion of heads",
    "push of tags",
    "deletion of tags",
    "push between two steps",
    "rollback",
    "undo",
    "pin",
    "unpin",
    "stop between two steps",
    "kill between two steps",
    "instance to its end",
    "deletion of an instance",
}


@dataclass
class Walker:
    """An instance: its id, its commit for life, and how many of its steps are journaled."""

    id: str
    commit: str
    done: int = 0
    is_over: bool = False


@dataclass
class Model:
    """Where everything has to be."""

    refs: dict[str, str] = field(default_factory=dict)
    live: str | None = None
    is_pinned: bool = False
    moves: list[tuple[str | None, bool]] = field(default_factory=lambda: [(None, False)])

    def moved(self, live: str | None, is_pinned: bool) -> None:
        if (live, is_pinned) != (self.live, self.is_pinned):
            self.live, self.is_pinned = live, is_pinned
            self.moves.append((live, is_pinned))


class Versions(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.tenant = PLATFORM.new_tenant()
        self.objects = Objects()
        self.markers: dict[str, str] = {}
        self.parents: dict[str, str | None] = {}
        self.model = Model()
        self.walkers: list[Walker] = []
        self.numbers = itertools.count(1)

    # --- helpers

    @property
    def server(self) -> Server:
        return PLATFORM.server

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.server.call(method, self.tenant, *args, **kwargs)

    def new_commit(self, parent: str | None) -> str:
        marker = f"{self.tenant} v{next(self.numbers)}"
        tree = self.objects.tree(files(marker))
        commit = self.objects.commit(tree, *([parent] if parent else []), message=marker)
        self.markers[commit], self.parents[commit] = marker, parent
        return commit

    def push(self, ref: str, new: str | None) -> str:
        """What the client is told of the ref. The pack has all objects ever made: the server keeps what it needs."""
        old = self.model.refs.get(ref, NONE)
        request = push_request([(old, new or NONE, ref)], self.objects.pack() if new else b"")
        told = read_answer(self.server.call("push", self.tenant, io.BytesIO(request))).refs[ref]
        if told == "ok":
            happened[f"{'push' if new else 'deletion'} of {ref.split('/')[1]}"] += 1
            going = any(not walker.is_over and walker.commit != new for walker in self.walkers)
            happened["push between two steps"] += going and ref == MAIN
            if new:
                self.model.refs[ref] = new
            else:
                del self.model.refs[ref]
            if new and ref == MAIN and not self.model.is_pinned:
                self.model.moved(new, False)
        return told

    def walked(self, walker: Walker) -> list[list[Any]]:
        items = self.call("journal", walker.id)
        return [item.fields["value"] for item in items if item.kind == "step_succeeded"]

    def wait_step(self, walker: Walker, number: int) -> None:
        """Until its step is journaled; in this server's life or before."""
        path = f"mark#{number}"

        def has_step(record: list[tuple[Any, ...]]) -> bool:
            for message in reversed(record):
                if message[0] == "journaled":
                    for tenant, instance, _, kind, found, _ in message[1]:
                        if (tenant, instance, kind, found) == (self.tenant, walker.id, "StepSucceeded", path):
                            return True
            return False

        if len(self.walked(walker)) < number:
            self.server.wait_for(has_step)
        walker.done = number
        self.check(walker)

    def check(self, walker: Walker) -> None:
        """The law."""
        marker = self.markers[walker.commit]
        assert self.walked(walker) == [[marker, marker, marker, number] for number in range(walker.done)]
        status = self.call("status", walker.id)
        assert status.commit == walker.commit
        assert status.state not in ("held", "failed"), status.error

    def finish(self, walker: Walker) -> None:
        while not walker.is_over:
            self.advance_one(walker)

    def advance_one(self, walker: Walker) -> None:
        self.call("send_event", walker.id, "next", walker.done, event_id=f"next-{walker.done}")
        if walker.done < STEPS:
            self.wait_step(walker, walker.done + 1)
            return
        marker = self.markers[walker.commit]
        result = self.call("result", walker.id, timeout_s=20)
        assert result == [marker, [[marker, marker, marker, number] for number in range(STEPS)]]
        walker.is_over = True
        happened["instance to its end"] += walker.commit != self.model.live

    # --- git

    @initialize()
    def first_push(self) -> None:
        assert self.push(MAIN, self.new_commit(None)) == "ok"
        self.start()
        self.start()

    @rule()
    def push_a_new_version(self) -> None:
        assert self.push(MAIN, self.new_commit(self.model.refs[MAIN])) == "ok"

    @rule(keeps_history=st.booleans())
    def force_push_a_new_version(self, keeps_history: bool) -> None:
        parent = self.parents[self.model.refs[MAIN]] if keeps_history else None
        assert self.push(MAIN, self.new_commit(parent)) == "ok"

    @rule(data=st.data())
    def force_push_an_old_version(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(sorted(self.markers, key=self.markers.__getitem__)))
        if old != self.model.refs[MAIN]:
            assert self.push(MAIN, old) == "ok"

    @rule(name=NAMES, data=st.data())
    def push_a_branch(self, name: str, data: st.DataObject) -> None:
        """New, moved, or made again after its deletion; a branch other than the default one moves no channel."""
        ref = f"refs/heads/{name}"
        known = sorted(self.markers, key=self.markers.__getitem__)
        commit = data.draw(st.sampled_from([None, *known]))
        commit = commit or self.new_commit(self.model.refs.get(ref))
        if commit != self.model.refs.get(ref):
            assert self.push(ref, commit) == "ok"

    @rule(name=NAMES)
    def delete_a_branch(self, name: str) -> None:
        ref = f"refs/heads/{name}"
        if ref in self.model.refs:
            assert self.push(ref, None) == "ok"

    @rule()
    def default_branch_cannot_be_deleted(self) -> None:
        assert self.push(MAIN, None) == "main is the default branch and cannot be deleted"

    @rule(data=st.data(), name=st.sampled_from(["v1", "v2"]))
    def tag_or_untag(self, data: st.DataObject, name: str) -> None:
        ref = f"refs/tags/{name}"
        if ref in self.model.refs:
            assert self.push(ref, None) == "ok"
        else:
            commit = data.draw(st.sampled_from(sorted(self.model.refs.values(), key=self.markers.__getitem__)))
            assert self.push(ref, commit) == "ok"

    # --- channel

    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        """To a version that can be gone: then it is refused, and nothing changes."""
        to = data.draw(st.sampled_from(["previous", *sorted(self.markers, key=self.markers.__getitem__)]))
        try:
            move = self.call("rollback", to=to)
        except CallRefused as refused:
            assert refused.code in ("no_previous_version", "version_not_found", "invalid_state"), refused
            assert to != self.model.live
        else:
            assert to in ("previous", move.to_commit)
            happened["rollback"] += 1
            self.model.moved(move.to_commit, self.model.is_pinned)

    @rule()
    def undo(self) -> None:
        if len(self.model.moves) < 3:
            return
        (latest,) = self.call("channel_history", "live", limit=1)
        try:
            self.call("undo", latest.id)
        except CallRefused as refused:
            assert refused.code == "version_not_found", refused
        else:
            self.model.moved(*self.model.moves[-2])
            happened["undo"] += 1

    @rule(data=st.data())
    def pin_the_channel(self, data: st.DataObject) -> None:
        commit = data.draw(st.sampled_from(["live", *sorted(self.markers, key=self.markers.__getitem__)]))
        try:
            view = self.call("pin", commit)
        except CallRefused as refused:
            assert refused.code == "version_not_found", refused
            assert commit not in ("live", self.model.live)
        else:
            self.model.moved(self.model.live if commit == "live" else commit, True)
            assert view.pinned
            happened["pin"] += 1

    @rule()
    def unpin_the_channel(self) -> None:
        happened["unpin"] += self.model.is_pinned
        assert not self.call("unpin").pinned
        self.model.moved(self.model.live, False)

    # --- the platform

    @rule()
    def collect_garbage(self) -> None:
        view = self.call("collect_garbage")
        happened["collection that removed something"] += view.bytes_after < view.bytes_before

    @rule(in_order=st.booleans())
    def restart(self, in_order: bool) -> None:
        PLATFORM.restart(in_order=in_order)
        going = any(not walker.is_over for walker in self.walkers)
        happened["stop between two steps" if in_order else "kill between two steps"] += going

    # --- instances

    @precondition(lambda self: sum(not walker.is_over for walker in self.walkers) < 4)
    @rule()
    def start(self) -> None:
        status = self.call("start", "Walk", STEPS, id=f"i{next(self.numbers)}")
        assert status.commit == self.model.live
        walker = Walker(status.id, status.commit)
        self.walkers.append(walker)
        self.wait_step(walker, 1)

    @precondition(lambda self: any(not walker.is_over for walker in self.walkers))
    @rule(data=st.data())
    def advance(self, data: st.DataObject) -> None:
        going = [walker.id for walker in self.walkers if not walker.is_over]
        chosen = data.draw(st.sampled_from(going))
        self.advance_one(next(walker for walker in self.walkers if walker.id == chosen))

    @precondition(lambda self: any(not walker.is_over for walker in self.walkers))
    @rule(is_deleted=st.booleans())
    def bring_the_oldest_to_its_end(self, is_deleted: bool) -> None:
        """Once it is deleted its commit may be collected, if nothing else needs it."""
        walker = next(walker for walker in self.walkers if not walker.is_over)
        self.finish(walker)
        if is_deleted:
            self.call("delete", walker.id)
            self.walkers.remove(walker)
            happened["deletion of an instance"] += 1

    # --- laws

    @invariant()
    def channel_is_where_the_model_says(self) -> None:
        if self.model.live is not None:
            (channel,) = self.call("channels")
            assert (channel.commit, channel.pinned) == (self.model.live, self.model.is_pinned)

    def teardown(self) -> None:
        if self.model.live is None:
            return
        self.collect_garbage()
        for walker in self.walkers:
            self.finish(walker)
        last = self.call("start", "Walk", 0, id="last")
        assert last.commit == self.model.live
        assert self.call("result", "last", timeout_s=20) == [self.markers[last.commit], []]
        assert self.call("verify") == []
        assert self.server.call("check") == []


class TestVersions(Versions.TestCase):  # type: ignore[name-defined, misc]  # hypothesis makes it
    def runTest(self) -> None:
        super().runTest()
        missing = EXPECTED - {name for name, count in happened.items() if count}
        assert not missing, f"never took place: {missing}; did: {happened}"


TestVersions.settings = settings(
    max_examples=max(1, settings.default.max_examples * 2 // 5),
    stateful_step_count=25,  # each step is a real push
)


def test_collections_of_the_machine_do_remove_versions() -> None:
    """Else the machine would prove nothing about them: a version that nobody needs is gone, one of an instance is not."""
    machine = Versions()
    machine.first_push()
    machine.push_a_new_version()
    unneeded = machine.model.live
    machine.force_push_a_new_version(keeps_history=False)
    machine.force_push_a_new_version(keeps_history=False)
    machine.collect_garbage()
    assert happened["collection that removed something"]
    with pytest.raises(CallRefused, match="version_not_found"):
        machine.call("rollback", to=unneeded)
    machine.call("rollback", to=machine.walkers[0].commit)
    machine.model.moved(machine.walkers[0].commit, False)
    machine.restart(in_order=False)
    machine.teardown()
