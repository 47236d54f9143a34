"""Bad input: one table, every surface. The same precise error with the same code, and nothing left half-done.

Each case is asked embedded, remote, over HTTP and on the command line (and of git, where it can be pushed). Embedded is
an executor of its own in this process; the other three speak to one `perdure serve`. Both hold the same two tenants:
acme with an ended instance and a waiting one, empty without any deployment. After each case both are as they were.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from executor import PerdureError, Platform
from executor.cli.printing import EXIT_CODES
from executor.core.errors import FAMILIES
from executor.http.errors import status_of
from executor.platform import Tenant
from tests.scenarios.live import LiveServer, WorkingCopy, serving, wait_waiting, with_password

PAYLOAD_BYTES_MAX = 65_536
PUSH_BYTES_MAX = 200_000
SOURCE = """
from executor.workflow import Workflow

class Echo(Workflow):
    async def run(self, event, step):
        return event.payload

class Waiter(Workflow):
    async def run(self, event, step):
        return (await step.wait_for_event("go", type="go")).payload
"""
SYNTAX_ERROR = SOURCE + "\ndef f(:\n    pass\n"
NOT_ASYNC = SOURCE + "\nclass Sync(Workflow):\n    def run(self, event, step):\n        return 1\n"
TWICE = SOURCE + "\nclass Echo(Workflow):\n    async def run(self, event, step):\n        return 1\n"
GHOST = "deadbeef01"
"""A commit that nobody made."""
DEEP: Any = None
for _ in range(65):
    DEEP = [DEEP]
FAR_TOO_DEEP: Any = None
"""Deeper than Python's own recursion goes."""
for _ in range(3000):
    FAR_TOO_DEEP = [FAR_TOO_DEEP]
RING: list[Any] = []
RING.append(RING)
TOO_LONG = "x" * PAYLOAD_BYTES_MAX


@dataclass(frozen=True)
class Case:
    """`message`, `hint`: as told, with `{commit}`/`{short}`/`{dozen}` for acme's live commit and its first 8 or 12.

    `python` gets the tenant acme. `http` is method, path below /api/v1 and JSON body (text: sent as it is). `command`
    is what follows `perdure`. None: that surface has no way to say it. `files`: also pushed by git.
    `http_code`: where HTTP tells it otherwise, because JSON itself cannot hold the input.
    """

    name: str
    code: str
    message: str
    python: Callable[[Tenant], object] | None
    http: tuple[str, str, Any] | None
    command: str | list[str] | None
    family: str = "refused"
    hint: str | None = field(default=None)
    files: dict[str, str] | None = None
    http_code: str | None = None
    command_says: str | None = None

    def __str__(self) -> str:
        return self.name


ACME = "/tenants/acme"
NAN_HINT = "Use None or a text for it."
ID_HINT = "Use 1 to 100 letters, digits and _ . : @ + -, beginning with a letter, a digit or _."
EVENT_HINT = "Use 1 to 100 printable characters."
VERSIONS_HINT = "List the versions to see which there are, and give at least the first 7 digits."
DEPTH_HINT = "Flatten it, or return it as text or bytes."
LONE = "text with lone surrogates, which is not valid Unicode"
LONE_HINT = "Decode the bytes with errors='replace'."
SIZE_HINT = "Keep what is large elsewhere, and send a reference."


def start(name: str, code: str, message: str, workflow: str, payload: Any = None, **more: Any) -> Case:
    """A refused start."""
    where = {key: more.pop(key) for key in ("id", "channel", "commit") if key in more}
    return Case(
        name,
        code,
        message,
        lambda tenant: tenant.start(workflow, payload, **where),
        ("POST", ACME + "/instances", {"workflow": workflow, "payload": payload, **where}),
        ["start", workflow, json.dumps(payload), *(item for key, text in where.items() for item in ("--" + key, text))],
        **more,
    )


def event(name: str, code: str, message: str, instance: str, type: str, payload: Any, **more: Any) -> Case:
    """A refused event."""
    event_id = more.pop("id", None)
    return Case(
        name,
        code,
        message,
        lambda tenant: tenant.instance(instance).send_event(type, payload, id=event_id),
        ("POST", f"{ACME}/instances/{instance}/events", {"type": type, "payload": payload, "event_id": event_id}),
        [
            "instances",
            "send-event",
            instance,
            type,
            json.dumps(payload),
            *(["--event-id", event_id] if event_id is not None else []),
        ],
        **more,
    )


def deploy(name: str, code: str, message: str, files: dict[str, str], **more: Any) -> Case:
    """Refused files: deployed and pushed."""
    return Case(
        name,
        code,
        message,
        lambda tenant: tenant.deploy(files),
        ("POST", ACME + "/deployments", {"files": files}),
        ["deploy", "@FILES"],
        files=files,
        **more,
    )


def arguments(name: str, operation: str, wrong: str, python: Any, path: str, command: str | None, **more: Any) -> Case:
    """An argument out of range, found before anything is asked."""
    message = f"The arguments of {operation} are wrong: {wrong}."
    return Case(name, "bad_request", message, python, ("GET", path, None), command, **more)


def _no_file(tenant: Tenant) -> object:
    return tenant.file("live", "no.py")


CASES = [
    # --- starts
    start(
        "unknown-workflow",
        "unknown_workflow",
        'version {short} of tenant "acme" has no workflow "Nope"',
        "Nope",
        hint="It has: Echo, Waiter.",
    ),
    start(
        "payload-nan",
        "bad_payload",
        'payload["a"][1]: the float nan, which JSON cannot hold',
        "Echo",
        {"a": [1, float("nan")]},
        hint=NAN_HINT,
        http_code="bad_request",
    ),
    start(
        "payload-infinite",
        "bad_payload",
        "payload: the float -inf, which JSON cannot hold",
        "Echo",
        float("-inf"),
        hint=NAN_HINT,
        http_code="bad_request",
    ),
    Case(
        "payload-set",
        "bad_payload",
        'payload["a"]: a set',
        lambda tenant: tenant.start("Echo", {"a": {1}}),
        None,
        None,
        hint="Return sorted(the_set), a list.",
    ),
    Case(
        "payload-key-not-text",
        "bad_payload",
        "payload[0]: a dict with the key 1 of type int",
        lambda tenant: tenant.start("Echo", [{1: 2}]),
        None,
        None,
        hint="Keys must be str: use str(key).",
    ),
    Case(
        "payload-lone-surrogate",
        "bad_payload",
        "payload: text with lone surrogates, which is not valid Unicode",
        lambda tenant: tenant.start("Echo", "\ud800"),
        ("POST", ACME + "/instances", '{"workflow": "Echo", "payload": "\\ud800"}'),
        ["start", "Echo", '"\\ud800"'],
        hint="Decode the bytes with errors='replace'.",
        http_code="bad_request",
    ),
    Case(
        "payload-with-a-strange-mark",
        "bad_payload",
        '{"$set": …} is not a value: a single key that begins with "$" marks a special type',
        None,  # in Python this is an ordinary dict
        ("POST", ACME + "/instances", {"workflow": "Echo", "payload": {"$set": [1]}}),
        ["start", "Echo", '{"$set": [1]}'],
        hint='Known are $bytes, $datetime, $date, $time; for a key of that name write it with "$$".',
    ),
    start(
        "payload-too-deep",
        "bad_payload",
        f"payload{'[0]' * 64}: nested more than 64 deep",
        "Echo",
        DEEP,
        hint=DEPTH_HINT,
    ),
    Case(
        "payload-far-too-deep",
        "bad_payload",
        f"payload{'[0]' * 64}: nested more than 64 deep",
        lambda tenant: tenant.start("Echo", FAR_TOO_DEEP),
        None,
        ["start", "Echo", "[" * 3000 + "]" * 3000],
        hint=DEPTH_HINT,
        command_says="payload: nested more than 64 deep",
    ),
    Case(
        "payload-far-too-deep-as-json",
        "bad_payload",
        "The request's body is nested too deep: a payload may be 64 deep.",
        None,
        ("POST", ACME + "/instances", '{"workflow": "Echo", "payload": ' + "[" * 3000 + "]" * 3000 + "}"),
        None,
        hint=DEPTH_HINT,
    ),
    Case(
        "payload-contains-itself",
        "bad_payload",
        f"payload{'[0]' * 64}: nested more than 64 deep",
        lambda tenant: tenant.start("Echo", RING),
        None,
        None,
        hint=DEPTH_HINT,
    ),
    Case(
        "workflow-lone-surrogate",
        "bad_request",
        f"The arguments of start are wrong: {LONE} - at `$.workflow`.",
        lambda tenant: tenant.start("\udcff"),
        None,
        ["start", "\udcff"],
        hint=LONE_HINT,
    ),
    Case(
        "commit-lone-surrogate-in-a-batch",
        "bad_request",
        f"The arguments of start_many are wrong: {LONE} - at `$.requests[1].commit`.",
        lambda tenant: tenant.start_many([{"workflow": "Echo"}, {"workflow": "Echo", "commit": "\ud800"}]),
        None,
        None,
        hint=LONE_HINT,
    ),
    Case(
        "filter-lone-surrogate",
        "bad_request",
        f"The arguments of instances are wrong: {LONE} - at `$.workflow`.",
        lambda tenant: tenant.instances(workflow="\ud800"),
        None,
        ["instances", "list", "--workflow", "\udcff"],
        hint=LONE_HINT,
    ),
    Case(
        "deployed-text-lone-surrogate",
        "bad_request",
        f"The arguments of deploy are wrong: {LONE} - at `$.files['a.py']`.",
        lambda tenant: tenant.deploy({"a.py": "\ud800"}),
        None,
        None,
        hint=LONE_HINT,
    ),
    Case(
        "deployed-path-lone-surrogate",
        "bad_request",
        f"The arguments of deploy are wrong: {LONE} - at `$.files['\\ud800.py']`.",
        lambda tenant: tenant.deploy({"\ud800.py": "1"}),
        None,
        None,
        hint=LONE_HINT,
    ),
    Case(
        "result-timeout-not-a-number",
        "bad_request",
        "The arguments of result are wrong: Expected `float | null`, got `str` - at `$.timeout`.",
        lambda tenant: tenant.instance("waiter").result(timeout="x"),  # type: ignore[arg-type]
        None,
        None,
    ),
    Case(
        "payload-not-json",
        "bad_payload",
        "The payload is not JSON: Expecting value: line 1 column 7 (char 6).",
        None,
        ("POST", ACME + "/instances", '{"workflow": "Echo", "payload": {"a": }}'),
        ["start", "Echo", '{"a": }'],
        hint="""Write JSON, for example '{"email": "a@b.c"}', with quotes around texts.""",
        http_code="bad_request",
    ),
    start(
        "payload-too-large",
        "payload_too_large",
        f"payload is {PAYLOAD_BYTES_MAX + 5} bytes encoded, the limit is {PAYLOAD_BYTES_MAX}",
        "Echo",
        TOO_LONG,
        hint=SIZE_HINT,
    ),
    start("instance-id-with-space", "invalid_name", "'a b' is not an instance id", "Echo", id="a b", hint=ID_HINT),
    start("instance-id-empty", "invalid_name", "'' is not an instance id", "Echo", id="", hint=ID_HINT),
    start("instance-id-a-path", "invalid_name", "'../done' is not an instance id", "Echo", id="../done", hint=ID_HINT),
    start(
        "same-id-other-payload",
        "instance_exists",
        'an instance with id "done" exists with another workflow or payload',
        "Echo",
        {"n": 2},
        id="done",
        family="conflict",
        hint="Use another id, or the same workflow and payload to get the existing instance.",
    ),
    start(
        "same-id-other-workflow",
        "instance_exists",
        'an instance with id "done" exists with another workflow or payload',
        "Waiter",
        {"n": 1},
        id="done",
        family="conflict",
        hint="Use another id, or the same workflow and payload to get the existing instance.",
    ),
    start(
        "start-on-unknown-channel",
        "channel_not_found",
        'tenant "acme" has no channel "beta"',
        "Echo",
        channel="beta",
        family="not_found",
    ),
    start(
        "start-on-unknown-commit",
        "version_not_found",
        f"Tenant 'acme' has no deployed version '{GHOST}'.",
        "Echo",
        commit=GHOST,
        family="not_found",
        hint=VERSIONS_HINT,
    ),
    Case(
        "start-without-deployment",
        "not_deployed",
        'tenant "empty" has no deployment yet',
        lambda tenant: tenant._platform.tenant("empty").start("Echo"),
        ("POST", "/tenants/empty/instances", {"workflow": "Echo"}),
        "start Echo --tenant empty",
        hint="Push code to the default branch, or deploy files.",
    ),
    # --- events
    event(
        "event-to-ended-instance",
        "instance_finished",
        'instance "done" is complete and cannot take events',
        "done",
        "go",
        1,
        family="conflict",
        hint="Start a new instance under another id.",
    ),
    event("event-type-empty", "invalid_name", "'' is not an event type", "waiter", "", 1, hint=EVENT_HINT),
    event(
        "event-type-with-newline",
        "invalid_name",
        "'a\\nb' is not an event type",
        "waiter",
        "a\nb",
        1,
        hint=EVENT_HINT,
    ),
    event("event-id-empty", "invalid_name", "'' is not an event id", "waiter", "note", 1, id="", hint=EVENT_HINT),
    event(
        "same-event-id-other-payload",
        "event_exists",
        'an event with id "e1" was sent before with another type or payload',
        "waiter",
        "note",
        2,
        id="e1",
        family="conflict",
        hint="Use a new id for a new event.",
    ),
    event(
        "same-event-id-other-type",
        "event_exists",
        'an event with id "e1" was sent before with another type or payload',
        "waiter",
        "other",
        1,
        id="e1",
        family="conflict",
        hint="Use a new id for a new event.",
    ),
    event(
        "event-too-large",
        "payload_too_large",
        f"payload is {PAYLOAD_BYTES_MAX + 5} bytes encoded, the limit is {PAYLOAD_BYTES_MAX}",
        "waiter",
        "note",
        TOO_LONG,
        hint=SIZE_HINT,
    ),
    Case(
        "update-too-large",
        "payload_too_large",
        f"payload is {PAYLOAD_BYTES_MAX + 5} bytes encoded, the limit is {PAYLOAD_BYTES_MAX}",
        lambda tenant: tenant.instance("waiter").update("any", TOO_LONG),
        None,
        None,
        hint=SIZE_HINT,
    ),
    event(
        "event-nan",
        "bad_payload",
        "payload: the float nan, which JSON cannot hold",
        "waiter",
        "note",
        float("nan"),
        hint=NAN_HINT,
        http_code="bad_request",
    ),
    # --- things that do not exist
    Case(
        "unknown-tenant",
        "tenant_not_found",
        "There is no tenant 'nobody'.",
        lambda tenant: tenant._platform.tenant("nobody"),
        ("GET", "/tenants/nobody", None),
        "tenants show nobody",
        family="not_found",
        hint="Create it first, or check the spelling.",
    ),
    Case(
        "unknown-instance",
        "instance_not_found",
        'tenant "acme" has no instance "ghost"',
        lambda tenant: tenant.instance("ghost"),
        ("GET", ACME + "/instances/ghost", None),
        "instances show ghost",
        family="not_found",
        hint="List the tenant's instances to see which there are.",
    ),
    Case(
        "unknown-version",
        "version_not_found",
        f"Tenant 'acme' has no deployed version '{GHOST}'.",
        lambda tenant: tenant.version(GHOST),
        ("GET", f"{ACME}/versions/{GHOST}", None),
        f"versions show {GHOST}",
        family="not_found",
        hint=VERSIONS_HINT,
    ),
    Case(
        "unknown-channel",
        "channel_not_found",
        'tenant "acme" has no channel "beta"',
        lambda tenant: tenant.channel_history("beta"),
        ("GET", ACME + "/channels/beta/history", None),
        "versions history --channel beta",
        family="not_found",
    ),
    Case(
        "unknown-token",
        "token_not_found",
        "Tenant 'acme' has no token 999.",
        lambda tenant: tenant.revoke_token("999"),
        ("DELETE", ACME + "/tokens/999", None),
        "tenants tokens revoke acme 999",
        family="not_found",
    ),
    Case(
        "unknown-file",
        "file_not_found",
        "Commit {dozen} of tenant 'acme' has no file 'no.py'.",
        _no_file,
        ("GET", ACME + "/versions/live/files/no.py", None),
        None,
        family="not_found",
    ),
    # --- operations that do not apply
    Case(
        "tenant-of-a-taken-name",
        "tenant_exists",
        "A tenant 'acme' exists already.",
        lambda tenant: tenant._platform.create_tenant("acme"),
        ("POST", "/tenants", {"name": "acme"}),
        "tenants create acme",
        family="conflict",
        hint="Choose another name.",
    ),
    Case(
        "tenant-of-a-bad-name",
        "invalid_name",
        "'../acme' is no tenant name.",
        lambda tenant: tenant._platform.create_tenant("../acme"),
        ("POST", "/tenants", {"name": "../acme"}),
        "tenants create ../acme",
        hint="Use 1 to 63 of a-z, 0-9, '-' and '_', with a letter or digit at both ends.",
    ),
    Case(
        "rollback-of-unknown-channel",
        "channel_not_found",
        "Tenant 'acme' has no channel 'beta'.",
        lambda tenant: tenant.rollback(channel="beta"),
        ("POST", ACME + "/rollback", {"channel": "beta"}),
        "versions rollback --channel beta",
        family="not_found",
        hint="A channel begins with its first deployment.",
    ),
    Case(
        "rollback-to-nothing",
        "no_previous_version",
        "Channel 'live' of tenant 'acme' has no version before {dozen}.",
        lambda tenant: tenant.rollback(),
        ("POST", ACME + "/rollback", {}),
        "versions rollback",
        hint="Name a version to go to.",
    ),
    Case(
        "pin-to-unknown-version",
        "version_not_found",
        f"Tenant 'acme' has no deployed version '{GHOST}'.",
        lambda tenant: tenant.pin(GHOST),
        ("POST", ACME + "/pin", {"commit": GHOST}),
        f"versions pin {GHOST}",
        family="not_found",
        hint=VERSIONS_HINT,
    ),
    Case(
        "pause-of-ended-instance",
        "instance_finished",
        'instance "done" is complete and cannot be paused',
        lambda tenant: tenant.instance("done").pause(),
        ("POST", ACME + "/instances/done/pause", None),
        "instances pause done",
        family="conflict",
        hint="Start a new instance under another id.",
    ),
    Case(
        "delete-of-living-instance",
        "invalid_state",
        'instance "waiter" is waiting and cannot be deleted',
        lambda tenant: tenant.instance("waiter").delete(),
        ("DELETE", ACME + "/instances/waiter", None),
        "instances delete waiter",
        family="conflict",
        hint="Terminate it first.",
    ),
    Case(
        "result-not-there-in-time",
        "timeout",
        'instance "waiter" has not ended within 0 s',
        lambda tenant: tenant.instance("waiter").result(timeout=0),
        ("GET", ACME + "/instances/waiter/result?timeout_s=0", None),
        "instances result waiter --timeout 0",
        family="unavailable",
        hint="It goes on; ask again.",
    ),
    # --- questions out of range
    arguments(
        "limit-zero",
        "instances",
        "Expected `int` >= 1 - at `$.limit`",
        lambda tenant: tenant._call("instances", limit=0),
        ACME + "/instances?limit=0",
        "instances list --limit 0",
        command_says="limit is 0.",
    ),
    arguments(
        "limit-too-high",
        "journal",
        "Expected `int` <= 1000 - at `$.limit`",
        lambda tenant: tenant.instance("done").journal(limit=1001),
        ACME + "/instances/done/journal?limit=1001",
        "instances journal done --limit 1001",
    ),
    arguments(
        "limit-negative",
        "versions",
        "Expected `int` >= 1 - at `$.limit`",
        lambda tenant: tenant.versions(limit=-1),
        ACME + "/versions?limit=-1",
        "versions list --limit -1",
    ),
    arguments(
        "position-negative",
        "journal",
        "Expected `int` >= 0 - at `$.after`",
        lambda tenant: tenant.instance("done").journal(after=-1),
        ACME + "/instances/done/journal?after=-1",
        "instances journal done --after -1",
    ),
    arguments(
        "unknown-argument",
        "instances",
        "Object contains unknown field `colour`",
        lambda tenant: tenant._call("instances", colour="red"),
        ACME + "/instances?colour=red",
        None,
    ),
    Case(
        "bad-cursor",
        "bad_request",
        "'zzz' is not a cursor of this listing.",
        lambda tenant: tenant._call("instances", after="zzz"),
        ("GET", ACME + "/instances?after=zzz", None),
        None,
    ),
    Case(
        "bad-state-filter",
        "bad_request",
        "'sleeping' is no state of an instance",
        lambda tenant: tenant.instances(state="sleeping"),
        ("GET", ACME + "/instances?state=sleeping", None),
        "instances list --state sleeping",
        hint="States are queued, running, waiting, paused, held, undoing, complete, failed, terminated.",
    ),
    # --- code
    deploy(
        "syntax-error",
        "deploy_refused",
        "The code cannot be deployed: workflows.py:12:7: invalid syntax.",
        {"workflows.py": SYNTAX_ERROR},
    ),
    deploy(
        "run-not-async",
        "deploy_refused",
        "The code cannot be deployed: workflows.py:13:5: Sync.run must be 'async def run(self, event, step)'; "
        "'async' is missing.",
        {"workflows.py": NOT_ASYNC},
    ),
    deploy(
        "one-name-twice-in-a-file",
        "deploy_refused",
        "The code cannot be deployed: workflows.py:12:1: class Echo is defined twice, first in line 4.",
        {"workflows.py": TWICE},
    ),
    deploy(
        "one-name-twice-in-two-files",
        "deploy_refused",
        "The code cannot be deployed: workflows/b.py:4:1: a workflow Echo exists already, in workflows/a.py:4 "
        "(and 1 more).",
        {"workflows/a.py": SOURCE, "workflows/b.py": SOURCE},
    ),
    deploy(
        "tree-too-deep",
        "limit_exceeded",
        "The depth of folders in refs/heads/main (41) is over the limit of 32 (tree_depth_max).",
        {"workflows.py": SOURCE, "a/" * 40 + "x.py": "1"},
    ),
    Case(
        "path-out-of-the-tree",
        "bad_request",
        "'../x.py' is no path of a file: '.' and '..' are not allowed.",
        lambda tenant: tenant.deploy({"../x.py": "1"}),
        ("POST", ACME + "/deployments", {"files": {"../x.py": "1"}}),
        None,
        hint="Use relative paths with '/' between the parts.",
    ),
    Case(
        "branch-of-a-bad-name",
        "invalid_name",
        "The ref 'refs/heads/a..b' cannot be written: malformed ref name.",
        lambda tenant: tenant.deploy({"workflows.py": SOURCE}, branch="a..b"),
        ("POST", ACME + "/deployments", {"files": {"workflows.py": SOURCE}, "branch": "a..b"}),
        None,
    ),
    Case(
        "nothing-to-deploy",
        "bad_request",
        "There are no files to deploy.",
        lambda tenant: tenant.deploy({}),
        ("POST", ACME + "/deployments", {"files": {}}),
        None,
        hint="Give at least workflows.py.",
    ),
]


# --- the two worlds


@dataclass
class Worlds:
    embedded: Tenant
    server: LiveServer
    remote: Tenant
    http: httpx2.Client
    copy: WorkingCopy
    folder: Path

    def snapshot(self) -> list[Any]:
        """Everything that a refused request could have left behind, of both worlds."""
        return [_snapshot(self.embedded._platform), _snapshot(self.remote._platform)]


def _snapshot(platform: Platform) -> Any:
    found: list[Any] = []
    for tenant in platform.tenants():
        instances = tenant.instances(limit=None)
        found.append(
            (
                tenant.view,
                instances,
                [(tenant.instance(item.id).status(), tenant.instance(item.id).journal()) for item in instances],
                tenant.versions(),
                tenant.channels(),
                [tenant.channel_history(channel.name) for channel in tenant.channels()],
                tenant.tokens(),
            )
        )
    return found


def _furnish(platform: Platform) -> Tenant:
    acme = platform.create_tenant("acme")
    platform.create_tenant("empty")
    acme.deploy({"workflows.py": SOURCE}, message="first")
    acme.create_token(label="of the working copy")
    acme.start("Echo", {"n": 1}, id="done").result(timeout=30)
    waiter = acme.start("Waiter", {"n": 1}, id="waiter")
    waiter.send_event("note", 1, id="e1")
    wait_waiting(waiter, "event")
    return acme


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    home = tmp_path_factory.mktemp("bad-input")
    limits: dict[str, Any] = {"payload_bytes_max": PAYLOAD_BYTES_MAX, "push_bytes_max": PUSH_BYTES_MAX}
    with serving(home, **limits) as server, Platform.local(home / "embedded", **limits) as local:
        embedded, remote = _furnish(local), _furnish(server.platform())
        copy = WorkingCopy(home, remote.git_url, remote.create_token(label="git").secret)
        copy.git("fetch", "--quiet", "perdure")
        copy.git("reset", "--quiet", "--hard", "perdure/main")
        yield Worlds(embedded, server, remote, server.http(), copy, home)


def _error(ask: Callable[[], object]) -> PerdureError:
    with pytest.raises(PerdureError) as caught:
        ask()
    return caught.value


# --- the laws


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_surface_tells_the_same_error_and_changes_nothing(case: Case, worlds: Worlds, tmp_path: Path) -> None:
    before = worlds.snapshot()
    if case.python is not None:
        for tenant in (worlds.embedded, worlds.remote):
            error = _error(lambda: case.python(tenant))
            assert (error.code, error.family) == (case.code, case.family), (tenant, error)
            _check_told(case, tenant, error.message, error.hint)
    if case.http is not None:
        _check_http(case, worlds)
    if case.command is not None:
        _check_command(case, worlds, tmp_path)
    if case.files is not None:
        _check_push(case, worlds)
    assert worlds.snapshot() == before
    assert worlds.remote._platform.health().ready


def _check_told(case: Case, tenant: Tenant, message: str, hint: str | None) -> None:
    commit = tenant.channels()[0].commit
    expected = case.message.replace("{short}", commit[:8]).replace("{dozen}", commit[:12])
    assert (message, hint) == (expected, case.hint)


def _check_http(case: Case, worlds: Worlds) -> None:
    assert case.http is not None
    method, path, body = case.http
    content = body if isinstance(body, str) else None if body is None else json.dumps(body)
    answer = worlds.http.request(method, "/api/v1" + path, content=content)
    told = answer.json()
    code = case.http_code or case.code
    assert (told["code"], told["family"]) == (code, case.family)
    assert sorted(told) == ["code", "details", "family", "hint", "message"]
    assert answer.status_code == status_of(FAMILIES[case.family]("", code=code))
    if case.http_code is not None:
        # JSON has no word for it: what is told is where the body stops being JSON.
        assert told["message"].startswith("The request's body is not JSON: ")
    elif case.message.startswith("The arguments of "):
        assert (told["message"], told["hint"]) == (case.message, "See /api/v1/openapi.json.")
    else:
        _check_told(case, worlds.remote, told["message"], told["hint"])


def _check_command(case: Case, worlds: Worlds, folder: Path) -> None:
    command = shlex.split(case.command) if isinstance(case.command, str) else list(case.command or ())
    if command[-1] == "@FILES":
        command[-1] = str(_write(folder / "files", case.files or {}))
    if command[0] != "tenants" and "--tenant" not in command:
        command += ["--tenant", "acme"]
    told = worlds.server.cli(*command, "--json")
    assert (told.code, told.out) == (EXIT_CODES[case.family], "")
    error = json.loads(told.err)
    assert (error["code"], error["family"]) == (case.code, case.family)
    if case.command_says is not None:
        assert error["message"] == case.command_says
    else:
        _check_told(case, worlds.remote, error["message"], error["hint"])
    plain = worlds.server.cli(*command)
    assert (plain.code, plain.out) == (told.code, "")
    assert plain.err.startswith(f"error: {error['message']} [{case.code}]\n")
    assert "Traceback" not in plain.err


def _check_push(case: Case, worlds: Worlds) -> None:
    """What git shows has the places that the deployment's error names, and the branch stays where it was."""
    branch = worlds.copy.git("ls-remote", "perdure").out
    for path in worlds.copy.tree.iterdir():
        if path.name != ".git":
            worlds.copy.git("rm", "-rq", path.name)
    worlds.copy.commit(case.files or {}, case.name)
    told = worlds.copy.push()
    worlds.copy.git("reset", "--quiet", "--hard", "perdure/main")
    shown = " ".join(re.sub(r"remote: ?", "", told.err).split())
    assert told.code == 1
    assert "! [remote rejected] main -> main" in told.err
    assert "remote: Nothing was changed." in told.err
    place = re.search(r"[\w/]+\.py:\d+:\d+", case.message)
    text = case.message.partition(place.group() + ": ")[2].partition(" (and ")[0].rstrip(".") if place else case.message
    for part in (place.group() if place else "", text):
        assert part in shown, told.err
    assert worlds.copy.git("ls-remote", "perdure").out == branch


def _write(folder: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return folder


def test_the_same_start_again_is_the_same_instance_on_every_surface(worlds: Worlds) -> None:
    before = worlds.snapshot()
    for tenant in (worlds.embedded, worlds.remote):
        assert tenant.start("Echo", {"n": 1}, id="done").status() == tenant.instance("done").status()
        outcomes = tenant.start_many([{"workflow": "Echo", "payload": {"n": 1}, "id": "done"}] * 3)
        assert [run.id for run in outcomes] == ["done"] * 3
    answer = worlds.http.post(
        "/api/v1/tenants/acme/instances", json={"workflow": "Echo", "payload": {"n": 1}, "id": "done"}
    )
    assert (answer.status_code, answer.json()["id"], answer.json()["output"]) == (200, "done", {"n": 1})
    told = worlds.server.cli("start", "Echo", '{"n": 1}', "--id", "done", "--tenant", "acme", "--json")
    assert (told.code, told.document) == (0, answer.json())
    assert worlds.snapshot() == before


def test_the_same_event_again_counts_once_on_every_surface(worlds: Worlds) -> None:
    before = worlds.snapshot()
    for tenant in (worlds.embedded, worlds.remote):
        assert tenant.instance("waiter").send_event("note", 1, id="e1").is_duplicate
    body = {"type": "note", "payload": 1, "event_id": "e1"}
    answer = worlds.http.post("/api/v1/tenants/acme/instances/waiter/events", json=body)
    assert answer.json() == {"id": "e1", "type": "note", "is_duplicate": True}
    told = worlds.server.cli("instances", "send-event", "waiter", "note", "1", "--event-id", "e1", "--tenant", "acme")
    assert (told.code, told.out) == (0, "Event e1 was there already.\n")
    assert worlds.snapshot() == before


def test_an_event_sent_again_after_the_end_is_known_by_its_id(worlds: Worlds) -> None:
    """The answer to the first may have been lost, and the instance have ended on it: the sender must learn that it
    counted. A new event is refused as ever."""
    for tenant in (worlds.embedded, worlds.remote):
        run = tenant.start("Waiter", id="answered")
        assert not run.send_event("go", 7, id="g1").is_duplicate
        assert run.result(timeout=30) == 7
        assert run.send_event("go", 7, id="g1").is_duplicate
        assert _error(lambda: run.send_event("go", 8, id="g1")).code == "event_exists"
        assert _error(lambda: run.send_event("go", 7, id="g2")).code == "instance_finished"
    told = worlds.server.cli("instances", "send-event", "answered", "go", "7", "--event-id", "g1", "--tenant", "acme")
    assert (told.code, told.out) == (0, "Event g1 was there already.\n")
    for tenant in (worlds.embedded, worlds.remote):
        tenant.instance("answered").delete()


def test_what_cannot_be_a_name_or_a_time_is_an_error_of_ours_too(worlds: Worlds) -> None:
    """Never an exception of some library: half a surrogate pair names nothing, and a wait of NaN is over at once."""
    before = worlds.snapshot()
    with pytest.raises(PerdureError) as refused:
        worlds.embedded.instance("\ud800")
    assert (refused.value.code, refused.value.message) == (
        "instance_not_found",
        'tenant "acme" has no instance "\\ud800"',
    )
    assert _error(lambda: worlds.remote.instance("\ud800")).code == "invalid_name"
    assert _error(lambda: worlds.embedded._call("pause", "\ud800")).code == "instance_not_found"
    for tenant in (worlds.embedded, worlds.remote):
        assert _error(lambda: tenant.instance("waiter").result(timeout=float("nan"))).code == "timeout"
        assert _error(lambda: tenant.instance("waiter").result(timeout=-1)).code == "timeout"
    assert worlds.snapshot() == before


def test_one_bad_start_in_a_batch_refuses_that_one_only(worlds: Worlds) -> None:
    """A batch is not all or nothing: each request has its own outcome, told by its index."""
    for tenant in (worlds.embedded, worlds.remote):
        asked = [
            {"workflow": "Echo", "payload": 1, "id": "batch-1"},
            {"workflow": "Nope", "id": "batch-2"},
            {"workflow": "Echo", "payload": TOO_LONG, "id": "batch-3"},
            {"workflow": "Echo", "payload": 4, "id": "batch-4"},
        ]
        outcomes = tenant.start_many(asked, return_exceptions=True)
        assert [item.code if isinstance(item, PerdureError) else item.id for item in outcomes] == [
            "batch-1",
            "unknown_workflow",
            "payload_too_large",
            "batch-4",
        ]
        ids = {item.id for item in tenant.instances(limit=None)}
        assert not ids & {"batch-2", "batch-3"}
        for name, output in (("batch-1", 1), ("batch-4", 4)):
            run = tenant.instance(name)
            assert run.result(timeout=30) == output
            run.delete()


# --- tokens


def _tokens(tenant: Tenant) -> dict[str, str]:
    revoked = tenant.create_token(label="revoked")
    tenant.revoke_token(revoked.id)
    return {
        "wrong": "pdt_" + "A" * 43,
        "expired": str(tenant.create_token(expires_in_s=0.001).secret),
        "revoked": str(revoked.secret),
        "reads-only": str(tenant.create_token(access="read").secret),
    }


@pytest.mark.parametrize("kind", ["wrong", "expired", "revoked", "reads-only"])
def test_a_token_that_does_not_allow_it_is_refused_alike_everywhere(kind: str, worlds: Worlds) -> None:
    token = _tokens(worlds.remote)[kind]
    before = worlds.snapshot()
    if kind == "reads-only":
        code, status = "forbidden", 403
        message, hint = "this token may only read", "Use a token with write access."
    else:
        code, status = "unauthorized", 401
        message = "the token is unknown, expired or revoked"
        hint = "Send the token as a Bearer token, or as the password of a git remote."
    body = {"family": "refused", "code": code, "message": message, "hint": hint, "details": {}}

    platform = worlds.server.platform(token)
    acme = Tenant(platform, worlds.remote.view)
    for ask in (
        lambda: acme.start("Echo"),
        lambda: acme.deploy({"workflows.py": SOURCE}),
        lambda: acme.rollback(),
        lambda: acme.pin(),
        lambda: acme.collect_garbage(),
        lambda: acme._call("terminate", "waiter"),
        lambda: acme._call("delete", "done"),
        lambda: acme._call("send_event", "waiter", type="go"),
    ):
        assert _error(ask).to_json() == body
    answer = worlds.server.http(token).post("/api/v1/tenants/acme/instances", json={"workflow": "Echo"})
    assert (answer.status_code, answer.json()) == (status, body)
    told = worlds.server.cli("start", "Echo", "--tenant", "acme", token=token)
    assert (told.code, told.out, told.err) == (2, "", f"error: {message} [{code}]\nhint: {hint}\n")
    pushed = worlds.copy.push("HEAD:refs/heads/new", remote=with_password(worlds.remote.git_url, token))
    assert pushed.code == 128
    assert f"remote: {message} [{code}]\nremote:   {hint}\n" in pushed.err
    assert worlds.snapshot() == before


def test_without_a_token_every_door_is_closed(worlds: Worlds) -> None:
    answer = worlds.server.http(None).get("/api/v1/tenants/acme")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.json()["message"] == "a valid token is needed"
    pushed = worlds.copy.push("HEAD:refs/heads/new", remote=worlds.remote.git_url)
    assert pushed.code == 128
    assert "could not read Username" in pushed.err
    with Platform.connect(worlds.server.url) as stranger:
        assert _error(lambda: stranger.tenant("acme")).code == "unauthorized"


# --- what is too much to be looked at


def test_a_body_far_over_the_limit_is_refused_before_it_is_read(worlds: Worlds) -> None:
    before = worlds.snapshot()
    payload = "x" * 4 * PAYLOAD_BYTES_MAX
    bound = 2 * PAYLOAD_BYTES_MAX + 65_536
    assert _error(lambda: worlds.embedded.start("Echo", payload)).code == "payload_too_large"
    error = _error(lambda: worlds.remote.start("Echo", payload))
    assert (error.code, error.message) == ("payload_too_large", f"The request's body is larger than {bound} bytes.")
    answer = worlds.http.post("/api/v1/tenants/acme/instances", json={"workflow": "Echo", "payload": payload})
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    told = worlds.server.cli("start", "Echo", "-", "--tenant", "acme", stdin=json.dumps(payload))
    assert (told.code, told.err.partition("\n")[0]) == (2, f"error: {error.message} [payload_too_large]")
    assert worlds.snapshot() == before


@pytest.mark.parametrize("numbers", [60_000, 150_000], ids=["sent-whole", "sent-in-chunks"])
def test_a_push_over_the_limit_says_which_and_changes_nothing(numbers: int, worlds: Worlds) -> None:
    before = worlds.snapshot()
    noise = "".join(f"{number * 2654435761 % 2**32:08x}" for number in range(numbers))
    worlds.copy.commit({"noise.txt": noise}, "noise")
    if numbers > 100_000:
        worlds.copy.git("config", "http.postBuffer", "100000")
    pushed = worlds.copy.push()
    worlds.copy.git("reset", "--quiet", "--hard", "perdure/main")
    assert pushed.code == 1
    shown = " ".join(re.sub(r"remote: ?", "", pushed.err).split())
    assert f"The size of the pack in bytes is over the limit of {PUSH_BYTES_MAX} (pack_bytes_max)." in shown
    assert "remote: Nothing was changed." in pushed.err
    assert "! [remote rejected] main -> main" in pushed.err
    assert "HTTP" not in pushed.err
    assert worlds.snapshot() == before


def test_the_program_itself_tells_errors_by_its_exit_code(worlds: Worlds) -> None:
    """The same function as above, as the program that people run."""
    done = worlds.server.program("instances", "show", "ghost", "--tenant", "acme")
    assert (done.code, done.out) == (3, "")
    assert done.err == (
        'error: tenant "acme" has no instance "ghost" [instance_not_found]\n'
        "hint: List the tenant's instances to see which there are.\n"
    )
    unreachable = worlds.server.program("health", "--url", "http://127.0.0.1:9")
    assert unreachable.code == 5
    assert "[unreachable]" in unreachable.err


def test_the_server_logged_no_fault_and_no_secret(worlds: Worlds) -> None:
    text = worlds.server.log_text()
    assert "Traceback" not in text
    assert " error " not in text
    for token in worlds.remote.tokens():
        assert token.secret is None
    assert worlds.server.admin_token not in text
    assert "pdt_" not in text
