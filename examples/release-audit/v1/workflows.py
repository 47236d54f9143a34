"""Audit a release before it ships: look at every file of a source distribution, ask a person, report.

A sandbox has neither network nor files, so the archive comes in as events, in pieces. From there on everything is real:
it is unpacked in memory, hashed, counted and parsed, one journaled step after the other, and what the steps find lies
in the instance's own SQLite database.

payload: {"filename", "sha256", "chunks": how many events bring it, "settle": how long to rest before the last look}
events:  "chunk" (bytes, in order), "approval" ({"by": who})
"""

import asyncio

from audit import archive, metadata, source

from executor.workflow import Event, NonRetryableError, Retry, Step, Workflow

AT_ONCE = 4
"""Files parsed in parallel."""


class ReleaseAudit(Workflow):
    async def run(self, event: Event, step: Step) -> dict:
        release = event.payload
        print(f"auditing {release['filename']}")

        chunks = []
        for _ in range(release["chunks"]):
            chunk = await step.wait_for_event("chunk", type="chunk", timeout="1 hour")
            chunks.append(chunk.payload)
        sdist = b"".join(chunks)

        paths = await step.do("unpack", self.unpack, sdist, release["sha256"])
        total, lines, package = await asyncio.gather(
            step.do("hash files", self.hash_files, sdist),
            step.do("count lines", self.count_lines, sdist),
            step.do("read metadata", self.read_metadata, sdist),
        )

        modules = [path for path in paths if path.endswith(".py")]
        definitions = 0
        imports = set()
        for first in range(0, len(modules), AT_ONCE):
            some = modules[first : first + AT_ONCE]
            for facts in await asyncio.gather(*(step.do(f"parse {path}", self.parse, sdist, path) for path in some)):
                definitions += facts["definitions"]
                imports.update(facts["imports"])

        await step.sleep("settle", release.get("settle", "1 second"))

        @step.do("notarise", retry=Retry(limit=4, delay="100 ms", backoff="constant"))
        def notarise() -> str:
            """Flaky on purpose: two attempts fail after they have written. Nothing of what they wrote stays."""
            attempt = step.current().attempt
            self.facet.execute("insert into seals (attempt) values (?)", (attempt,))
            if attempt < 3:
                raise ConnectionError(f"the notary does not answer (on purpose, attempt {attempt})")
            rows = self.facet.execute("select path, sha256 from files order by path")
            return archive.sha256(repr([tuple(row) for row in rows]).encode())

        seal = await notarise()

        approval = await step.wait_for_event("approval", type="approval", timeout="30 days")
        print(f"approved by {approval.payload['by']}")
        return {
            "report": "v1: inventory",
            "release": f"{package['name']} {package['version']}",
            "licence": package["licence"],
            "files": len(paths),
            "bytes": total,
            "lines": lines,
            "modules": len(modules),
            "definitions": definitions,
            "imports": sorted(imports),
            "seal": seal,
            "approved_by": approval.payload["by"],
        }

    def unpack(self, sdist: bytes, expected: str) -> list[str]:
        """Check the archive's digest, unpack it in memory, and begin the tables."""
        if archive.sha256(sdist) != expected:
            raise NonRetryableError("the archive is not the one that was announced: its SHA-256 differs")
        files = archive.files(sdist)
        self.facet.execute(
            """
            create table files (path text primary key, bytes integer, sha256 text, lines integer) without rowid;
            create table imports (path text, module text, primary key (path, module)) without rowid;
            create table seals (attempt integer);
            """
        )
        self.facet.executemany(
            "insert into files (path, bytes) values (?, ?)", [(path, len(content)) for path, content in files.items()]
        )
        print(f"{len(files)} files in {len(sdist)} bytes")
        return list(files)

    def hash_files(self, sdist: bytes) -> int:
        files = archive.files(sdist)
        self.facet.executemany(
            "update files set sha256 = ? where path = ?",
            [(archive.sha256(content), path) for path, content in files.items()],
        )
        return sum(map(len, files.values()))

    def count_lines(self, sdist: bytes) -> int:
        counts = [(archive.line_count(content), path) for path, content in archive.files(sdist).items()]
        self.facet.executemany("update files set lines = ? where path = ?", counts)
        return sum(count for count, _ in counts)

    def read_metadata(self, sdist: bytes) -> dict:
        return metadata.read(archive.files(sdist))

    def parse(self, sdist: bytes, path: str) -> dict:
        facts = source.facts(path, archive.files(sdist)[path])
        self.facet.executemany("insert into imports values (?, ?)", [(path, module) for module in facts["imports"]])
        print(f"{facts['definitions']} definitions" + (f", {facts['problem']}" if facts["problem"] else ""))
        return facts
