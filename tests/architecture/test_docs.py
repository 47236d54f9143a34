"""The pages of the surfaces are true: every example runs, every setting, command and operation is told."""

from __future__ import annotations

import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from executor import cli
from executor.cli import app as commands
from executor.config import FIELDS
from executor.operations import API_PREFIX, OPERATIONS
from executor.platform import Platform, Run, Tenant

DOCS = Path(__file__).resolve().parents[2] / "docs"
MORE_PAGES = ("flow.md", "schedules.md", "search.md")
WORKFLOWS = """from executor.workflow import Workflow

class Hello(Workflow):
    async def run(self, event, step):
        print("hello")
        return (await step.wait_for_event("wait", type="go")).payload
"""


def _blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """Address and administrator's token of a real platform, served over HTTP."""
    monkeypatch.chdir(tmp_path)
    with Platform.local("data", admin_token="token-of-the-documents") as platform:
        yield platform.create_tenant("other").git_url.removesuffix("/git/other.git"), "token-of-the-documents"


def test_the_examples_of_the_python_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = _blocks("python.md", "python")
    assert len(blocks) >= 7
    module = types.ModuleType("docs_python")
    monkeypatch.setitem(sys.modules, "docs_python", module)
    names = vars(module)
    try:
        for block in blocks:
            exec(compile(block, "docs/python.md", "exec", dont_inherit=True), names)
    finally:
        platform = names.get("platform")
        if isinstance(platform, Platform):
            platform.close()


def test_the_examples_of_the_http_page_run(server: tuple[str, str]) -> None:
    blocks = _blocks("http.md", "http")
    assert len(blocks) >= 20
    with httpx2.Client(base_url=server[0], headers={"Authorization": f"Bearer {server[1]}"}, trust_env=False) as client:
        for block in blocks:
            head, _, body = block.partition("\n")
            method, path, _, status = head.split()
            answer = client.request(method, path, content=body.strip() or None, timeout=70)
            assert (head, answer.status_code) == (head, int(status)), answer.text
        stream = client.get(f"{API_PREFIX}/tenants/acme/instances/i-1/logs/stream").text
    assert "event: log\n" in stream
    assert stream.rstrip().rpartition("\n\n")[2].startswith("event: end\n")


def test_the_examples_of_the_command_lines_page_run(
    server: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERDURE_URL", server[0])
    monkeypatch.setenv("PERDURE_ADMIN_TOKEN", server[1])
    for name, source in (("examples-of-this-page", WORKFLOWS), ("second-version-of-it", WORKFLOWS + "\n# second\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "workflows.py").write_text(source)
    lines = [line for block in _blocks("cli.md", "console") for line in block.splitlines()]
    assert len(lines) >= 25
    for line in lines:
        command, _, remark = line.partition("#")
        wanted = int(remark.strip().removeprefix("exit code ") or 0)
        arguments = shlex.split(command.removeprefix("$ perdure "))
        code = cli.run(arguments)
        out, err = capsys.readouterr()
        assert (line, code) == (line, wanted), err + out


def test_every_setting_is_told_with_its_unit_and_reason() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    for name, item in FIELDS.items():
        assert re.search(
            rf"^\| `{name}` \| {re.escape(item.metadata['unit'])} \| .+ \| {re.escape(item.metadata['reason'])} \|$",
            page,
            re.MULTILINE,
        ), name


def test_every_command_is_told() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    for group, app in (
        ("", commands.app),
        ("tenants ", commands.tenants),
        ("tenants tokens ", commands.tokens),
        ("versions ", commands.versions),
        ("instances ", commands.instances),
        ("schedules ", commands.schedules),
    ):
        for name in app:
            if not name.startswith("-") and name not in ("tenants", "versions", "instances", "schedules", "tokens"):
                assert f"perdure {group}{name}" in page, f"{group}{name}"


@pytest.mark.parametrize("handle", [Platform, Tenant, Run])
def test_every_method_of_the_python_api_is_told(handle: type) -> None:
    pages = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("python.md", *MORE_PAGES))
    methods = {name for name in dir(handle) if not name.startswith("_")}
    assert {name for name in methods if not re.search(rf"\b{name}\b", pages)} == set()


def test_every_operation_of_the_http_api_is_told() -> None:
    pages = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("http.md", *MORE_PAGES))
    words = {
        operation.name: [part for part in operation.path.split("/") if not part.startswith("{")][-1]
        for operation in OPERATIONS.values()
    }
    assert {name for name, word in words.items() if not re.search(rf"/{word}\b", pages)} == set()
