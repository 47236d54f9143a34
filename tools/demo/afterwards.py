"""What must be true once all instances have finished: their results, their journals, and one of them from inside."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from executor.views import Status
from tools.demo.audits import APPROVER, Audit
from tools.demo.claims import Claims
from tools.demo.reports import inventory
from tools.demo.screen import Screen


class Afterwards:
    """`commits`: of v1 and v2."""

    def __init__(self, screen: Screen, claims: Claims, audits: dict[str, Audit], commits: dict[str, str]) -> None:
        self._screen = screen
        self._claims = claims
        self._audits = audits
        self._commits = commits

    def check_results(self, results: dict[str, Any], statuses: dict[str, Status]) -> None:
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
            all(inventory(release).items() <= result.items() for release, result in old),
            f"{sum(result['files'] for _, result in old)} files in {len(old)} audits",
        )
        self._claims.check(
            "an approval acknowledged before the kill counted",
            results["approved-at-the-end"]["approved_by"] == APPROVER,
        )

    def check_journals(self, *, killed_at_ms: int) -> None:
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
            sum(1 for item in journals[name] if item.kind == "step_succeeded" and item.at_ms > killed_at_ms)
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

    def look_inside(self, home: Path) -> None:
        self._screen.act("One instance from inside: its database and its log")
        audit = self._audits["waits"]
        path = home / "facet.sqlite"
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
