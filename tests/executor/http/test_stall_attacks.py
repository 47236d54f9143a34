"""One legal call, however absurd, holds up nobody else: what is large is worked on elsewhere, or refused."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import msgspec
import pytest
import trio

from executor import wire
from executor.core.errors import Refused
from executor.engine.portions import JOURNAL_PORTION, journal_page
from executor.http import api
from executor.operations import OPERATIONS
from executor.views import JournalItem, ResultView


def operation(name, called):
    async def call(*before, **keywords):
        called.append((threading.current_thread(), keywords))
        return called[0]

    async def authenticate(_secret):
        return None

    service = SimpleNamespace(**{name: call, "authenticate": authenticate})
    return api._Operation(service, OPERATIONS[name], 64 * 1024 * 1024, trio.Event())


class Names(str):
    """A text that counts how often it is compared."""

    __slots__ = ()
    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Names.compared += 1
        return str.__eq__(self, other)


async def test_thousands_of_names_in_a_query_are_looked_at_once_each(monkeypatch):
    pairs = [(Names(f"n{number}"), "") for number in range(8_000)]
    monkeypatch.setattr(api, "parse_qsl", lambda *_args, **_options: [*pairs, (Names("n7"), "")])
    scope = {"query_string": b"", "headers": []}
    with pytest.raises(Refused, match="The query has 'n7' twice"):
        await operation("status", [])._arguments(scope, None)
    assert Names.compared < 50_000


@pytest.mark.parametrize(("count", "is_elsewhere"), [(10, False), (100_000, True)])
async def test_large_body_is_read_in_another_thread(monkeypatch, count, is_elsewhere):
    threads = []
    inward = wire.payload_inward
    monkeypatch.setattr(
        wire, "payload_inward", lambda found: threads.append(threading.current_thread()) or inward(found)
    )
    body = msgspec.json.encode({"workflow": "W", "payload": [1] * count})

    async def read_body(_scope, _receive, *, limit):
        assert len(body) <= limit
        return body

    monkeypatch.setattr(api.bodies, "read_body", read_body)
    await operation("start", [])._arguments({"headers": []}, None)
    assert (threads != [threading.current_thread()]) == is_elsewhere


@pytest.mark.parametrize(
    ("value", "is_large"),
    [
        ([], False),
        ({"a": [1, 2, {"b": "x"}]}, False),
        (["x"] * 100, False),
        ([1] * 10_000, True),
        ([[]] * 3_000, True),
        ({str(number): 1 for number in range(3_000)}, True),
        ("x" * 100_000, True),
        (b"x" * 100_000, True),
        ([["x" * 20_000]] * 4, True),
    ],
)
def test_what_takes_a_while_to_encode_is_told_apart(value, is_large):
    item = JournalItem(sequence=1, at_ms=0, kind="k", chain="", fields={"value": value})
    for view in (ResultView(output=value), item, [item]):
        assert wire.is_large(view) == is_large


async def test_page_of_a_journal_has_a_bound_in_bytes_and_one_entry_at_least():
    class Store:
        def __init__(self, size):
            self.size = size
            self.asked = 0

        def journal(self, _tenant, _instance, *, after, limit):
            self.asked += 1
            return [(number, bytes(self.size)) for number in range(after + 1, min(after + limit, 950) + 1)]

    async def page(size, after=0, limit=1_000):
        store = Store(size)
        found = journal_page(store, ("acme", "i"), after, limit)
        return [sequence for sequence, _ in found], store.asked

    assert (await page(10))[0] == list(range(1, 951))
    assert (await page(10, after=940, limit=5))[0] == list(range(941, 946))
    large, asked = await page(1_000_000)
    assert (large, asked) == (list(range(1, JOURNAL_PORTION + 1)), 1)
    assert (await page(20_000_000, after=949))[0] == [950]
    assert (await page(10, after=950))[0] == []
