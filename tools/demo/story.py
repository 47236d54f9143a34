"""The story: push, start, push again, kill, restart, finish side by side, roll back. Each act checks what it claims."""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path

from executor import Platform
from executor.views import Status
from tools.demo.afterwards import Afterwards
from tools.demo.audits import WAIT_S, WORKFLOW, Audit, has_looked_at_some, rests_on, waits_for
from tools.demo.claims import Claims
from tools.demo.releases import Fetched, Release
from tools.demo.reports import summary
from tools.demo.repository import Repository
from tools.demo.screen import Screen
from tools.demo.server import Server

SETTLE = "5 seconds"
"""How long the sleeper sleeps: long enough to be asleep when the server dies, short enough to watch."""


class Story:
    def __init__(self, home: Path, server: Server, fetching: Future[Fetched], screen: Screen, claims: Claims) -> None:
        self._home = home
        self._server = server
        self._fetching = fetching
        self._screen = screen
        self._claims = claims
        self._audits: dict[str, Audit] = {}
        self._commits: dict[str, str] = {}
        self._afterwards = Afterwards(screen, claims, self._audits, self._commits)

    def tell(self) -> None:
        """All of it. Raises Stopped, or an error of the platform, if it cannot go on."""
        took_s = self._server.start()
        with Platform.connect(self._server.url, token=self._server.admin_token()) as administrator:
            self._push_first(administrator, took_s)
            with Platform.connect(self._server.url, token=self._secret) as platform:
                self._tenant = platform.tenant("acme")
                self._start_on_v1()
                self._push_second()
                self._kill_in_the_middle()
                self._restart()
                self._finish()
                self._afterwards.look_inside(self._home)
                self._roll_back()
            self._claims.check("`perdure verify` finds nothing wrong", administrator.verify() == [])
        code = self._server.stop()
        self._claims.check("the server stops in good order", code == 0, f"exit code {code}")

    # --- before

    def _push_first(self, administrator: Platform, took_s: float) -> None:
        self._screen.act("A server, a tenant, and a git push")
        isolation = administrator.health().isolation_level
        self._screen.say(
            f"perdure serve: listens on {self._server.url} after {took_s:.1f} s (isolation level {isolation})"
        )
        acme = administrator.create_tenant("acme")
        self._secret = acme.create_token(label="demonstration").secret or ""
        self._screen.say("Tenant acme has a repository, and a token that opens this repository and nothing else.")
        self._repository = Repository(self._home, acme.git_url, self._secret)
        self._commits["v1"] = self._push("v1", "Audit releases: an inventory")
        (found,) = acme.versions()
        self._claims.check(
            "a plain `git push` deploys: the commit is live",
            found.commit == self._commits["v1"]
            and found.live_on == ["live"]
            and [item.name for item in found.workflows] == [WORKFLOW],
            f"{found.commit[:8]}: {WORKFLOW} in {found.workflows[0].path}:{found.workflows[0].line}",
        )

    def _push(self, version: str, message: str) -> str:
        commit = self._repository.commit(version, message)
        lines = self._repository.push()
        self._screen.shell("git push perdure main", lines)
        told = [line for line in lines if line.startswith("remote:")]
        self._claims.check(
            f"the push of {version} is answered in the pusher's terminal",
            any(commit[:7] in line for line in told) and any(WORKFLOW in line for line in told),
            f"{len(told)} remote: lines",
        )
        return commit

    def _start_on_v1(self) -> None:
        self._screen.act("Instances start, on real releases")
        fetched = self._fetching.result(timeout=WAIT_S)
        self._small, self._single, self._large, self._larger = fetched.releases
        self._screen.say(f"Input: {fetched.origin}:")
        for release in fetched.releases:
            told = f"{len(release.files)} files, {len(release.modules)} Python modules"
            self._screen.say(f"  {release.filename}: {len(release.content):,} bytes, {told}")
        waiting = self._start("waits", self._small, "v1")
        approved = self._start("approved-at-the-end", self._single, "v1")
        self._start("sleeps", self._small, "v1", settle=SETTLE)
        self._start("works", self._large, "v1", settle="3 seconds")
        for audit in (waiting, approved):
            audit.send_chunks()
        # The last two get what they work on after v2 has been pushed: what they do with it is v1 all the same.
        for audit in (waiting, approved):
            audit.until(waits_for("event", "approval"), "to wait for approval")
        self._show_instances()

    def _push_second(self) -> None:
        self._screen.act("Version 2 is pushed while they run; v1's instances could not be replayed on it")
        self._commits["v2"] = self._push("v2", "Audit releases: look for risky calls")
        (latest, *_) = self._tenant.channel_history()
        self._claims.check(
            "the push of v2 moved the channel `live` from v1 to v2",
            (latest.from_commit, latest.to_commit, latest.kind) == (self._commits["v1"], self._commits["v2"], "push"),
            f"{self._commits['v1'][:8]} → {self._commits['v2'][:8]}, by {latest.who}",
        )

    def _kill_in_the_middle(self) -> None:
        self._screen.act("SIGKILL, in the middle of everything")
        newest = self._start("works-v2", self._larger, "v2", settle="3 seconds")
        sleeper, worker = self._audits["sleeps"], self._audits["works"]
        sleeper.send_chunks()
        asleep = sleeper.until(waits_for("sleep", "settle"), "to sleep")
        for audit in (worker, newest):
            audit.send_chunks()
        for audit in (worker, newest):
            audit.until(has_looked_at_some, "to be in the middle of its files")
        last = self._start("started-last", self._small, "v2")
        self._before = {name: audit.run.status() for name, audit in self._audits.items()}
        self._marks = {name: audit.mark(self._before[name].sequence) for name, audit in self._audits.items()}
        self._audits["approved-at-the-end"].approve()
        family, left = self._server.kill()
        self._killed_at_ms = time.time_ns() // 1_000_000
        self._screen.alarm(f"kill -9: the server is dead, and with it the {family - 1} processes below it.")
        self._show_instances(self._before)
        self._claims.check(
            "killed while instances waited, slept and worked",
            self._before["waits"].state == "waiting"
            and asleep.waiting_for is not None
            and (asleep.waiting_for.until_ms or 0) > time.time() * 1000
            and all(self._before[audit.run.id].state == "running" for audit in (worker, newest))
            and not self._before[last.run.id].is_final,
            f"{len(self._before)} instances",
        )
        self._claims.check("no process of the server outlives it", left == 0, f"{family} before, {left} after")

    def _restart(self) -> None:
        self._screen.act("Restart, from the files alone")
        took_s = self._server.start()
        self._screen.say(f"perdure serve: listens again after {took_s:.1f} s")
        found = {view.id: view for view in self._tenant.instances(limit=None)}
        self._claims.check(
            "every acknowledged start survived, on its commit",
            {name: view.commit for name, view in found.items()}
            == {name: self._commits[audit.version] for name, audit in self._audits.items()},
            f"{len(found)} of {len(self._audits)} instances",
        )
        kept = [
            name for name, audit in self._audits.items() if audit.mark(self._before[name].sequence) == self._marks[name]
        ]
        self._claims.check(
            "every journal goes on where it was: same hash chain",
            len(kept) == len(self._audits),
            f"{sum(status.sequence for status in self._before.values())} entries",
        )

    # --- after

    def _finish(self) -> None:
        self._screen.act("Old instances finish on v1, new ones on v2, side by side")
        self._start("after-restart", self._single, "v2").send_chunks()
        self._audits["started-last"].send_chunks()
        approved_before = self._audits["approved-at-the-end"]
        approved_before.run.result(timeout=WAIT_S)  # nobody sends it anything any more
        for audit in self._audits.values():
            if audit is not approved_before:
                audit.approve()
        results = {name: audit.run.result(timeout=WAIT_S) for name, audit in self._audits.items()}
        statuses = {name: audit.run.status() for name, audit in self._audits.items()}
        self._screen.table(
            ("instance", "commit", "report", "release", "found"),
            [
                (name, statuses[name].commit[:8], result["report"], result["release"], summary(result))
                for name, result in results.items()
            ],
        )
        self._afterwards.check_results(results, statuses)
        self._afterwards.check_journals(killed_at_ms=self._killed_at_ms)

    def _roll_back(self) -> None:
        self._screen.act("Roll back")
        move = self._tenant.rollback(why="v2 reports no inventory")
        self._screen.say(f"rollback: live {(move.from_commit or '')[:8]} → {move.to_commit[:8]} ({move.why})")
        again = self._start("after-rollback", self._small, "v1")
        again.send_chunks()
        again.approve()
        result = again.run.result(timeout=WAIT_S)
        self._screen.say(f"after-rollback runs {again.run.status().commit[:8]} and reports “{result['report']}”")
        self._claims.check(
            "rollback is one call: a new instance runs v1 again",
            move.to_commit == self._commits["v1"]
            and again.run.status().commit == self._commits["v1"]
            and result["report"] == "v1: inventory",
            move.to_commit[:8],
        )
        self._claims.check(
            "rollback rewrites nothing: the branch stays as pushed",
            self._repository.remote_branch() == self._commits["v2"],
            f"main is at {self._commits['v2'][:8]}",
        )

    # --- tools of the story

    def _start(self, name: str, release: Release, version: str, *, settle: str = "200 ms") -> Audit:
        payload = {
            "filename": release.filename,
            "sha256": release.sha256,
            "chunks": len(release.chunks),
            "settle": settle,
        }
        audit = self._audits[name] = Audit(self._tenant.start(WORKFLOW, payload, id=name), release, version)
        return audit

    def _show_instances(self, statuses: dict[str, Status] | None = None) -> None:
        shown = statuses or {name: audit.run.status() for name, audit in self._audits.items()}
        self._screen.table(
            ("instance", "version", "commit", "state", "entries", "waits for"),
            [
                (
                    name,
                    self._audits[name].version,
                    status.commit[:8],
                    status.state,
                    status.sequence,
                    rests_on(status),
                )
                for name, status in shown.items()
            ],
        )
