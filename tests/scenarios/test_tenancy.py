"""Tenants are apart: what a stranger may learn of another (nothing), and what hostile code may cost others (a moment).

Weakness, attack and what it proves stand with each test; the hostile programs are in `hostile_workflows.py`. One server
for all: `impatient_server`, which is `perdure serve` with shorter timeouts, so that a minute of waiting becomes seconds.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from executor import NotFound, PerdureError, Platform
from executor.operations import API_PREFIX, OPERATIONS, Operation
from executor.platform import Run, Tenant
from tests.scenarios.hostile_workflows import SHORT, SPINNING, Hostile
from tests.scenarios.live import LiveServer, facts, git, serving, wait_status, wait_waiting, with_password

SECRET = "the-recipe-of-acme"
PROMPT_S = 10.0
"""Within this a tenant's instance of three steps ends, whatever others do. It takes 0.03 s on an idle machine."""
SOURCE = f"""
from executor.workflow import Workflow

class Recipe(Workflow):
    async def run(self, event, step):
        print("{SECRET} printed")
        await step.do("write", self.write)
        await step.wait_for_event("go", type="go")
        return "{SECRET}"

    def write(self):
        self.facet.execute("CREATE TABLE recipe AS SELECT '{SECRET}' AS text")
        return "{SECRET}"

class Fine(Workflow):
    async def run(self, event, step):
        return [await step.do("add", lambda n=n: n + 1) for n in range(3)]
"""
OTHER_SOURCE = """
from executor.workflow import Workflow

class Own(Workflow):
    async def run(self, event, step):
        return 1
"""


@dataclass
class World:
    server: LiveServer
    admin: Platform
    acme: Tenant
    owner: str
    reader: str
    umbrella: Tenant
    stranger: str
    commit: str
    home: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("tenancy")
    with serving(home, program="tests.scenarios.impatient_server") as server:
        admin = server.platform()
        acme, umbrella = admin.create_tenant("acme"), admin.create_tenant("umbrella")
        commit = acme.deploy({"workflows.py": SOURCE}, message=SECRET).commit
        umbrella.deploy({"workflows.py": OTHER_SOURCE})
        secret = acme.start("Recipe", SECRET, id="secret")
        wait_waiting(secret, "event")
        umbrella.start("Own", id="own").result(timeout=30)
        acme.create_schedule("Fine", SECRET, name="nightly", cron="0 3 * * *")
        owner, reader = acme.create_token(label=SECRET), acme.create_token(access="read")
        stranger = umbrella.create_token()
        yield World(
            server, admin, acme, str(owner.secret), str(reader.secret), umbrella, str(stranger.secret), commit, home
        )


# --- what a stranger may learn

ARGUMENTS: dict[str, dict[str, Any]] = {
    "create_tenant": {"name": "acme"},
    "deploy": {"files": {"workflows.py": OTHER_SOURCE}},
    "start": {"workflow": "Fine"},
    "start_many": {"requests": [{"workflow": "Fine"}]},
    "send_event": {"type": "go"},
    "create_schedule": {"workflow": "Fine", "cron": "0 6 * * *"},
    "backup": {"target": "/nowhere/at/all"},
    "bulk": {"operation": "delete"},
    "set_attributes": {"attributes": {"size": 1}},
    "update": {"name": "go"},
    "ask": {"name": "go"},
    "query": {"sql": "SELECT text FROM recipe"},
}
"""What an operation cannot do without."""
OF_TENANTS = [operation for operation in OPERATIONS.values() if "{tenant}" in operation.path]
STREAMS = ["/logs/stream", "/stream", "/streams/any/live"]


def _path(operation: Operation, world: World, tenant: str, **named: str) -> str:
    values = {
        "tenant": tenant,
        "id": "secret",
        "commit": world.commit,
        "path": "workflows.py",
        "channel": "live",
        "token_id": world.acme.tokens()[0].id,
        "name": "nightly",
        "blob": "1",
    } | named
    path = operation.path.replace(":path}", "}")
    for name, text in values.items():
        path = path.replace("{" + name + "}", text)
    return API_PREFIX + path


def _ask(world: World, token: str, operation: Operation, path: str) -> tuple[int, str]:
    body = json.dumps(ARGUMENTS.get(operation.name, {})) if operation.method == "POST" else None
    answer = world.server.http(token).request(operation.method, path, content=body)
    return answer.status_code, answer.text


@pytest.mark.parametrize("operation", OF_TENANTS, ids=lambda operation: operation.name)
def test_another_tenant_is_told_of_as_one_that_does_not_exist(operation: Operation, world: World) -> None:
    """weakness: an answer that differs. attack: every operation on acme with another's token. proves: it cannot even
    be learned that acme exists."""
    real = _ask(world, world.stranger, operation, _path(operation, world, "acme"))
    ghost = _ask(world, world.stranger, operation, _path(operation, world, "acmf"))
    assert real[0] == ghost[0] == (403 if operation.access == "admin" else 404)
    assert real[1].replace("acme", "acmf") == ghost[1]
    assert SECRET not in real[1]
    if operation.method == "GET" and operation.access == "read":
        # The owner does get something there: the attack was aimed at what exists.
        arguments = "?timeout_s=0" if operation.name == "result" else ""
        status, _ = _ask(world, world.owner, operation, _path(operation, world, "acme") + arguments)
        assert status == (504 if operation.name == "result" else 200)


@pytest.mark.parametrize(
    "operation",
    [operation for operation in OF_TENANTS if operation.name != "start_many"],  # each of its starts has its own answer
    ids=lambda operation: operation.name,
)
def test_every_operation_names_an_unknown_tenant_as_such(operation: Operation, world: World) -> None:
    status, body = _ask(world, world.server.admin_token, operation, _path(operation, world, "acmf"))
    assert (status, json.loads(body)["code"]) == (404, "tenant_not_found")
    assert json.loads(body)["message"] == "There is no tenant 'acmf'."


@pytest.mark.parametrize("stream", STREAMS)
def test_streams_of_another_tenant_do_not_begin(stream: str, world: World) -> None:
    client = world.server.http(world.stranger)
    real = client.get(f"{API_PREFIX}/tenants/acme/instances/secret{stream}")
    ghost = client.get(f"{API_PREFIX}/tenants/acmf/instances/secret{stream}")
    assert (real.status_code, real.text) == (404, ghost.text.replace("acmf", "acme"))


@pytest.mark.parametrize(
    "operation",
    [operation for operation in OF_TENANTS if {"id", "commit"} & set(operation.parameters)],
    ids=lambda operation: operation.name,
)
def test_guessed_ids_and_commits_lead_nowhere_in_ones_own_tenant(operation: Operation, world: World) -> None:
    """weakness: one index for all tenants. attack: acme's ids and commits, asked for in umbrella. proves: they are told
    of as ids that nobody has."""
    real = _ask(world, world.stranger, operation, _path(operation, world, "umbrella"))
    nobody = "0" * 40
    ghost = _ask(world, world.stranger, operation, _path(operation, world, "umbrella", id="nobody", commit=nobody))
    assert real[0] == ghost[0] == 404
    assert real[1].replace("secret", "nobody").replace(world.commit, nobody) == ghost[1]


def test_a_commit_of_another_tenant_can_be_neither_run_nor_pinned_nor_rolled_back_to(world: World) -> None:
    own = Tenant(world.server.platform(world.stranger), world.umbrella.view)
    for ask in (
        lambda: own.start("Recipe", commit=world.commit),
        lambda: own.pin(world.commit),
        lambda: own.rollback(to=world.commit),
        lambda: own.file(world.commit, "workflows.py"),
    ):
        with pytest.raises(NotFound) as refused:
            ask()
        assert refused.value.code == "version_not_found"
    acme_page = world.server.http(world.owner).get(f"{API_PREFIX}/tenants/acme/instances?limit=1").json()
    assert [item.id for item in own.instances()] == ["own"]
    if acme_page["next"]:
        page = world.server.http(world.stranger).get(
            f"{API_PREFIX}/tenants/umbrella/instances", params={"after": acme_page["next"]}
        )
        assert SECRET not in page.text


def test_git_says_the_same_of_another_tenant_as_of_none(world: World) -> None:
    url = with_password(world.acme.git_url, world.stranger)
    ghost_url = url.replace("/acme.git", "/acmf.git")
    own_url = with_password(world.umbrella.git_url, world.stranger)
    tree = world.home / "attack"
    assert git(world.home, "clone", "--quiet", own_url, tree).code == 0
    for arguments in (("ls-remote",), ("clone", "--quiet"), ("push",)):
        if arguments[0] == "push":
            real, ghost = (git(world.home, "push", at, "HEAD:refs/heads/main", cwd=tree) for at in (url, ghost_url))
        else:
            real, ghost = (git(world.home, *arguments, at) for at in (url, ghost_url))
        assert real.code == ghost.code == 128
        said = real.err.replace("acme.git", "acmf.git").replace('"acme"', '"acmf"').replace("'acme'", "'acmf'")
        assert said == ghost.err
        assert "not found" in said
    fetched = git(world.home, "fetch", own_url, world.commit, cwd=tree)
    nothing = git(world.home, "fetch", own_url, "0" * 39 + "1", cwd=tree)
    assert fetched.code == nothing.code == 128
    assert fetched.err.replace(world.commit, "0" * 39 + "1") == nothing.err


TRICKS = [
    "/api/v1/tenants/umbrella/../acme",
    "/api/v1/tenants/umbrella/%2e%2e/acme",
    "/api/v1/tenants/umbrella%2f..%2facme",
    "/api/v1/tenants//acme",
    "/api/v1/tenants/./acme",
    "/api/v1/tenants/acme%00",
    "/api/v1/tenants/%61cme",
    "/api/v1/tenants/ACME",
    "/api/v1/tenants/acme;umbrella",
    "/api/v1/tenants/umbrella/instances/..%2f..%2facme%2finstances%2fsecret",
    "/api/v1/tenants/umbrella/instances/../../acme/instances/secret",
    "/api/v1/tenants/umbrella/versions/live/files/../../../../acme/versions/live/files/workflows.py",
    "/api/v1/tenants/umbrella/versions/live/files/..%2f..%2f..%2fetc%2fpasswd",
    "/api/v1/tenants/umbrella/versions/live/files//etc/passwd",
    "/api/v1/tenants/umbrella/versions/live:../../x/files/workflows.py",
    "/api/v1/tenants/umbrella/versions/live%5e%7bcommit%7d/files/workflows.py",
    "/git/acme.git/info/refs?service=git-upload-pack",
    "/git/umbrella.git/../acme.git/info/refs?service=git-upload-pack",
    "/git/umbrella.git%2f..%2facme.git/info/refs?service=git-upload-pack",
    "/git/..%2fgit%2facme.git/info/refs?service=git-upload-pack",
    "/git/umbrella.git/../../state/info/refs?service=git-upload-pack",
    "/git/acme.git/objects/info/packs",
    "/git/acme.git/HEAD",
    "/git/%2e/acme.git/info/refs?service=git-upload-pack",
    "//git/acme.git/info/refs?service=git-upload-pack",
    "/" + "../" * 30 + "etc/passwd",
    "/api/v1/tenants/" + "a" * 10_000,
]


@pytest.mark.parametrize("path", TRICKS, ids=range(len(TRICKS)))
def test_tricks_in_paths_lead_to_nothing_of_another_tenant(path: str, world: World) -> None:
    """weakness: a path that means two things. attack: dots, slashes, encodings, NUL, case. proves: refused, and no word
    of acme's in the answer."""
    parts = urlsplit(world.server.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)
    connection.request("GET", path, headers={"Authorization": f"Bearer {world.stranger}"})
    answer = connection.getresponse()
    body = answer.read().decode("utf-8", "replace")
    connection.close()
    assert answer.status in (400, 404, 414, 431), (path, answer.status, body)
    assert SECRET not in body
    assert "root:" not in body


def test_tricks_in_names_are_refused_everywhere(world: World) -> None:
    own = Tenant(world.server.platform(world.stranger), world.umbrella.view)
    for name in ("../acme/secret", "..", "", "a/b", "a\0b", "-rf", "a" * 101, "\u202egpj", "é"):
        with pytest.raises(PerdureError) as refused:
            own.start("Own", id=name)
        assert refused.value.code == "invalid_name"
    for name in ("../acme", "acme/../umbrella", "Acme", "a" * 64, "", ".git", "-x", "a\nb", "a.git"):
        with pytest.raises(PerdureError) as refused:
            world.admin.create_tenant(name)
        assert refused.value.code == "invalid_name"
    for path in ("/etc/x.py", "a/../../x.py", ".git/hooks/post-receive", "a/.GIT/config", "a\\..\\b.py", "a//b", "\0"):
        with pytest.raises(PerdureError) as refused:
            own.deploy({path: "1", "workflows.py": OTHER_SOURCE})
        assert refused.value.code in ("bad_request", "push_refused", "invalid_name"), path
    assert len(own.versions()) == 1


# --- what a token may do


@pytest.mark.parametrize(
    "operation",
    [operation for operation in OF_TENANTS if operation.access in ("write", "admin")],
    ids=lambda operation: operation.name,
)
def test_a_read_token_writes_nothing(operation: Operation, world: World) -> None:
    before = (world.acme.instances(), world.acme.versions(), world.acme.channel_history(), world.acme.tokens())
    status, body = _ask(world, world.reader, operation, _path(operation, world, "acme"))
    assert (status, json.loads(body)["code"]) == (403, "forbidden")
    ghost = _ask(world, world.reader, operation, _path(operation, world, "acme", id="nobody", token_id="999"))
    assert ghost == (status, body)
    after = (world.acme.instances(), world.acme.versions(), world.acme.channel_history(), world.acme.tokens())
    assert after == before


def test_a_tenants_token_administers_nothing(world: World) -> None:
    for operation in OPERATIONS.values():
        if operation.access == "admin":
            status, body = _ask(world, world.owner, operation, _path(operation, world, "acme"))
            assert (status, json.loads(body)["code"]) == (403, "forbidden"), operation.name


def test_a_revoked_token_stops_at_once(world: World) -> None:
    """weakness: a cache of verified tokens. attack: go on with a connection that worked. proves: the next request is
    refused, over HTTP and git."""
    token = world.acme.create_token()
    client = world.server.http(str(token.secret))
    url = f"{API_PREFIX}/tenants/acme/instances/secret"
    remote = with_password(world.acme.git_url, str(token.secret))
    assert client.get(url).status_code == 200
    assert git(world.home, "ls-remote", remote).code == 0
    world.acme.revoke_token(token.id)
    assert client.get(url).status_code == 401
    assert git(world.home, "ls-remote", remote).code == 128


def test_tokens_end_with_their_tenant(world: World) -> None:
    """A tenant deleted and made again is another one: nothing of the old opens it."""
    first = world.admin.create_tenant("phoenix")
    first.deploy({"workflows.py": SOURCE})
    run = first.start("Recipe", id="r")
    wait_waiting(run, "event")
    token = str(first.create_token().secret)
    first.delete()
    assert world.server.http(token).get(f"{API_PREFIX}/tenants/phoenix").status_code == 401
    second = world.admin.create_tenant("phoenix")
    assert (second.instances(), second.versions(), second.channels(), second.tokens()) == ([], [], [], [])
    assert world.server.http(token).get(f"{API_PREFIX}/tenants/phoenix").status_code == 401
    second.deploy({"workflows.py": SOURCE})
    run = second.start("Recipe", id="r")
    wait_waiting(run, "event")
    assert [line.text for line in run.logs()] == [f"{SECRET} printed"]
    assert facts(run) == ["started", "step_succeeded", "wait_started"]


# --- what hostile code may cost


def _attack(world: World, programs: list[Hostile]) -> dict[str, Run[Any]]:
    """All of them at once, each as a tenant of its own."""
    prepared = []
    for program in programs:
        tenant = world.admin.create_tenant(program.name)
        tenant.deploy({"workflows.py": program.source})
        prepared.append(tenant)
    return {tenant.name: tenant.start("Hostile", id="evil") for tenant in prepared}


def _check_others(world: World, waiter: Run[Any]) -> None:
    """Another tenant's instances, begun and waiting, go on meanwhile."""
    began = time.monotonic()
    fine = [world.acme.start("Fine") for _ in range(3)]
    waiter.send_event("go")
    assert [run.result(timeout=PROMPT_S) for run in fine] == [[1, 2, 3]] * 3
    assert waiter.result(timeout=PROMPT_S) == SECRET
    assert world.admin.health().ready
    assert time.monotonic() - began < PROMPT_S


def _check_ends(runs: dict[str, Run[Any]], programs: list[Hostile]) -> None:
    for program in programs:
        ends = (program.state, "held", "failed")
        run = runs[program.name]
        status = wait_status(run, lambda status: status.state in ends, timeout_s=20)
        error = status.error
        assert (program.name, status.state, error.code if error else "") == (program.name, program.state, program.code)
        if error is None:
            assert repr(status.output) == program.says, program.name
        elif program.name == "error-text-huge":
            assert error.message.startswith(program.says[:1000])
            assert len(error.message) <= 4096
        else:
            assert error.message == program.says, program.name
        if error is not None:
            assert len(error.type) <= 256
            assert len(error.traceback) <= 16_384
        assert sum(len(line.text) for line in run.logs()) <= 1024 * 1024
        if status.state == "held":
            assert run.terminate().state == "terminated"


def _waiter(world: World, name: str) -> Run[Any]:
    run = world.acme.start("Recipe", id=name)
    wait_waiting(run, "event")
    return run


def test_code_that_breaks_itself_costs_nobody_else(world: World) -> None:
    waiter = _waiter(world, "waits-for-short")
    runs = _attack(world, SHORT)
    _check_others(world, waiter)
    _check_ends(runs, SHORT)
    _check_others(world, _waiter(world, "after-short"))


def test_thousands_of_commands_in_one_turn_delay_nobody(world: World) -> None:
    """weakness: work on the event loop that grows with the square of what a run asks. attack: ten thousand sleeps at
    once. proves: others wait for a moment at most."""
    source = OTHER_SOURCE + (
        "\nimport asyncio\n\nclass Many(Workflow):\n    async def run(self, event, step):\n"
        "        await asyncio.gather(*(step.sleep('s', '1 day') for _ in range(10_000)))\n"
    )
    tenant = world.admin.create_tenant("many")
    tenant.deploy({"workflows.py": source})
    run = tenant.start("Many", id="many")
    slowest_s = 0.0
    while run.status().state in ("queued", "running"):
        began = time.monotonic()
        world.acme.start("Fine").result(timeout=PROMPT_S)
        slowest_s = max(slowest_s, time.monotonic() - began)
    assert slowest_s < PROMPT_S
    assert run.status().state == "waiting"
    assert len(run.status().waits) == 20
    assert run.terminate().state == "terminated"


def test_code_that_never_ends_costs_nobody_else(world: World) -> None:
    waiter = _waiter(world, "waits-for-spinning")
    runs = _attack(world, SPINNING)
    _check_others(world, waiter)
    _check_ends(runs, SPINNING)
    _check_others(world, _waiter(world, "after-spinning"))


def test_the_server_met_no_fault_of_its_own(world: World) -> None:
    """The last word on all of the above."""
    text = world.server.log_text()
    assert "Traceback" not in text
    assert " error " not in text
    assert SECRET not in text
