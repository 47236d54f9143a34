"""What comes of an operation that is asked for twice, as by a client whose answer was lost. A real platform."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from executor import Platform
from executor.core.errors import PerdureError
from executor.operations import OPERATIONS
from executor.platform import Tenant

SOURCE = """
from executor.workflow import Workflow

class Waits(Workflow):
    async def run(self, event, step):
        return (await step.wait_for_event("wait", type="go")).payload
"""
MORE = {"restart", "rollback", "create_token", "retry"}
"""Those that do more when they are asked for again."""
ONCE = {
    *("create_tenant", "delete_tenant", "set_tenant", "revoke_token", "deploy", "pin", "unpin", "collect_garbage"),
    *("start", "start_many", "send_event", "update", "pause", "resume", "terminate", "set_attributes", "delete"),
    *("create_schedule", "delete_schedule", "pause_schedule", "resume_schedule", "trigger_schedule"),
}
NEITHER = {"ask", "query", "check", "backup", "bulk"}
"""They change nothing of a tenant's; or are as what they do to each."""


def test_every_operation_says_what_asking_again_does() -> None:
    changing = {name for name, row in OPERATIONS.items() if row.method != "GET"}
    assert changing == MORE | ONCE | NEITHER


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with Platform.local(tmp_path_factory.mktemp("data") / "data") as platform:
        yield platform


@pytest.fixture(scope="module")
def acme(platform: Platform) -> Tenant:
    acme = platform.create_tenant("acme")
    acme.deploy({"workflows.py": SOURCE})
    return acme


def twice(call: Callable[[], object]) -> tuple[object, object]:
    """What comes of it the first time and the second: answers, or codes of errors."""

    def once() -> object:
        try:
            return call()
        except PerdureError as error:
            return error.code

    return once(), once()


def test_asking_again_comes_to_the_same(platform: Platform, acme: Tenant) -> None:
    assert twice(lambda: platform.create_tenant("other"))[1] == "tenant_exists"
    assert twice(lambda: platform.set_tenant("other", weight=2))[1] != "tenant_not_found"
    assert twice(lambda: platform.delete_tenant("other")) == (None, "tenant_not_found")
    first, second = twice(lambda: acme.deploy({"workflows.py": SOURCE + "# 2"}).id)
    assert first == second
    assert len(set(twice(lambda: acme.start("Waits", id="a").id))) == 1
    a = acme.instance("a")
    for _ in range(2):
        a.send_event("stay", id="e")
    assert [item.kind for item in a.journal()].count("event_received") == 1
    assert twice(lambda: a.pause().state) == ("paused", "paused")
    assert set(twice(lambda: a.resume().state)) <= {
        "queued",
        "running",
        "waiting",
    }  # its run comes to its wait meanwhile
    assert twice(lambda: a.terminate().state) == ("terminated", "terminated")
    kinds = [item.kind for item in a.journal()]
    assert [kinds.count(kind) for kind in ("paused", "resumed", "terminated")] == [1, 1, 1]
    assert twice(a.delete) == (None, "instance_not_found")
    acme.create_schedule("Waits", name="s", every="1 day")
    assert acme.create_schedule("Waits", name="s", every="1 day").name == "s"
    assert twice(lambda: acme.trigger_schedule("s", id="t").id) == ("t", "t")
    assert len(acme.schedule("s").firings) == 1
    assert twice(lambda: acme.delete_schedule("s")) == (None, "schedule_not_found")


def test_what_does_more_each_time_it_is_asked_for(acme: Tenant) -> None:
    for number in range(3):
        acme.deploy({"workflows.py": SOURCE + f"# version {number}"})
    first, second = twice(lambda: acme.rollback().to_commit)
    assert first != second
    assert len({token.id for token in (acme.create_token(), acme.create_token())}) == 2
    run = acme.start("Waits", id="again")
    for _ in range(2):
        run.restart()
    assert [item.kind for item in run.journal()].count("restarted") == 2
