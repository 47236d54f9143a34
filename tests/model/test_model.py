"""P17: the oracle and the real platform get the same operations, with crashes, and agree on everything that can be seen.

After each operation: its answer or refusal; of every instance the state, what it waits for, its result, status,
attributes, stream, commit and journal (kinds, without traces); lists and counts. A kind of operation that never succeeds
would agree easily: each does in the stories that are told.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st

from executor.testing import inside
from tests.model.model import Model
from tests.model.moves import MOVES
from tests.model.operations import OPERATIONS
from tests.model.told import TOLD

PROFILE = os.environ.get("PERDURE_PROFILE", "quick")


@pytest.fixture(autouse=True)
def as_a_sandbox() -> Iterator[None]:
    """This process stands for a sandbox too: `run()` sees virtual clocks and drawn chance."""
    token = object()
    inside.enter(token, [])
    yield
    inside.leave(token)


def agree(examples: int, *, length: int = 20) -> Counter[str]:
    """How often each kind of operation succeeded."""
    done: Counter[str] = Counter()
    numbers = st.integers(0, (1 << 32) - 1)

    # A step of shrinking costs as much as an example: only the deep profile, which nobody waits for, has the time.
    shrink = [Phase.shrink] if PROFILE == "deep" else []

    @settings(max_examples=examples, phases=[Phase.generate, *shrink])
    @given(numbers, st.lists(numbers, min_size=length // 2, max_size=length))
    def both_agree(seed: int, story: list[int]) -> None:
        model = Model(seed, done)
        try:
            model.play(story)
        except BaseException:
            for operation in model.told:
                note(repr(operation))
            raise

    both_agree()
    return done


def test_the_platform_does_what_the_oracle_says() -> None:
    agree(40)


def test_the_platform_does_what_the_oracle_says_in_stories_that_are_told_of_each_kind_of_operation() -> None:
    done: Counter[str] = Counter()
    for seed, story in enumerate(TOLD.values()):
        Model(seed, done).play(story)
    assert [kind for kind in OPERATIONS if not done[kind]] == []


@pytest.mark.deep
def test_the_platform_does_what_the_oracle_says_in_long_stories() -> None:
    done = agree(2_000, length=40)
    assert [kind for kind in sorted(set(MOVES)) if not done[kind]] == []
