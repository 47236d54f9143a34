"""What the state store refuses comes out of its port in the platform's own codes."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from executor.adapters.state import FacetsStateStore
from executor.core.errors import NotFound, Refused
from executor.core.search import Query
from executor.ports import Append, Row
from facets import Limits, StateStore, delta

ROW = Row("waiting", None, "W", "c" * 40, 1, 1, b"")


def test_going_back_too_far_is_a_refusal_of_the_facet(tmp_path: Path) -> None:
    store = FacetsStateStore(StateStore.open(tmp_path, fold="manual", limits=Limits(delta_bytes_max=4000)))
    try:
        first = Random(1).randbytes(3072)
        whole = first + Random(2).randbytes(3072)
        store.append([Append("acme", "a", 1, b"1", delta.between(b"", first), ROW)])
        store.append([Append("acme", "a", 2, b"2", delta.between(first, whole), ROW)])
        with pytest.raises(Refused) as refused:
            store.revert("acme", "a", after=0)
        assert (refused.value.code, refused.value.hint) == (
            "facet_refused",
            "Go back less far, or start a new instance.",
        )
        assert store.revert("acme", "a", after=2) is None
        back = store.revert("acme", "a", after=1)
        store.append([Append("acme", "a", 3, b"3", back, ROW)])
        assert store.image("acme", "a") == first
        with pytest.raises(NotFound):
            store.revert("acme", "b", after=0)
    finally:
        store.close()


def test_a_strange_cursor_is_a_bad_request(tmp_path: Path) -> None:
    store = FacetsStateStore.open(tmp_path)
    try:
        for wanted, cursor in ((Query(), "x"), (Query(order="size"), None)):
            with pytest.raises(Refused) as refused:
                store.page("acme", wanted, limit=1, after=cursor)
            assert refused.value.code == "bad_request"
    finally:
        store.close()


@pytest.mark.parametrize("sequence", [0, 7])
def test_record_of_an_instance_that_is_not_there_concerns_nobody_else(tmp_path: Path, sequence: int) -> None:
    """It was deleted while its writer was at work: the others' records are written, and the store goes on."""
    store = FacetsStateStore.open(tmp_path)
    try:
        late = Append("acme", "gone", sequence, b"7" if sequence else b"", None, ROW)
        with pytest.raises(NotFound) as refused:
            store.append([Append("acme", "a", 1, b"1", None, ROW), late])
        assert refused.value.code == "instance_not_found"
        assert (refused.value.details["tenant"], refused.value.details["instance"]) == ("acme", "gone")
        store.append([Append("acme", "a", 1, b"1", None, ROW)])
        assert store.journal("acme", "a") == [(1, b"1")]
    finally:
        store.close()
