"""Entries to bytes and back; the chain; hostile bytes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.core import codec
from executor.core.entries import AnyEntry, SleepStarted, Started, StepStarted, StepSucceeded, Trace
from executor.core.errors import Corrupt
from tests.executor.core.strategies import journals

STARTED = Started(5, "W", "c" * 40, b"payload", b"seed")


def stored(journal):
    chain, out = codec.CHAIN_START, []
    for entry in journal:
        chain = codec.chain_after(chain, entry)
        out.append(codec.encode(entry, chain))
    return out


@given(journals())
def test_journal_comes_back_as_it_was(journal):
    assert codec.decode_journal(stored(journal)) == journal


@given(journals(), st.data())
def test_a_changed_fact_breaks_the_chain(journal, data):
    index = data.draw(st.integers(0, len(journal) - 1))
    bytes_ = stored(journal)
    entry, chain = codec.decode(bytes_[index])
    field = data.draw(
        st.sampled_from(
            [name for name in entry.__struct_fields__ if isinstance(getattr(entry, name), str | bytes)] or [None]
        )
    )
    if field is None:
        return
    value = getattr(entry, field)
    changed = msgspec.structs.replace(entry, **{field: value + ("x" if isinstance(value, str) else b"x")})
    bytes_[index] = codec.encode(changed, chain)
    with pytest.raises(Corrupt) as caught:
        codec.decode_journal(bytes_)
    assert caught.value.details == {"sequence": index + 1}


@given(journals(min_size=2), st.data())
def test_a_dropped_or_swapped_entry_breaks_the_chain(journal, data):
    bytes_ = stored(journal)
    index = data.draw(st.integers(0, len(bytes_) - 2))
    swapped = [*bytes_[:index], bytes_[index + 1], bytes_[index], *bytes_[index + 2 :]]
    for other in (bytes_[:index] + bytes_[index + 1 :], swapped):
        with pytest.raises(Corrupt, match="does not follow from entry"):
            codec.decode_journal(other)


def test_chain_does_not_depend_on_the_clock():
    early = StepSucceeded(10, "a#1", b"q" * 16, "w.py:3", 1, 9, b"v")
    late = msgspec.structs.replace(early, at_ms=99_999, started_at_ms=88_888)
    assert codec.chain_after(codec.CHAIN_START, early) == codec.chain_after(codec.CHAIN_START, late)
    slept = SleepStarted(10, "a#1", b"q" * 16, "w.py:3", 70)
    assert codec.chain_after(codec.CHAIN_START, slept) == codec.chain_after(
        codec.CHAIN_START, msgspec.structs.replace(slept, wake_at_ms=71)
    )


def test_chain_depends_on_kind_and_facts():
    entry = StepSucceeded(10, "a#1", b"q" * 16, "w.py:3", 1, 9, b"v")
    chains = {
        codec.chain_after(codec.CHAIN_START, msgspec.structs.replace(entry, **change))
        for change in ({}, {"path": "a#2"}, {"asked": b"p" * 16}, {"attempt": 2}, {"value": b"w"})
    }
    assert len(chains) == 5


@given(st.binary(max_size=200))
def test_any_bytes_are_an_entry_or_corrupt(data):
    try:
        entry, chain = codec.decode(data)
    except Corrupt as error:
        assert error.code == "corrupt_journal"
    else:
        assert isinstance(entry, AnyEntry)
        assert len(chain) == (0 if isinstance(entry, Trace) else codec.CHAIN_BYTES)


def test_newer_format_is_named():
    data = codec.encode(STARTED, bytes(16))
    with pytest.raises(Corrupt) as caught:
        codec.decode(b"\x03" + data[1:])
    assert caught.value.message == "a journal entry has form 3, this release reads 1 and 2"


def test_trace_has_no_chain_and_changes_none():
    trace = StepStarted(5, "a#1", "w.py:3", 1)
    chain = codec.chain_after(codec.CHAIN_START, STARTED)
    assert codec.chain_after(chain, trace) == chain
    assert codec.decode(codec.encode(trace, chain)) == (trace, b"")


def test_entry_in_the_form_of_another_is_corrupt():
    data = codec.encode(STARTED, bytes(16))
    with pytest.raises(Corrupt, match="a Started is stored in the wrong form"):
        codec.decode(b"\x02" + data[17:])
    trace = codec.encode(StepStarted(5, "a#1", "w.py:3", 1), bytes(16))
    with pytest.raises(Corrupt, match="a StepStarted is stored in the wrong form"):
        codec.decode(b"\x01" + bytes(16) + trace[1:])
