"""Laws of the Python API, embedded and remote alike: equal answers, equal errors."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

import msgspec
import pytest

from executor import Conflict, NotFound, PerdureError, Refused, TenantError, Unavailable
from executor.platform import Platform, Tenant
from executor.views import StartRequest
from executor.workflow import Workflow
from tests.executor.surface import Served

VALUES = [
    None,
    0,
    -(2**70),
    1.5,
    "ü☃",
    b"\x00\xff",
    [1, [2, []]],
    {"$bytes": "no mark"},
    {"a": {"$x": 1}},
    datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    date(2026, 1, 2),
    time(3, 4, 5),
]


def test_every_value_comes_back_equal(acme: Tenant) -> None:
    for value in VALUES:
        run = acme.start("Echo", value)
        assert run.result(timeout=10) == value
        assert run.status().output == value
        assert run.journal()[0].fields["payload"] == value


def test_embedded_and_remote_see_equal_views(served: Served) -> None:
    with Platform.connect(served.url, token=served.service.admin_token) as remote:
        there = remote.tenant("acme")
        there.start("Talker", {"b": b"\x00"}, id="t").send_event("go", [1], id="e")
        there.start("Broken", id="b")

        def embedded(name: str, *arguments: object) -> object:
            async def call(service: object, caller: object) -> object:
                return await getattr(service, name)(caller, "acme", *arguments)

            return served.host.submit(call).result(timeout=10)  # type: ignore[arg-type]

        commit = there.versions()[0].commit
        assert there.instance("t").status() == embedded("status", "t")
        assert there.instance("b").status() == embedded("status", "b")
        assert there.instance("t").journal() == embedded("journal", "t")
        assert there.instance("t").logs() == embedded("logs", "t")
        assert there.instance("t").facet() == embedded("facet", "t")
        assert there.instance("t").blob(7, part=3) == b"7, 3"
        assert there.versions() == embedded("versions")
        assert there.version(commit) == embedded("version", commit)
        assert there.files(commit) == embedded("files", commit)
        assert there.channels() == embedded("channels")
        assert there.channel_history() == embedded("channel_history")


def test_a_tenant_is_made_once_shown_listed_and_deleted(platform: Platform) -> None:
    made = platform.create_tenant("globex")
    assert made.name == "globex"
    assert [tenant.name for tenant in platform.tenants()] == ["acme", "umbrella", "globex"]
    with pytest.raises(Conflict) as conflict:
        platform.create_tenant("globex")
    assert conflict.value.code == "tenant_exists"
    made.delete()
    with pytest.raises(NotFound) as absent:
        platform.tenant("globex")
    assert absent.value.code == "tenant_not_found"


def test_tokens_are_shown_once_listed_and_revoked(acme: Tenant, served: Served) -> None:
    token = acme.create_token(access="read", expires_in_s=60, label="ci")
    assert token.secret is not None
    assert (token.access, token.label, token.expires_at_ms) == ("read", "ci", token.created_at_ms + 60_000)
    assert [(row.id, row.secret) for row in acme.tokens()] == [(token.id, None)]
    with Platform.connect(served.url, token=token.secret) as limited:
        assert limited.tenant("acme").instances() == []
        with pytest.raises(Refused, match="may only read"):
            limited.tenant("acme").start("Echo")
    acme.revoke_token(token.id)
    assert acme.tokens() == []
    with pytest.raises(NotFound) as absent:
        acme.revoke_token(token.id)
    assert absent.value.code == "token_not_found"


def test_deploying_takes_text_and_bytes_and_channels_move(acme: Tenant) -> None:
    first = acme.versions()[0].commit
    second = acme.deploy({"workflows.py": "class A(Workflow): ...", "logo.png": b"\x89PNG"}, message="logo")
    assert [found.name for found in second.workflows] == ["A"]
    assert acme.file(second.commit, "logo.png") == b"\x89PNG"
    assert acme.files(second.commit) == {"workflows.py": 22, "logo.png": 4}
    assert acme.version(second.commit[:10]) == second
    assert acme.rollback(why="broken").to_commit == first
    assert acme.pin().pinned
    assert acme.deploy({"workflows.py": ""}).channel is None
    assert not acme.unpin().pinned
    assert [move.kind for move in acme.channel_history(limit=2)] == ["pin", "rollback"]
    assert acme.channels()[0].commit == first
    assert acme.collect_garbage().bytes_after == 900


def test_a_refused_deployment_names_file_and_line(acme: Tenant) -> None:
    with pytest.raises(Refused) as refused:
        acme.deploy({"workflows.py": "x = (\n"})
    assert refused.value.code == "deploy_refused"
    assert refused.value.details["diagnostics"][0]["path"] == "workflows.py"


ERRORS = [
    (lambda acme: acme.start("Nothing"), Refused, "unknown_workflow"),
    (lambda acme: acme.start("Echo", {1, 2}), Refused, "bad_payload"),
    (lambda acme: acme.start("Echo", {"x": [object()]}), Refused, "bad_payload"),
    (lambda acme: acme.start("Echo", float("nan")), Refused, "bad_payload"),
    (lambda acme: acme.start("Echo", "x" * 1_100_000), Refused, "payload_too_large"),
    (lambda acme: acme.start("Echo", id="a/b"), Refused, "invalid_name"),
    (lambda acme: acme.start("Echo", id=5), Refused, "bad_request"),
    (lambda acme: acme.start(int), Refused, "bad_request"),
    (lambda acme: acme.start("Echo", commit="0123456789"), NotFound, "version_not_found"),
    (lambda acme: acme.instance("none"), NotFound, "instance_not_found"),
    (lambda acme: acme.instance(5), Refused, "invalid_name"),
    (lambda acme: acme.version("0123456789"), NotFound, "version_not_found"),
    (lambda acme: acme.file(acme.versions()[0].commit, "none"), NotFound, "file_not_found"),
    (lambda acme: acme.channel_history("none"), NotFound, "channel_not_found"),
    (lambda acme: acme.versions(limit=0), Refused, "bad_request"),
    (lambda acme: acme.instances(limit=0), Refused, "bad_request"),
    (lambda acme: acme.create_token(expires_in_s=-1), Refused, "bad_request"),
    (lambda acme: acme.create_token(expires_in_s=float("inf")), Refused, "bad_request"),
    (lambda acme: acme.deploy({"a": 5}), Refused, "bad_request"),
    (lambda acme: acme.rollback(), Conflict, "invalid_state"),
    (lambda acme: acme.start("Broken").result(), TenantError, "workflow_failed"),
    (lambda acme: acme.start("Waiter").result(timeout=0), Unavailable, "timeout"),
    (lambda acme: acme.start("Waiter").update("echo", id="no/id"), Refused, "invalid_name"),
    (lambda acme: acme.start("Waiter").update("refuse"), Refused, "update_refused"),
    (lambda acme: acme.start("Waiter").update("break"), TenantError, "update_failed"),
    (lambda acme: acme.start("Waiter").update("hang", timeout=0.01), Unavailable, "timeout"),
    (lambda acme: acme.start("Echo").update("echo"), Conflict, "instance_finished"),
    (lambda acme: acme.start("Waiter").ask("nothing"), NotFound, "unknown_handler"),
    (lambda acme: acme.start("Waiter").query("drop table x"), Refused, "facet_refused"),
    (lambda acme: acme.start("Waiter").query("select ?", limit=0), Refused, "bad_request"),
    (lambda acme: acme.start("Waiter").restart(from_step="nothing"), NotFound, "step_not_found"),
    (lambda acme: acme.start("Waiter").retry(), Conflict, "invalid_state"),
    (lambda acme: acme.start("Echo").retry(), Conflict, "instance_finished"),
    (lambda acme: acme.start("Waiter").set_attributes({"1x": 1}), Refused, "bad_request"),
    (lambda acme: acme.start("Waiter").stream("words", offset=-1)[0], Refused, "bad_request"),
    (lambda acme: acme.start_many([{"workflow": "Echo", "paylod": 1}]), Refused, "bad_request"),
]


@pytest.mark.parametrize(("act", "family", "code"), ERRORS, ids=[str(number) for number in range(len(ERRORS))])
def test_errors_have_the_same_family_and_code_on_both_ways(
    acme: Tenant, act: object, family: type[PerdureError], code: str
) -> None:
    with pytest.raises(PerdureError) as raised:
        act(acme)  # type: ignore[operator]
    assert (type(raised.value), raised.value.code) == (family, code)


def test_a_refused_payload_names_the_place(acme: Tenant) -> None:
    with pytest.raises(Refused) as refused:
        acme.start("Echo", {"items": [1, {2}]})
    assert refused.value.message == 'payload["items"][1]: a set'
    assert refused.value.hint == "Return sorted(the_set), a list."


def test_starting_twice_is_one_instance(acme: Tenant) -> None:
    assert acme.start("Waiter", 1, id="w").id == acme.start("Waiter", 1, id="w").id == "w"
    with pytest.raises(Conflict) as conflict:
        acme.start("Waiter", 2, id="w")
    assert (conflict.value.code, conflict.value.details) == ("instance_exists", {"id": "w"})


def test_a_run_is_driven_by_its_handle(acme: Tenant) -> None:
    run = acme.start("Waiter", id="w")
    assert str(run.status().waiting_for) == 'event "go" (wait for go)'
    assert run.pause().state == "paused"
    assert run.resume().state == "waiting"
    receipt = run.send_event("note", {"n": 1}, id="e1")
    assert (receipt.id, receipt.is_duplicate) == ("e1", False)
    assert run.send_event("note", {"n": 1}, id="e1").is_duplicate
    assert run.terminate().state == "terminated"
    with pytest.raises(Conflict) as ended:
        run.result()
    assert ended.value.code == "instance_terminated"
    run.delete()
    with pytest.raises(NotFound):
        run.status()


def test_logs_are_a_list_and_can_be_followed_to_the_end(acme: Tenant) -> None:
    run = acme.start("Talker")
    lines = run.logs()
    assert (len(lines), lines[0].text, [line.text for line in lines]) == (2, "one", ["one", "two"])
    assert [line.text for line in run.logs(after=1)] == ["two"]
    run.send_event("go")
    assert [line.text for line in run.logs(follow=True)] == ["one", "two"]
    with pytest.raises(TypeError):
        len(run.logs(follow=True))


def test_lists_read_as_many_pages_as_they_need(acme: Tenant) -> None:
    acme.start_many({"workflow": "Waiter", "id": f"i{number}"} for number in range(1005))
    assert [row.id for row in acme.instances(limit=2)] == ["i1004", "i1003"]
    assert len(acme.instances()) == 100
    assert len(acme.instances(limit=None)) == 1005
    assert acme.instances(state="complete") == acme.instances(workflow="Echo") == acme.instances(commit="0" * 40) == []


def test_each_of_many_starts_has_its_own_outcome(acme: Tenant) -> None:
    requests = [
        StartRequest(workflow="Echo", payload=b"\x00"),
        {"workflow": "Nothing"},
        {"workflow": Echo, "payload": Box(1)},
    ]
    found = acme.start_many(requests, return_exceptions=True)
    assert [type(item).__name__ for item in found] == ["Run", "Refused", "Run"]
    assert found[0].result() == b"\x00"  # type: ignore[union-attr]
    assert found[2].result() == {"n": 1}  # type: ignore[union-attr]
    with pytest.raises(Refused) as refused:
        acme.start_many(requests)
    assert (refused.value.code, refused.value.details["index"]) == ("unknown_workflow", 1)


# --- types


@dataclass
class Box:
    n: int


class Color(enum.Enum):
    RED = "red"


class Echo(Workflow[Box, Box]):
    pass


class Struct(msgspec.Struct):
    box: Box
    color: Color


class Model:
    """What pydantic's models look like from outside."""

    def __init__(self, n: int) -> None:
        self.n = n

    def model_dump(self, mode: str = "python") -> dict[str, int]:
        return {"n": self.n}


def test_dataclasses_models_and_enums_are_payloads(acme: Tenant) -> None:
    assert acme.start("Echo", Struct(Box(1), Color.RED)).result() == {"box": {"n": 1}, "color": "red"}
    assert acme.start("Echo", [Model(2), (3,)]).result() == [{"n": 2}, [3]]


def test_a_result_has_the_type_that_the_class_declares(acme: Tenant) -> None:
    run = acme.start(Echo, Box(5), id="typed")
    assert run.result() == Box(5)
    assert acme.instance("typed").result() == {"n": 5}


def test_a_result_that_does_not_fit_its_declared_type_is_refused_and_can_still_be_read(acme: Tenant) -> None:
    class Echo(Workflow[object, Box]):
        pass

    with pytest.raises(Refused) as refused:
        acme.start(Echo, {"m": 1}, id="odd").result()
    assert refused.value.code == "value_refused"
    assert acme.instance("odd").result() == {"m": 1}


def test_updates_queries_and_sql_have_the_same_answers_on_both_ways(acme: Tenant) -> None:
    run = acme.start("Waiter", b"\x00")
    assert run.update("echo", {"when": date(2026, 1, 2)}, id="u") == {"when": date(2026, 1, 2)}
    assert run.update("echo", "another", id="u") == {"when": date(2026, 1, 2)}
    assert run.ask("state", b"\x01") == {"state": "waiting", "payload": b"\x01"}
    found = run.query("select ?", (b"\x00", 2.5, None), limit=2)
    assert (found.columns, found.rows, found.is_cut) == (["?"], [[b"\x00"], [2.5]], True)


def test_attributes_and_restarts_have_the_same_answers_on_both_ways(acme: Tenant) -> None:
    run = acme.start("Waiter")
    at = datetime(2026, 1, 2, tzinfo=UTC)
    assert run.set_attributes({"customer": "acme", "due": at}).attributes == {"customer": "acme", "due": at}
    assert run.set_attributes({"due": None}).attributes == {"customer": "acme"}
    assert run.terminate(undo=True).state == "terminated"
    assert run.restart().state == "waiting"
    assert run.restart(from_step=("wait for go", 1)).state == "waiting"
    failed = acme.start("Broken")
    assert (failed.status().state, failed.retry().state) == ("failed", "waiting")


def test_a_stream_is_a_list_or_followed(acme: Tenant) -> None:
    run = acme.start("Talker")
    assert [(item.offset, item.item, item.step) for item in run.stream("words")] == [
        (0, {"said": "one"}, ""),
        (1, {"said": "two"}, "speak"),
    ]
    assert [item.offset for item in run.stream("words", offset=1)] == [1]
    assert [(stream.name, stream.count) for stream in run.streams()] == [("words", 2)]
    run.terminate()
    assert [item.offset for item in run.stream("words", follow=True)] == [0, 1]


def test_later_names_do_not_exist(acme: Tenant) -> None:
    run = acme.start("Waiter")
    for name in ("fork", "migrate"):
        assert not hasattr(run, name)
    assert not hasattr(acme, "check")


def test_the_platform_itself(platform: Platform) -> None:
    assert platform.health().ready
    assert platform.verify() == ["shard 3: entry 7 does not fit its chain"]
    platform.backup("/new")
    with pytest.raises(Conflict) as conflict:
        platform.backup("/taken")
    assert conflict.value.code == "invalid_state"


def test_the_repositorys_address_is_of_the_server(acme: Tenant, served: Served) -> None:
    assert acme.git_url == served.url + "/git/acme.git"
