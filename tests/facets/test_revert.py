"""Going back to an older facet: by one delta, for small and large ones, as far as the history is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facets import Limits, NotFound, Record, Refused, StateStore, delta
from tests.facets.making import row

KIB = 1024
SMALL = Limits(paged_bytes_min=8 * KIB, facet_history_bytes_max=64 * KIB, delta_bytes_max=40 * KIB)


def grown(store: StateStore, images: list[bytes], *, first: int = 1) -> None:
    """Records, the first of them numbered `first`, that make the facet one image after the other."""
    now = store.image("acme", "a") if first > 1 else b""
    for number, image in enumerate(images, first):
        change = delta.between(now, image) or None
        store.append([Record("acme", "a", number, b"entry", change, row())])
        now = image


def noise(seed: int, size: int) -> bytes:
    return Random(seed).randbytes(size)


@given(
    sizes=st.lists(st.sampled_from([0, 1, 1500, 6 * KIB, 20 * KIB]), min_size=1, max_size=6),
    folds=st.sets(st.integers(0, 5)),
    after=st.integers(0, 6),
    seed=st.integers(0, 3),
)
def test_appended_it_makes_the_facet_what_it_was(
    sizes: list[int], folds: set[int], after: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    after = min(after, len(sizes))
    images = [b""]
    limits = dataclasses.replace(SMALL, facet_history_bytes_max=1024 * KIB)
    with StateStore.open(tmp_path_factory.mktemp("facets"), fold="manual", limits=limits) as store:
        for number, size in enumerate(sizes, 1):
            # Some of it is as before, some is new.
            image = (images[-1][: size // 2] + noise(seed + number % 2, size))[:size]
            change = delta.between(images[-1], image) or None
            store.append([Record("acme", "a", number, b"entry", change, row())])
            images.append(image)
            if number in folds:
                store.fold()
        back = store.revert("acme", "a", after=after)
        assert (back is None) == (images[after] == images[-1])
        last = len(sizes) + 1
        store.append([Record("acme", "a", last, b"back", back, row())])
        assert store.image("acme", "a") == images[after]
        store.fold()
        assert store.image("acme", "a") == images[after]
        assert store.image("acme", "a", at=last - 1) == images[-1]
        assert store.check() == []


def test_to_go_back_to_the_present_changes_nothing(tmp_path: Path) -> None:
    with StateStore.open(tmp_path, fold="manual") as store:
        grown(store, [b"x" * 3000, b"x" * 3000])
        assert store.revert("acme", "a", after=2) is None
        assert store.revert("acme", "a", after=1) is None
        assert store.revert("acme", "a", after=0) is not None


def test_records_that_do_not_exist_are_not_found(tmp_path: Path) -> None:
    with StateStore.open(tmp_path, fold="manual") as store:
        grown(store, [b"x"])
        for after in (-1, 2):
            with pytest.raises(NotFound) as caught:
                store.revert("acme", "a", after=after)
            assert caught.value.code == "record_not_found"
        with pytest.raises(NotFound) as caught:
            store.revert("acme", "b", after=0)
        assert caught.value.code == "instance_not_found"


def forgetful(path: Path, limits: Limits) -> StateStore:
    """A store with a facet whose first changes are not kept any more; entry 1 has none."""
    store = StateStore.open(path, fold="manual", limits=limits)
    grown(store, [b"", *(noise(number, 20 * KIB) for number in range(20))])
    store.fold()
    for number in range(20, 40):
        grown(store, [noise(number, 20 * KIB)], first=number + 2)
        store.fold()
    return store


@pytest.mark.parametrize("paged_bytes_min", [8 * KIB, 80 * KIB])
def test_what_is_not_kept_is_refused_by_name_with_what_is_left(tmp_path: Path, paged_bytes_min: int) -> None:
    with forgetful(tmp_path, dataclasses.replace(SMALL, paged_bytes_min=paged_bytes_min)) as store:
        with pytest.raises(Refused) as caught:
            store.revert("acme", "a", after=5)
        oldest = caught.value.details["oldest"]
        assert caught.value.code == "facet_not_kept"
        assert caught.value.message == "The facet as of entry 5 is not kept any more."
        assert caught.value.hint == f"Go back to entry {oldest} or a later one, or to before the facet began."
        assert isinstance(oldest, int)
        assert 5 < oldest < 41
        before = store.image("acme", "a", at=oldest)
        store.append([Record("acme", "a", 42, b"", store.revert("acme", "a", after=oldest), row())])
        assert store.image("acme", "a") == before


@pytest.mark.parametrize("paged_bytes_min", [8 * KIB, 80 * KIB])
def test_the_time_before_the_facet_needs_no_history(tmp_path: Path, paged_bytes_min: int) -> None:
    with forgetful(tmp_path, dataclasses.replace(SMALL, paged_bytes_min=paged_bytes_min)) as store:
        back = store.revert("acme", "a", after=1)
        assert back == store.revert("acme", "a", after=0)
        store.append([Record("acme", "a", 42, b"", back, row())])
        assert store.image("acme", "a") == b""


def test_too_much_at_once_is_refused_with_its_size(tmp_path: Path) -> None:
    with StateStore.open(tmp_path, fold="manual", limits=SMALL) as store:
        grown(store, [noise(1, 30 * KIB), noise(1, 30 * KIB) + noise(2, 30 * KIB)])
        with pytest.raises(Refused) as caught:
            store.revert("acme", "a", after=0)
        assert caught.value.code == "facet_delta_too_large"
        assert caught.value.message == (
            "To go back to entry 0 changes 61440 bytes of the facet; 40960 are allowed at once."
        )
        assert caught.value.hint == "Go back less far, or start a new instance."
        assert store.revert("acme", "a", after=1) is not None


def test_changes_that_undid_each_other_do_not_count(tmp_path: Path) -> None:
    """Ten times as much was changed, all over the facet, as one delta may hold."""
    limits = dataclasses.replace(SMALL, facet_history_bytes_max=4096 * KIB)
    part = 30 * KIB
    whole = noise(1, 10 * part)
    images = [whole[:size] for size in range(part, 11 * part, part)]
    for at in range(0, 10 * part, part):
        images += [whole[:at] + noise(2, part) + whole[at + part :], whole]
    with StateStore.open(tmp_path, fold="manual", limits=limits) as store:
        grown(store, [*images, b"!" + whole[1:]])
        back = store.revert("acme", "a", after=10)
        assert back is not None
        header = delta.read_header(back, bytes_max=1 << 20)
        assert header is not None
        assert header.block_count == 1
