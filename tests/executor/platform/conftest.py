"""The same platform, embedded and remote: every test that takes `platform` runs over both."""

from collections.abc import Iterator

import pytest

from executor.platform import Platform, Tenant
from executor.platform.embedded import Embedded
from tests.executor.surface import Served, serving


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as found:
        yield found


class _Kept(Embedded):
    """The embedded transport to a host that the fixture opens and closes."""

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture(params=["embedded", "remote"])
def platform(request: pytest.FixtureRequest, served: Served) -> Iterator[Platform]:
    made = (
        Platform(_Kept(served.host))
        if request.param == "embedded"
        else Platform.connect(served.url, token=served.service.admin_token)
    )
    with made:
        yield made


@pytest.fixture
def acme(platform: Platform) -> Tenant:
    return platform.tenant("acme")
