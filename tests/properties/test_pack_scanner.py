"""Laws of the pack scanner: any bytes are accepted or Refused, nothing else; on real packs it agrees with dulwich."""

import io
from itertools import pairwise
from pathlib import Path

import pytest
from dulwich.object_format import SHA1
from dulwich.pack import PackData
from hypothesis import given
from hypothesis import strategies as st

from gitstore.errors import Refused
from gitstore.limits import Limits
from gitstore.scan import PackScanner, PackSummary
from tests.gitstore import hostile
from tests.gitstore.hostile import BLOB, COMMIT, OFS_DELTA, REF_DELTA, TAG, TREE

LIMITS = Limits(object_count_max=100, object_bytes_max=5_000, inflated_bytes_max=20_000, pack_bytes_max=50_000)


def outcome(body: bytes, cuts: list[int]) -> PackSummary | str:
    """The summary, or the text of the refusal; any other exception fails the test."""
    scanner = PackScanner(LIMITS)
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    try:
        for start, end in pairwise(places):
            scanner.feed(body[start:end])
        return scanner.finish()
    except Refused as error:
        assert error.code in ("pack_malformed", "limit_exceeded")
        return error.message


@st.composite
def packs(draw: st.DrawFn) -> bytes:
    """Packs that are valid, or nearly: lies about sizes, bases and counts, then perhaps some bytes changed."""
    entries: list[bytes] = []
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from([COMMIT, TREE, BLOB, TAG, OFS_DELTA, REF_DELTA]))
        content = draw(st.binary(max_size=60)) * draw(st.sampled_from([1, 1, 1, 200]))
        base = b""
        if kind in (OFS_DELTA, REF_DELTA) and draw(st.booleans()):
            size = draw(st.integers(1, 6000).filter(lambda value: value % 256 != 0))
            content = hostile.copy_delta(size, draw(st.integers(0, 3)))
        if kind == OFS_DELTA:
            near = len(entries[-1]) if entries else 1
            base = hostile.back(draw(st.just(near) | st.integers(0, 1 << 40)))
        elif kind == REF_DELTA:
            base = draw(st.binary(min_size=20, max_size=20))
        size_claim = draw(st.none() | st.none() | st.integers(0, 1 << 60))
        entries.append(hostile.entry(kind, content, base=base, size=size_claim))
    body = bytearray(hostile.pack(*entries, count=draw(st.none() | st.none() | st.integers(0, 200))))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    return bytes(body)


@given(body=st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"PACK\0\0\0\2\0\0\0\2" + tail))
def test_any_bytes_are_accepted_or_refused(body: bytes) -> None:
    outcome(body, [])


@given(body=packs(), cuts=st.lists(st.integers(0, 1 << 16), max_size=8))
def test_almost_valid_packs_are_accepted_or_refused_alike_in_any_pieces(body: bytes, cuts: list[int]) -> None:
    whole = outcome(body, [])
    pieces = outcome(body, cuts)
    # A refusal may come for another reason when less of the pack is there at that moment, but it does come.
    assert isinstance(whole, PackSummary) == isinstance(pieces, PackSummary)
    if isinstance(whole, PackSummary):
        assert whole == pieces


@given(body=packs())
def test_what_is_accepted_was_bounded(body: bytes) -> None:
    found = outcome(body, [])
    if isinstance(found, PackSummary):
        assert found.object_count <= LIMITS.object_count_max
        assert found.inflated_bytes <= LIMITS.inflated_bytes_max
        assert found.pack_bytes <= min(len(body), LIMITS.pack_bytes_max)


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Packs by real git: whole objects, offset deltas, reference deltas."""
    repository = hostile.Repository(Path(tmp_path_factory.mktemp("history")))
    text = "".join(f"def function_{number}(): return {number}\n" for number in range(300))
    for step in range(12):
        tip = repository.commit({"a.py": text + f"x = {step}\n" * step, f"b/{step}.bin": bytes(range(step)) * 50})
    repository.git("tag", "-a", "-m", "a tag", "v1")
    options = [("--window=0",), ("--window=20", "--delta-base-offset"), ("--window=20",)]
    return [repository.pack(tip, options=one) for one in options] + [
        repository.pack("refs/tags/v1", options=("--delta-base-offset",))
    ]


def test_scanner_agrees_with_dulwich_on_packs_by_git(histories: list[bytes]) -> None:
    kinds = set()
    for body in histories:
        scanner = PackScanner(Limits())
        scanner.feed(body)
        summary = scanner.finish()
        with PackData.from_file(io.BytesIO(body), SHA1, len(body)) as data:
            objects = list(data.iter_unpacked())
            assert summary.checksum == data.get_stored_checksum().hex()
        assert summary.object_count == len(objects)
        assert summary.delta_count == sum(one.pack_type_num in (OFS_DELTA, REF_DELTA) for one in objects)
        stored = sum(sum(map(len, one.decomp_chunks)) for one in objects)
        assert summary.inflated_bytes >= stored
        if summary.delta_count == 0:
            assert summary.inflated_bytes == stored
        kinds |= {one.pack_type_num for one in objects}
    assert kinds == {COMMIT, TREE, BLOB, TAG, OFS_DELTA, REF_DELTA}
