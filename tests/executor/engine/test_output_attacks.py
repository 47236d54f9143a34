"""What a sandbox says that it printed: it grows neither memory nor disk beyond the bounds of output, nor ends anything."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from executor.core.commands import Complete
from executor.engine import hearing, output
from executor.ports import OutputText
from executor.sandbox import protocol
from executor.sandbox.protocol import Output, ProtocolError
from facets.output import OutputStore
from facets.records import OutputLine
from tests.executor.engine.world import COMMIT, ScriptedHost, world

KEY = ("acme", "one")


@pytest.mark.parametrize("number", [2**63, 2**64 - 1])
@pytest.mark.parametrize("field", ["position", "number", "at_ms", "attempt"])
def test_number_that_no_database_holds_breaks_the_protocol(field, number):
    fields = {"position": 0, "number": 0, "at_ms": 0, "attempt": 0} | {field: number}
    line = Output(run=1, stream="log", level="", step="", text="x", **fields)
    body = protocol.encode_message([line])[protocol.LENGTH_BYTES :]
    with pytest.raises(ProtocolError):
        protocol.decode_from_sandbox(body)


@pytest.mark.parametrize("edge", [2**63 - 1, -(2**63)])
async def test_line_of_absurd_numbers_and_texts_is_kept_within_bounds(tmp_path, edge):
    host = ScriptedHost()
    host.scripts["Bad"] = lambda _seen: ([], False)
    host.scripts["Good"] = lambda _seen: ([Complete(b"\xc0")], False)
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="Bad", commit=COMMIT, payload=b"\xc0")
        await trio.testing.wait_all_tasks_blocked(0.01)
        [sandbox] = host.living
        run = next(iter(sandbox.runs))
        large = "x" * 1_000_000
        sandbox.say([Output(run, edge, edge, edge, "log", large, large, edge, large)])
        await trio.testing.wait_all_tasks_blocked(0.01)
        await w.engine.output.flush()
        [line] = w.store.output(*KEY, after=0, limit=10)
        assert (len(line.text), len(line.level), len(line.step)) == (10_000, 64, 1_024)
        assert line.at_ms in (0, hearing.OUTPUT_AT_MS_MAX)
        await w.engine.start(("other", "one"), workflow="Good", commit=COMMIT, payload=b"\xc0")
        assert await w.until_final(("other", "one")) == "complete"
        await w.engine.terminate(KEY)


def line(text):
    return OutputText("acme", "one", 0, 0, 0, "log", "", "", 0, text)


async def test_lines_that_wait_to_be_written_have_a_bound_in_bytes(monkeypatch):
    monkeypatch.setattr(output, "BYTES_PENDING_MAX", 1_000)
    written = []

    class Store:
        def append_output(self, lines):
            written.extend(lines)

    buffer = output.OutputBuffer(Store(), lambda _key: None)
    for number in range(5):
        buffer.add(line(str(number) * 300))
    assert buffer.dropped == {"acme": 2}
    await buffer.flush()
    buffer.add(line("5"))
    await buffer.flush()
    assert [text.text[0] for text in written] == ["0", "1", "2", "5"]


def test_bound_of_an_instances_output_counts_names_of_steps_and_levels_too(tmp_path):
    store = OutputStore(tmp_path / "output.db", bytes_max=1_000)
    try:
        lines = [OutputLine("acme", "one", 0, number, 0, "log", "l" * 200, "s" * 200, 0, "") for number in range(10)]
        store.append(lines, key_of=lambda _tenant, _instance: 1)
        kept = [one for _, one in store.read("acme", "one", 1, after=0, limit=100)]
    finally:
        store.close()
    assert [one.text for one in kept] == ["", "", "output is cut here: an instance keeps 1000 bytes of it"]
