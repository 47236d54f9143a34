"""Audit a release before it ships, second version: it looks for risky calls, and reports a verdict.

Against version 1 it breaks every rule that would let running instances change over: steps have other names and another
order, the tables are others, and so is the report. That is the point: instances of version 1 must never run this.

payload and events are those of version 1.
"""

import asyncio

from audit import archive, metadata, risk

from executor.workflow import Event, NonRetryableError, Step, Workflow

AT_ONCE = 4
"""Files searched in parallel."""


class ReleaseAudit(Workflow):
    async def run(self, event: Event, step: Step) -> dict:
        release = event.payload
        print(f"auditing {release['filename']} for risky calls")

        chunks = []
        for number in range(1, release["chunks"] + 1):
            chunk = await step.wait_for_event(f"piece {number}", type="chunk", timeout="1 hour")
            chunks.append(chunk.payload)
        sdist = b"".join(chunks)

        package = await step.do("identify", self.identify, sdist, release["sha256"])
        modules = await step.do("list modules", self.list_modules, sdist)

        score = 0
        for first in range(0, len(modules), AT_ONCE):
            some = modules[first : first + AT_ONCE]
            score += sum(await asyncio.gather(*(step.do(f"search {path}", self.search, sdist, path) for path in some)))

        await step.sleep("rest", release.get("settle", "1 second"))
        worst = await step.do("rank", self.rank)
        print(f"score {score}: {risk.verdict(score)}")

        approval = await step.wait_for_event("sign-off", type="approval", timeout="30 days")
        return {
            "report": "v2: risk",
            "release": f"{package['name']} {package['version']}",
            "verdict": risk.verdict(score),
            "score": score,
            "worst": worst,
            "modules": len(modules),
            "approved_by": approval.payload["by"],
        }

    def identify(self, sdist: bytes, expected: str) -> dict:
        if archive.sha256(sdist) != expected:
            raise NonRetryableError("the archive is not the one that was announced: its SHA-256 differs")
        return metadata.read(archive.files(sdist))

    def list_modules(self, sdist: bytes) -> list[str]:
        self.facet.execute("create table findings (path text, line integer, call text, weight integer)")
        return [path for path in archive.files(sdist) if path.endswith(".py")]

    def search(self, sdist: bytes, path: str) -> int:
        calls = risk.calls(path, archive.files(sdist)[path])
        self.facet.executemany("insert into findings values (:path, :line, :call, :weight)", calls)
        for call in calls:
            print(f"line {call['line']}: {call['call']}()")
        return sum(call["weight"] for call in calls)

    def rank(self) -> list[dict]:
        rows = self.facet.execute(
            "select path, sum(weight) as score from findings group by path order by score desc, path limit 3"
        )
        return [{"path": row["path"], "score": row["score"]} for row in rows]
