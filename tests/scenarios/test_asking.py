"""A running instance is asked: SQL on its facet, updates, queries, streams, over a live server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from executor import Conflict, NotFound, Refused, TenantError
from executor.platform import Tenant
from tests.scenarios.live import ROOT, LiveServer, serving, wait_status

VALIDATOR = jsonschema.Draft202012Validator(
    json.loads((ROOT / "docs" / "journal.schema.json").read_text(encoding="utf-8"))
)

SOURCE = """
from executor.workflow import Workflow


class Cart(Workflow):
    async def run(self, event, step):
        self.items = []
        self.status = {"items": 0}
        step.emit("log", "open")
        await step.do("make", self.make)
        await step.wait_for_event("checkout", type="go")
        step.emit("log", "closed")
        return self.items

    def make(self):
        self.facet.execute("create table item(name text, price real, data blob)")
        self.facet.execute("insert into item values ('tea', 2.5, x'00ff'), ('jam', null, null)")

    @Workflow.update
    async def add(self, payload, step):
        await step.do("insert", self.insert, payload)
        self.items.append(payload)
        self.status = {"items": len(self.items)}
        if payload == "poison":
            raise ValueError("it is not for sale")
        return len(self.items)

    @add.validator
    def add_validator(self, payload):
        if not isinstance(payload, str):
            raise TypeError("an item is a text")

    def insert(self, name):
        self.facet.execute("insert into item values (?, 1, null)", [name])

    @Workflow.query
    def contents(self, payload):
        return list(self.items)
"""
BROKEN = SOURCE + "\nraise RuntimeError('this version cannot be imported')\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with serving(tmp_path_factory.mktemp("asking")) as server:
        yield server


@pytest.fixture(scope="module")
def acme(server: LiveServer) -> Tenant:
    tenant = server.platform().create_tenant("acme")
    tenant.deploy({"workflows.py": SOURCE})
    return tenant


def test_sql_reads_the_facet_in_every_state(acme: Tenant) -> None:
    run = acme.start("Cart")
    wait_status(run, lambda status: status.state == "waiting")
    sql = "select * from item where name > ? order by name"
    expected: list[list[Any]] = [["jam", None, None], ["tea", 2.5, b"\x00\xff"]]
    found = run.query(sql, ["a"])
    assert (found.columns, found.rows, found.is_cut) == (["name", "price", "data"], expected, False)
    assert run.query(sql, ("a",), limit=1).is_cut
    assert run.query("select :n as n", {"n": "x"}).rows == [["x"]]
    run.pause()
    assert run.query(sql, ["a"]).rows == expected
    run.terminate()
    assert run.query(sql, ["a"]).rows == expected


def test_sql_on_an_instance_whose_code_cannot_be_imported(acme: Tenant, server: LiveServer) -> None:
    broken = server.platform().create_tenant("broken")
    broken.deploy({"workflows.py": BROKEN})
    run = broken.start("Cart")
    wait_status(run, lambda status: status.state == "failed")
    assert run.query("select 1 as one").rows == [[1]]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("insert into item values ('x', 1, null)", "facet_read_only"),
        ("drop table item", "facet_read_only"),
        ("attach 'other.db' as other", "facet_sql_forbidden"),
        ("pragma writable_schema = 1", "facet_sql_forbidden"),
        ("select load_extension('x')", "facet_sql_forbidden"),
        ("begin", "facet_transaction"),
        ("select 1; delete from item", "facet_sql_error"),
        ("select nonsense", "facet_sql_error"),
    ],
)
def test_hostile_sql_is_refused_or_stopped(acme: Tenant, cart: Any, sql: str, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        cart.query(sql)
    assert (refused.value.code, refused.value.details["reason"]) == ("facet_refused", reason)
    assert cart.query("select count(*) from item where name = 'tea'").rows == [[1]]


@pytest.fixture(scope="module")
def cart(acme: Tenant) -> Any:
    run = acme.start("Cart", id="cart")
    wait_status(run, lambda status: status.state == "waiting")
    return run


def test_an_update_is_accepted_durable_and_answered_once(acme: Tenant) -> None:
    run = acme.start("Cart")
    wait_status(run, lambda status: status.state == "waiting")
    assert run.update("add", "tea", id="u1") == 1
    assert run.update("add", "tea", id="u1") == 1
    assert run.update("add", "jam") == 2
    assert run.status().status == {"items": 2}
    assert run.ask("contents") == ["tea", "jam"]
    kinds = [item.kind for item in run.journal()]
    assert (kinds.count("update_accepted"), kinds.count("update_ended")) == (2, 2)
    with pytest.raises(Conflict) as other:
        run.update("add", "other", id="u1")
    assert other.value.code == "update_exists"
    run.send_event("go")
    assert run.result(timeout=20) == ["tea", "jam"]
    with pytest.raises(Conflict) as late:
        run.update("add", "late")
    assert late.value.code == "instance_finished"
    assert run.update("add", "tea", id="u1") == 1


def test_an_update_is_refused_by_its_validator_and_leaves_nothing(cart: Any) -> None:
    before = cart.status().sequence
    with pytest.raises(Refused) as refused:
        cart.update("add", 5)
    assert (refused.value.code, refused.value.message) == ("update_refused", "an item is a text")
    with pytest.raises(NotFound) as unknown:
        cart.update("remove", "tea")
    assert unknown.value.code == "unknown_handler"
    assert cart.ask("contents") == []
    with pytest.raises(NotFound):
        cart.ask("prices")
    assert cart.status().sequence == before


def test_an_update_whose_handler_raises_fails_alone(acme: Tenant) -> None:
    run = acme.start("Cart")
    wait_status(run, lambda status: status.state == "waiting")
    with pytest.raises(TenantError) as failed:
        run.update("add", "poison")
    assert failed.value.code == "update_failed"
    assert failed.value.details["text"] == "it is not for sale"
    assert run.update("add", "tea") == 2


def test_a_paused_instance_answers_queries_and_takes_no_updates(acme: Tenant) -> None:
    run = acme.start("Cart")
    wait_status(run, lambda status: status.state == "waiting")
    run.pause()
    assert run.ask("contents") == []
    with pytest.raises(Conflict) as refused:
        run.update("add", "tea")
    assert refused.value.code == "invalid_state"
    run.resume()
    assert run.update("add", "tea") == 1


def test_updates_survive_the_server(acme: Tenant, server: LiveServer) -> None:
    run = acme.start("Cart")
    wait_status(run, lambda status: status.state == "waiting")
    assert run.update("add", "tea", id="u1") == 1
    server.kill()
    server.start()
    assert run.update("add", "tea", id="u1") == 1
    assert run.update("add", "jam", id="u2") == 2
    assert run.query("select name from item order by rowid").rows == [["tea"], ["jam"], ["tea"], ["jam"]]


def test_a_stream_is_read_from_an_offset_and_followed(acme: Tenant, server: LiveServer) -> None:
    run = acme.start("Cart")
    wait_status(run, lambda status: status.state == "waiting")
    assert [item.item for item in run.stream("log")] == ["open"]
    run.send_event("go")
    followed = [(item.offset, item.item, item.step, item.attempt) for item in run.stream("log", follow=True)]
    assert followed == [(0, "open", "", 0), (1, "closed", "", 0)]
    assert [item.item for item in run.stream("log", offset=1)] == ["closed"]
    assert [(stream.name, stream.count) for stream in run.streams()] == [("log", 2)]
    events = server.http().get(f"/api/v1/tenants/acme/instances/{run.id}/streams/log/live?after=1").text
    assert [line for line in events.split("\n") if line.startswith(("id", "event"))] == [
        "id: 2",
        "event: item",
        "event: end",
    ]


STORIES = """
from executor.workflow import Retry, Workflow


class Leaf(Workflow):
    async def run(self, event, step):
        return event.payload


class Story(Workflow):
    async def run(self, event, step):
        if event.payload == "again":
            self.set_attributes(customer="acme")
            self.status = {"at": 1}
            self.continue_as_new("go")
        self.step = step
        with step.group("audit"):
            await step.options(sensitive=True).do("secret", lambda: "card of nobody else")
            await step.map("square", lambda n: n * n, [1, 2])
        await step.options(retry=Retry(limit=1, delay=0.01), undo=lambda output, error: None).do("flaky", self.flaky)
        await step.sleep("nap", 0.01)
        await step.call("leaf", Leaf, 5)
        step.emit("log", b"x")
        await step.wait_for_event("go", type="go", timeout=0.01)

    def flaky(self):
        self.facet.execute("create table if not exists t(a)")
        if self.step.current().attempt < 2:
            raise ValueError("not yet")

"""


def test_real_journals_fit_their_schema_and_hide_what_is_sensitive(server: LiveServer) -> None:
    """Over HTTP, as others read it: a run of everything, which fails, is undone, and restarted from a step."""
    stories = server.platform().create_tenant("stories")
    stories.deploy({"workflows.py": STORIES})
    told = stories.start("Story", "again")
    error = wait_status(told, lambda status: status.is_final).error
    assert error is not None
    assert error.type == "executor.workflow.EventTimeout"
    assert told.status().attributes == {"customer": "acme"}
    with pytest.raises(Conflict):  # "flaky", which it would keep, has been undone
        told.restart(from_step="nap")
    told.restart(from_step="flaky")
    wait_status(told, lambda status: status.is_final)
    items = server.http().get(f"/api/v1/tenants/stories/instances/{told.id}/journal").json()
    for item in items:
        VALIDATOR.validate(item)
    kinds = {item["kind"] for item in items}
    assert [item["sequence"] for item in items] == list(range(1, len(items) + 1))
    assert "card of nobody else" not in str(items)
    parents = {item["fields"]["path"]: item["parent"] for item in items if item["kind"] == "step_succeeded"}
    assert (parents["audit#1/secret#1"], parents["undo/flaky#1"]) == ("audit#1", "flaky#1")
    assert kinds >= {
        "started",
        "activated",
        "continued",
        "restarted",
        "group_started",
        "group_ended",
        "step_started",
        "step_succeeded",
        "attempt_failed",
        "sleep_started",
        "sleep_ended",
        "wait_started",
        "wait_ended",
        "child_requested",
        "child_started",
        "child_ended",
        "attributes_set",
        "emitted",
        "undoing",
        "failed",
    }


def test_an_instance_of_another_process_is_asked_the_same_way(tmp_path: Path) -> None:
    with serving(tmp_path, processes=2) as server:
        acme = server.platform().create_tenant("acme")
        acme.deploy({"workflows.py": SOURCE})
        for name in ("one", "two"):
            run = acme.start("Cart", id=name)
            wait_status(run, lambda status: status.state == "waiting")
            assert run.update("add", name) == 1
            assert run.ask("contents") == [name]
            assert run.query("select count(*) from item where name = ?", [name]).rows == [[1]]
            assert [item.item for item in run.stream("log")] == ["open"]
            assert run.set_attributes({"customer": name}).attributes == {"customer": name}
            assert run.terminate(undo=True).state in {"undoing", "terminated"}
            wait_status(run, lambda status: status.is_final)
            with pytest.raises(Conflict) as ended:
                run.retry()
            assert ended.value.code == "instance_finished"
            assert run.restart().state in {"queued", "running", "waiting"}
            with pytest.raises(Refused):
                run.query("drop table item")
