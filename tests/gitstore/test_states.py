"""Any sequence of pushes, deletions, rollbacks, undos, pins, collections, crashes and stray `git gc` agrees with a dict.

The model is a few dictionaries and, per channel, the list of its states; the store is real, with real objects. After
every step: refs, channels, history and pins are the model's, and every commit that must be kept is readable in full.
After a collection the commits that need not be kept are gone.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from gitstore import GitStore, Limits, NotFound, Refused, VersionNotFound
from gitstore.rows import NewDeployment, RefUpdate
from tests.gitstore.stores import git, new_deployment, open_store, push, write_commit

TENANT = "acme"
KEPT = 3
LIMITS = Limits(channel_history_kept=KEPT, pack_count_max=2)

branches = st.sampled_from(["main", "side", "other"])
channel_names = st.sampled_from(["live", "production"])


@dataclass(frozen=True)
class State:
    """One row of a channel's history with the versions then in effect, the present one last."""

    kind: str
    stack: tuple[str, ...]

    @property
    def commit(self) -> str:
        return self.stack[-1]


@dataclass
class Model:
    refs: dict[bytes, str] = field(default_factory=dict)
    channels: dict[str, list[State]] = field(default_factory=dict)
    pins: set[tuple[str, str]] = field(default_factory=set)
    deployed: set[str] = field(default_factory=set)
    parents: dict[str, list[str]] = field(default_factory=dict)
    content: dict[str, bytes] = field(default_factory=dict)
    present: set[str] = field(default_factory=set)

    def move(self, channel: str, kind: str, commit: str) -> bool:
        history = self.channels.setdefault(channel, [])
        stack = history[-1].stack if history else ()
        if stack and stack[-1] == commit:
            return False
        if kind == "rollback" and commit in stack:
            stack = stack[: len(stack) - 1 - stack[::-1].index(commit)]
        history.append(State(kind, (*stack, commit)))
        return True

    def previous(self, channel: str) -> str | None:
        stack = self.channels[channel][-1].stack
        return next((commit for commit in reversed(stack) if commit != stack[-1]), None)

    def kept(self) -> set[str]:
        """What a stray git keeps too: refs, pins, and the newest states of each channel."""
        roots = set(self.refs.values()) | {commit for commit, _ in self.pins}
        for history in self.channels.values():
            for state in history[-KEPT - 1 :]:  # where the oldest kept move came from counts too
                roots.add(state.commit)
            roots.update(history[-1].stack[-KEPT:])
        return self.closure(roots)

    def closure(self, roots: set[str]) -> set[str]:
        found: set[str] = set()
        queue = list(roots)
        while queue:
            commit = queue.pop()
            if commit not in found:
                found.add(commit)
                queue.extend(self.parents[commit])
        return found


class Store(RuleBasedStateMachine):
    commits = Bundle("commits")

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="gitstore-"))
        self.store: GitStore = open_store(self.root / "git", LIMITS)
        self.model = Model()
        self.count = 0

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.root)

    @initialize()
    def begin(self) -> None:
        self.store.create_tenant(TENANT)

    def present(self, commit: str) -> bool:
        return commit in self.model.present

    def commit_push(self, update: RefUpdate, deployment: NewDeployment | None, channel: str | None) -> bool:
        """The rows of a push without the mirror; whether it was accepted."""
        done = self.store._parts.database.commit_push(
            TENANT, [update], atomic=False, deployment=deployment, channel=channel, who="kim", message=""
        )
        return done.outcomes[0].ok

    # -- steps -----------------------------------------------------------------------------------------------------

    @rule(target=commits, parent=st.none() | commits)
    def write(self, parent: str | None) -> str:
        self.count += 1
        content = b"content %d" % self.count
        parents = [parent] if parent is not None and self.present(parent) else []
        commit = write_commit(self.store, TENANT, {"x": content, "folder/y": b"same"}, parents=parents)
        self.model.parents[commit] = parents
        self.model.content[commit] = content
        self.model.present.add(commit)
        return commit

    @rule(commit=commits, branch=branches, deploys=st.booleans(), crashes=st.booleans())
    def push(self, commit: str, branch: str, deploys: bool, crashes: bool) -> None:
        """To the branch from wherever it is: a fast-forward or a force push alike. `crashes`: before the mirror."""
        if not self.present(commit):
            return  # the pipeline refuses it; here there is none
        ref = b"refs/heads/" + branch.encode()
        channel = "live" if branch == "main" else None
        if crashes:
            old = self.model.refs.get(ref)
            new = new_deployment(commit, branch=branch) if deploys else None
            self.commit_push(RefUpdate(ref, old, commit), new, channel)
            self.reopen()
        else:
            push(self.store, TENANT, commit, ref=ref, deploy=deploys, channel=channel)
        self.model.refs[ref] = commit
        if deploys:
            self.model.deployed.add(commit)
            if channel is not None:
                self.model.move(channel, "push", commit)

    @rule(commit=commits, old=st.none() | commits, branch=branches)
    def push_stale(self, commit: str, old: str | None, branch: str) -> None:
        ref = b"refs/heads/" + branch.encode()
        if self.model.refs.get(ref) == old:
            return
        new = new_deployment(commit, branch=branch)
        assert self.commit_push(RefUpdate(ref, old, commit), new, "live") is False

    @rule(branch=branches)
    def delete_branch(self, branch: str) -> None:
        ref = b"refs/heads/" + branch.encode()
        if ref in self.model.refs:
            push(self.store, TENANT, None, ref=ref)
            del self.model.refs[ref]

    @rule(commit=commits)
    def tag(self, commit: str) -> None:
        if self.present(commit):
            ref = b"refs/tags/t"
            push(self.store, TENANT, commit, ref=ref, deploy=False)
            self.model.refs[ref] = commit

    @rule(channel=channel_names)
    def rollback(self, channel: str) -> None:
        history = self.model.channels.get(channel)
        if not history:
            with pytest.raises(NotFound):
                self.store.rollback(TENANT, channel=channel, who="kim")
            return
        previous = self.model.previous(channel)
        if previous is None:
            with pytest.raises(Refused):
                self.store.rollback(TENANT, channel=channel, who="kim")
        elif not self.present(previous):
            with pytest.raises(VersionNotFound):
                self.store.rollback(TENANT, channel=channel, who="kim")
        else:
            assert self.store.rollback(TENANT, channel=channel, who="kim").to_commit == previous
            self.model.move(channel, "rollback", previous)

    @rule(channel=channel_names, commit=commits, kind=st.sampled_from(["rollback", "deploy"]))
    def move(self, channel: str, commit: str, kind: str) -> None:
        if kind == "rollback" and not self.model.channels.get(channel):
            return

        def act() -> None:
            if kind == "rollback":
                self.store.rollback(TENANT, to=commit, channel=channel, who="kim")
            else:
                self.store.move_channel(TENANT, channel, to=commit, who="kim", why="")

        is_there = bool(self.model.channels.get(channel)) and self.model.channels[channel][-1].commit == commit
        if commit not in self.model.deployed or not (is_there or self.present(commit)):
            with pytest.raises(VersionNotFound):
                act()
            return
        act()
        self.model.move(channel, kind, commit)

    @rule(channel=channel_names)
    def undo(self, channel: str) -> None:
        history = self.model.channels.get(channel)
        if not history:
            return
        latest = self.store.channel_history(TENANT, channel, limit=1)[0]
        if len(history) == 1:
            with pytest.raises(Refused):
                self.store.undo(TENANT, latest.id, who="kim")
            return
        self.store.undo(TENANT, latest.id, who="kim")
        history.append(State("undo", history[-2].stack))

    @rule(commit=commits, reason=st.sampled_from(["one", "two"]))
    def pin(self, commit: str, reason: str) -> None:
        if self.present(commit):
            self.store.pin(TENANT, commit, reason=reason)
            self.model.pins.add((commit, reason))
        else:
            with pytest.raises(VersionNotFound):
                self.store.pin(TENANT, commit, reason=reason)

    @rule(commit=commits, reason=st.sampled_from(["one", "two"]))
    def unpin(self, commit: str, reason: str) -> None:
        self.store.unpin(TENANT, commit, reason=reason)
        self.model.pins.discard((commit, reason))

    @precondition(lambda self: self.count > 1)
    @rule(keep=st.lists(commits, max_size=2), forgotten=consumes(commits), target=commits)
    def collect(self, keep: list[str], forgotten: str):
        live = {commit for commit in keep if self.present(commit)}
        self.store.collect_garbage(TENANT, keep=live)
        self.check_presence(self.model.kept() | self.model.closure(live))
        return forgotten if self.present(forgotten) else multiple()

    @precondition(lambda self: self.count > 2)
    @rule()
    def stray_git_gc(self) -> None:
        git(self.store._parts.repository_path(TENANT), "gc", "--quiet", "--prune=now")
        self.store._repositories.forget(TENANT)
        self.check_presence(self.model.kept())

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = open_store(self.root / "git", LIMITS)

    def check_presence(self, expected: set[str]) -> None:
        repository = self.store.repository(TENANT)
        found = {commit for commit in self.model.parents if repository.has_commit(commit)}
        assert found == expected
        self.model.present = expected

    # -- what holds after each ---------------------------------------------------------------------------------------

    @invariant()
    def rows_agree(self) -> None:
        model = self.model
        if not self.store.tenants():
            return
        assert {name: oid.decode() for name, oid in self.store.refs(TENANT).items()} == model.refs
        assert {channel.name: channel.commit for channel in self.store.channels(TENANT)} == {
            name: history[-1].commit for name, history in model.channels.items() if history
        }
        for name, history in model.channels.items():
            found = [(move.kind, move.to_commit) for move in reversed(self.store.channel_history(TENANT, name))]
            assert found == [(state.kind, state.commit) for state in history]
        assert {(pin.commit, pin.reason) for pin in self.store.pins(TENANT)} == model.pins

    @invariant()
    def everything_kept_is_readable(self) -> None:
        if not self.store.tenants():
            return
        repository = self.store.repository(TENANT)
        for commit in self.model.kept():
            assert repository.read_file(commit, "x") == self.model.content[commit]
            assert repository.read_file(commit, "folder/y") == b"same"
        assert self.store.verify(TENANT) == []


Store.TestCase.settings = settings(stateful_step_count=25)
TestStore = Store.TestCase
