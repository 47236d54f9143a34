"""What is remembered of streams, however many a tenant makes, and numbers that no store holds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from executor.core import codec, search
from executor.core.entries import Emitted
from executor.core.errors import Refused
from executor.engine import streams
from executor.engine.streams import Streams

ENTRY = codec.encode(Emitted(0, "s", 0, [b"\xc0"], "", 0, 0), codec.CHAIN_START)


class Store:
    def journal(self, _tenant, _instance, *, after, limit):
        return [(sequence, ENTRY) for sequence in range(after + 1, after + limit + 1)]


def look(found, tenant, name, entries):
    row = SimpleNamespace(tenant=tenant, instance=name, sequence=entries, row=SimpleNamespace(created_at_ms=1))
    known = found.known(row)
    while found.portion(row, known):
        pass
    return known


def test_places_of_a_tenants_many_emitted_items_are_forgotten_before_those_of_others(monkeypatch):
    monkeypatch.setattr(streams, "PLACES_MAX", 1_000)
    found = Streams(Store())
    look(found, "other", "one", 100)
    for number in range(50):
        look(found, "acme", f"i{number}", 400)
        assert sum(known.size for known in found._known.values()) <= 1_000 + 400
    assert ("other", "one") in found._known
    look(found, "acme", "large", 5_000)
    assert look(found, "other", "one", 100).size == 100
    assert list(found._known) == [("other", "one")]
    assert found._of_tenant == {"other": 1}


def test_place_of_an_item_takes_sixteen_bytes():
    known = look(Streams(Store()), "acme", "one", 10_000)
    firsts, sequences = known.places["s"]
    assert (len(firsts), firsts.itemsize + sequences.itemsize) == (10_000, 16)


@pytest.mark.parametrize("at_ms", [2**63, -(2**64), 10**18])
@pytest.mark.parametrize("name", ["created_from_ms", "created_to_ms", "updated_from_ms", "updated_to_ms"])
def test_time_that_no_store_holds_is_refused(name, at_ms):
    with pytest.raises(Refused) as caught:
        search.query(**{name: at_ms})
    assert (caught.value.code, caught.value.message) == ("bad_request", "a time is beyond the year 9999")
