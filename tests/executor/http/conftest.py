"""One server for each test: the fake service is cheap, and its state is then the test's own."""

from collections.abc import Iterator

import pytest

from tests.executor.surface import Served, serving


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as found:
        yield found
