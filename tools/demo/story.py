"""The story: push, start, push again, kill, restart, finish side by side, roll back. Each act checks what it claims."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executor import Platform
from executor.platform import Run
from executor.views import Status
from tools.demo.claims import Claims, Stopped
from tools.demo.releases import Fetched, Release
from tools.demo.repository import Repository
from tools.demo.screen import Screen
from tools.demo.server import Server

WORKFLOW = "ReleaseAudit"
APPROVER = "kim"
WAIT_S = 45.0
SETTLE = "5 seconds"
"""How long the sleeper sleeps: long enough to be asleep when the server dies, short enough to watch."""


@dataclass(slots=True)
class Audit:
    """An instance, what it audits, and the version it was started on."""

    run: Run[Any]
    release: Release
    version: str

    def send_chunks(self, *, first: int = 0) -> None:
        """The archive as events; their ids make sending them again harmless."""
        for number, chunk in enumerate(self.release.chunks):
            if number >= first:
                self.run.send_event("chunk", chunk, id=f"chunk-{number}")

    def approve(self) -> None:
        self.run.send_event("approval", {"by": APPROVER}, id="approval")


class Story:
    def __init__(self, home: Path, server: Server, fetching: Future[Fetched], screen: Screen, claims: Claims) -> None:
        self._home = home
        self._server = server
        self._fetching = fetching
        self._screen = screen
        self._claims = claims
        self._audits: dict[str, Audit] = {}
        self._commits: dict[str, str] = {}

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
                self._look_inside()
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
            self._until(audit, _waits_for("event", "approval"), "to wait for approval")
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
        asleep = self._until(sleeper, _waits_for("sleep", "settle"), "to sleep")
        for audit in (worker, newest):
            audit.send_chunks()
        for audit in (worker, newest):
            self._until(audit, _has_looked_at_some, "to be in the middle of its files")
        last = self._start("started-last", self._small, "v2")
        self._before = {name: audit.run.status() for name, audit in self._audits.items()}
        self._marks = {name: self._mark(audit, self._before[name].sequence) for name, audit in self._audits.items()}
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
            name
            for name, audit in self._audits.items()
            if self._mark(audit, self._before[name].sequence) == self._marks[name]
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
                (name, statuses[name].commit[:8], result["report"], result["release"], _summary(result))
                for name, result in results.items()
            ],
        )
        self._check_results(results, statuses)
        self._check_journals()

    def _check_results(self, results: dict[str, Any], statuses: dict[str, Status]) -> None:
        for version, report in (("v1", "v1: inventory"), ("v2", "v2: risk")):
            names = [name for name, audit in self._audits.items() if audit.version == version]
            self._claims.check(
                f"started on {version}, finished on {version}: commit and report",
                names
                and all(
                    statuses[name].commit == self._commits[version] and results[name]["report"] == report
                    for name in names
                ),
                ", ".join(names),
            )
        old = [(audit.release, results[name]) for name, audit in self._audits.items() if audit.version == "v1"]
        self._claims.check(
            "reports are true: digests and lines counted outside",
            all(_inventory(release).items() <= result.items() for release, result in old),
            f"{sum(result['files'] for _, result in old)} files in {len(old)} audits",
        )
        self._claims.check(
            "an approval acknowledged before the kill counted",
            results["approved-at-the-end"]["approved_by"] == APPROVER,
        )

    def _check_journals(self) -> None:
        journals = {name: audit.run.journal() for name, audit in self._audits.items()}
        succeeded = {
            name: Counter(item.fields["path"] for item in items if item.kind == "step_succeeded")
            for name, items in journals.items()
        }
        self._claims.check(
            "no step took effect twice, whatever was killed",
            all(count == 1 for counts in succeeded.values() for count in counts.values()),
            f"{sum(map(len, succeeded.values()))} steps",
        )
        worked = [
            sum(1 for item in journals[name] if item.kind == "step_succeeded" and item.at_ms > self._killed_at_ms)
            for name in ("works", "works-v2")
        ]
        self._claims.check(
            "those at work went on from their last recorded step",
            all(0 < after < len(succeeded[name]) for name, after in zip(("works", "works-v2"), worked, strict=True)),
            f"{worked[0]} of {len(succeeded['works'])} and {worked[1]} of {len(succeeded['works-v2'])} steps after",
        )
        old, new = (self._names(journals[name]) for name in ("waits", "started-last"))
        self._claims.check(
            "v2 would break v1's replay: it asks for other steps",
            old[0] != new[0] and not set(old) & set(new),
            f"{old[0]}, {old[1]}, … / {new[0]}, {new[1]}, …",
        )

    @staticmethod
    def _names(journal: list[Any]) -> list[str]:
        """What an instance asked for, in order."""
        kinds = ("step_succeeded", "sleep_started", "wait_started")
        return [item.fields["path"].rpartition("#")[0] for item in journal if item.kind in kinds]

    def _look_inside(self) -> None:
        self._screen.act("One instance from inside: its database and its log")
        audit = self._audits["waits"]
        path = self._home / "facet.sqlite"
        path.write_bytes(audit.run.facet())
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as facet:
            sound = facet.execute("pragma integrity_check").fetchall() == [("ok",)]
            rows = facet.execute("select path, bytes, lines, sha256 from files order by bytes desc").fetchall()
            seals = facet.execute("select attempt from seals").fetchall()
        self._screen.say(f"Its facet, {path.stat().st_size:,} bytes, opened by Python's own sqlite3:")
        self._screen.table(
            ("path", "bytes", "lines", "sha256"),
            [(name, size, lines, sha[:16] + "…") for name, size, lines, sha in rows[:4]],
        )
        expected = {name: hashlib.sha256(content).hexdigest() for name, content in audit.release.files.items()}
        self._claims.check(
            "a facet is a SQLite file of what its steps wrote",
            sound and {name: sha for name, _, _, sha in rows} == expected,
            f"{len(rows)} files in its table",
        )
        attempts = audit.run.status().attempts
        self._claims.check(
            "a flaky step's failed attempts left nothing in it",
            seals == [(3,)] and attempts == {"notarise#1": 3},
            f"attempts: {attempts.get('notarise#1')}, rows: {len(seals)}",
        )
        lines = list(audit.run.logs())
        for line in lines[:4]:
            self._screen.say(f"  {line.step or 'run()':32} {line.text}")
        self._screen.say(f"  … {len(lines)} lines in all")
        per_step = Counter(line.step for line in lines)
        run_lines = [line.text for line in lines if not line.step]
        self._claims.check(
            "a log has each line once, although run() was replayed",
            run_lines == [f"auditing {audit.release.filename}", f"approved by {APPROVER}"]
            and all(per_step[f"parse {module}#1"] == 1 for module in audit.release.modules),
            f"{len(lines)} lines",
        )

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

    @staticmethod
    def _until(audit: Audit, condition: Callable[[Status], bool], what: str) -> Status:
        deadline = time.monotonic() + WAIT_S
        while True:
            status = audit.run.status()
            if condition(status):
                return status
            if status.is_final or status.state == "held" or time.monotonic() > deadline:
                error = f": {status.error.message}" if status.error else ""
                raise Stopped(f"instance {audit.run.id} was expected {what}, but is {status.state}{error}")
            time.sleep(0.02)

    @staticmethod
    def _mark(audit: Audit, sequence: int) -> str:
        """The hash chain of a journal at an entry: equal chains mean equal journals up to there."""
        (item,) = audit.run.journal(after=sequence - 1, limit=1)
        return item.chain

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
                    _rests_on(status),
                )
                for name, status in shown.items()
            ],
        )


def _waits_for(kind: str, name: str) -> Callable[[Status], bool]:
    """Whether an instance rests on a sleep or event of that name (the part before the occurrence)."""

    def waits(status: Status) -> bool:
        found = status.waiting_for
        return status.state == "waiting" and found is not None and found.kind == kind and found.name.startswith(name)

    return waits


def _has_looked_at_some(status: Status) -> bool:
    """Past the entries for three chunks at most and the first steps: in the middle of the files."""
    return status.sequence >= 18


def _rests_on(status: Status) -> str:
    found = status.waiting_for
    if found is None:
        return ""
    if found.kind == "event":
        return f'an event "{found.type}"'
    left_s = ((found.until_ms or 0) - time.time() * 1000) / 1000
    return f"{found.kind} {found.name.partition('#')[0]}, {left_s:.0f} s more"


def _inventory(release: Release) -> dict[str, Any]:
    """What a report of v1 must say, counted here from the same archive."""
    files = sorted(release.files.items())
    seal = repr([(path, hashlib.sha256(content).hexdigest()) for path, content in files])
    return {
        "files": len(files),
        "bytes": sum(len(content) for _, content in files),
        "lines": sum(_lines(content) for _, content in files),
        "modules": len(release.modules),
        "seal": hashlib.sha256(seal.encode()).hexdigest(),
    }


def _lines(content: bytes) -> int:
    try:
        return len(content.decode().splitlines())
    except UnicodeDecodeError:
        return 0


def _summary(result: dict[str, Any]) -> str:
    if "verdict" in result:
        return f"risk {result['verdict']}, score {result['score']}"
    return f"{result['files']} files, {result['lines']:,} lines"
