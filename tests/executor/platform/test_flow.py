"""Options of a start, and tenants' settings, over every surface: they reach the service as they were meant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from executor import Refused
from executor.platform import Platform, Tenant
from executor.views import StartRequest
from tests.executor.surface import Served

AT = datetime(2030, 1, 31, 6, tzinfo=UTC)
NONE: dict[str, Any] = dict.fromkeys(("delay", "at", "attributes", "priority", "retention", "unload"))
GIVEN: dict[str, Any] = {
    "delay": timedelta(minutes=1),
    "at": AT,
    "attributes": {"customer": "ü", "n": 3, "share": 0.5, "is_new": True, "due": AT},
    "priority": -7,
    "retention": {"complete": "1 day", "failed": timedelta(days=2)},
    "unload": "every-wait",
}
MEANT = GIVEN | {"delay": 60.0, "retention": {"complete": "1 day", "failed": 172_800.0}}


def test_options_of_a_start_reach_the_service_equal(acme: Tenant, served: Served) -> None:
    acme.start("Waiter", **GIVEN)
    assert served.service.start_options == MEANT
    acme.start("Waiter")
    assert served.service.start_options == NONE


def test_options_of_start_many_are_those_of_start(acme: Tenant, served: Served) -> None:
    acme.start_many([{"workflow": "Waiter", **GIVEN}])
    assert served.service.start_options == MEANT
    acme.start_many([StartRequest(workflow="Waiter", delay="1 hour")])
    assert served.service.start_options == NONE | {"delay": "1 hour"}


@pytest.mark.parametrize(
    "options",
    [
        {"at": datetime(2030, 1, 1)},
        {"priority": 101},
        {"priority": "high"},
        {"unload": "sometimes"},
        {"delay": ["1 hour"]},
        {"retention": "1 day"},
        {"attributes": ["customer"]},
    ],
)
def test_an_option_of_the_wrong_kind_is_refused_before_it_is_sent(acme: Tenant, options: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        acme.start("Waiter", **options)
    assert refused.value.message.startswith("The arguments of start are wrong: ")
    assert f"$.{next(iter(options))}" in refused.value.message


def test_what_a_tenant_gets_is_set_whole_and_shown(platform: Platform) -> None:
    assert (platform.tenant("acme").view.weight, platform.tenant("acme").view.concurrency) == (1, None)
    assert platform.set_tenant("acme", weight=5, concurrency=20).view.weight == 5
    view = platform.tenant("acme").view
    assert (view.weight, view.concurrency) == (5, 20)
    platform.set_tenant("acme", weight=2)
    assert platform.tenant("acme").view.concurrency is None
    for wrong in ({"weight": 0}, {"weight": 101}, {"concurrency": 0}):
        with pytest.raises(Refused):
            platform.set_tenant("acme", **wrong)


def test_a_tenants_token_cannot_set_what_it_gets(served: Served) -> None:
    bearer = served.bearer("acme")
    answer = served.stranger.post("/api/v1/tenants/acme", json={"weight": 9}, headers=bearer)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
