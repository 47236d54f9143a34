"""The surfaces over the real executor: git clients, live logs and errors, through one server on a loopback port."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from executor import NotFound, Platform, Refused
from executor.platform import Tenant
from executor.views import TokenView
from tests.executor.fake_service import WORKFLOWS


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with Platform.local(tmp_path_factory.mktemp("real") / "data") as made:
        yield made


@pytest.fixture
def tenant(platform: Platform, request: pytest.FixtureRequest) -> Tenant:
    """A tenant of the test's own."""
    return platform.create_tenant("t" + str(abs(hash(request.node.name)) % 10**9))


@pytest.fixture
def git(tmp_path: Path):
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "ada@example.com",
        "GIT_COMMITTER_NAME": "Ada",
        "GIT_COMMITTER_EMAIL": "ada@example.com",
    }

    def run(*arguments: str | Path, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", "-c", "init.defaultBranch=main", *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def _remote(tenant: Tenant, token: TokenView | None, user: str = "anyone") -> str:
    if token is None:
        return tenant.git_url
    return tenant.git_url.replace("http://", f"http://{user}:{token.secret}@")


def _commit(git, directory: Path, source: str) -> str:
    (directory / "workflows.py").write_text(source)
    assert git("add", "-A", cwd=directory).returncode == 0
    assert git("commit", "-qm", "change", cwd=directory).returncode == 0
    return git("rev-parse", "HEAD", cwd=directory).stdout.strip()


def test_a_push_deploys_and_a_clone_brings_it_back(tenant: Tenant, git, tmp_path: Path) -> None:
    work = tmp_path / "work"
    git("init", "-q", work)
    commit = _commit(git, work, WORKFLOWS)
    pushed = git("push", _remote(tenant, tenant.create_token()), "main", cwd=work)
    assert pushed.returncode == 0, pushed.stderr
    assert "remote: " in pushed.stderr
    assert commit[:8] in pushed.stderr
    assert tenant.channels()[0].commit == commit
    assert tenant.start("Echo", {"n": 1}).result(timeout=60) == {"n": 1}
    reader = tenant.create_token(access="read")
    assert git("clone", "-q", _remote(tenant, reader), "copy").returncode == 0
    assert (tmp_path / "copy" / "workflows.py").read_text() == WORKFLOWS
    refused = git("push", _remote(tenant, reader), "main:other", cwd=work)
    assert refused.returncode != 0
    assert "403" in refused.stderr


@pytest.mark.parametrize("options", [["http.postBuffer=1000"], ["http.postBuffer=50000000"]], ids=["chunked", "whole"])
def test_a_large_push_arrives_however_git_sends_it(tenant: Tenant, git, tmp_path: Path, options: list[str]) -> None:
    work = tmp_path / "work"
    git("init", "-q", work)
    (work / "noise.bin").write_bytes(os.urandom(3_000_000))
    commit = _commit(git, work, WORKFLOWS)
    pushed = git("-c", options[0], "push", _remote(tenant, tenant.create_token()), "main", cwd=work)
    assert pushed.returncode == 0, pushed.stderr
    assert tenant.files(commit)["noise.bin"] == 3_000_000


def test_strangers_and_other_tenants_reach_nothing(tenant: Tenant, platform: Platform, git) -> None:
    other = platform.create_tenant("stranger-" + tenant.name)
    asked = git("clone", tenant.git_url, "copy")
    assert "could not read Username" in asked.stderr
    hidden = git("clone", _remote(tenant, other.create_token()), "copy")
    assert f"repository '{tenant.git_url}/' not found" in hidden.stderr


def test_a_broken_push_is_refused_with_file_and_line(tenant: Tenant, git, tmp_path: Path) -> None:
    work = tmp_path / "work"
    git("init", "-q", work)
    _commit(git, work, "def f(:\n")
    refused = git("push", _remote(tenant, tenant.create_token()), "main", cwd=work)
    assert refused.returncode != 0
    assert "remote: " in refused.stderr
    assert "workflows.py:1" in refused.stderr
    assert tenant.versions() == []


def test_live_logs_of_a_real_instance_resume_and_end(tenant: Tenant) -> None:
    tenant.deploy({"workflows.py": WORKFLOWS})
    run = tenant.start("Talker", id="t")
    base = tenant.git_url.partition("/git/")[0] + f"/api/v1/tenants/{tenant.name}/instances/t"
    headers = {"Authorization": f"Bearer {tenant.create_token(access='read').secret}"}
    with (
        httpx2.Client(headers=headers, trust_env=False, timeout=60) as client,
        client.stream("GET", base + "/logs/stream") as answer,
    ):
        data = (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: "))
        assert next(data)["text"] == "one"
        run.send_event("go", {"by": "kim"})
        end = next(data)
        assert (end["state"], end["output"]) == ("complete", {"by": "kim"})
    resumed = httpx2.get(base + "/logs/stream", headers={**headers, "Last-Event-ID": "1000"}, trust_env=False)
    assert "event: log" not in resumed.text
    assert "event: end" in resumed.text


def test_what_is_there_needs_no_waiting(tenant: Tenant) -> None:
    """A wait of no time still looks: a finished result, a written line and a missing instance are told at once."""
    tenant.deploy({"workflows.py": WORKFLOWS})
    run = tenant.start("Talker")
    run.send_event("go", 5)
    assert run.result(timeout=60) == 5
    assert run.result(timeout=0) == 5
    assert [line.text for line in run.logs()] == ["one"]
    run.delete()
    with pytest.raises(NotFound):
        len(run.logs())
    with pytest.raises(NotFound):
        run.result(timeout=0)


def test_embedded_and_remote_agree_over_the_real_executor(tenant: Tenant, platform: Platform) -> None:
    tenant.deploy({"workflows.py": WORKFLOWS})
    token = tenant.create_token().secret
    with Platform.connect(tenant.git_url.partition("/git/")[0], token=token) as remote:
        there = remote.tenant(tenant.name)
        run = tenant.start("Echo", {"big": 2**70, "bytes": b"\x00\xff"}, id="e")
        assert run.result(timeout=60) == there.instance("e").result(timeout=60) == {"big": 2**70, "bytes": b"\x00\xff"}
        assert run.status() == there.instance("e").status()
        assert run.journal() == there.instance("e").journal()
        assert tenant.versions() == there.versions()
        assert tenant.instances() == there.instances()
        for where in (tenant, there):
            with pytest.raises(Refused) as refused:
                where.start("Nothing")
            assert refused.value.code == "unknown_workflow"
