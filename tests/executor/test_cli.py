"""Laws of the `perdure` command, in this process against a real server over the fake service."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from executor import Refused, cli, daemon, logs
from executor.cli.common import Common
from tests.executor.surface import Perdure, Served, command_line, serving


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as found:
        yield found


@pytest.fixture
def perdure(served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Perdure:
    return command_line(served, capsys, monkeypatch)


def _json(result: tuple[int, str, str]) -> Any:
    code, out, err = result
    assert (code, err) == (0, "")
    return json.loads(out)


def test_a_tenants_whole_day(perdure: Perdure, served: Served, tmp_path: Path) -> None:
    assert _json(perdure("tenants", "create", "globex", "--json"))["git_url"] == served.url + "/git/globex.git"
    (tmp_path / "workflows.py").write_text("class Waiter(Workflow): ...\n")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("never deployed")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x.pyc").write_bytes(b"never deployed")
    deployed = _json(perdure("deploy", str(tmp_path), "-t", "globex", "--message", "first", "--json"))
    assert [found["name"] for found in deployed["workflows"]] == ["Waiter"]
    assert served.service.tenants_["globex"]["files"][deployed["commit"]].keys() == {"workflows.py"}
    started = _json(perdure("start", "Waiter", '{"n": 1}', "-t", "globex", "--id", "i", "--json"))
    assert (started["state"], started["commit"]) == ("waiting", deployed["commit"])
    assert _json(perdure("instances", "pause", "i", "-t", "globex", "--json"))["state"] == "paused"
    assert _json(perdure("instances", "resume", "i", "-t", "globex", "--json"))["state"] == "waiting"
    assert [row["id"] for row in _json(perdure("instances", "list", "-t", "globex", "--json"))] == ["i"]
    sent = perdure(
        "instances", "send-event", "i", "go", '{"$bytes": "AP8="}', "-t", "globex", "--event-id", "e", "--json"
    )
    assert _json(sent) == {"id": "e", "type": "go", "is_duplicate": False}
    assert _json(perdure("instances", "result", "i", "-t", "globex", "--json")) == {"output": {"$bytes": "AP8="}}
    entries = _json(perdure("instances", "journal", "i", "-t", "globex", "--json"))
    assert [entry["kind"] for entry in entries] == ["started", "paused", "resumed", "event_received", "completed"]
    assert _json(perdure("instances", "delete", "i", "-t", "globex", "--json")) == {"deleted": "i"}
    assert _json(perdure("tenants", "delete", "globex", "--yes", "--json")) == {"deleted": "globex"}


def test_options_of_a_start_and_what_a_tenant_gets(perdure: Perdure, served: Served) -> None:
    options = ["--delay", "1 hour", "--priority", "5", "--keep-failed", "30 days", "--unload", "every-wait"]
    facts = ["--attribute", "customer=acme", "--attribute", "n=3", "--at", "2030-01-31T06:00:00+00:00"]
    code, _, error = perdure("start", "Waiter", "--tenant", "acme", *options, *facts)
    assert (code, error) == (0, "")
    found = served.service.start_options
    assert found.pop("at").timestamp() == 1_896_069_600
    assert found == {
        "delay": "1 hour",
        "attributes": {"customer": "acme", "n": 3},
        "priority": 5,
        "retention": {"failed": "30 days"},
        "unload": "every-wait",
    }
    assert perdure("start", "Waiter", "--tenant", "acme", "--attribute", "customer")[0] == 2
    _, out, _ = perdure("tenants", "set", "acme", "--weight", "3", "--concurrency", "9")
    assert out == "acme has weight 3, at most 9 runs at once.\n"
    shown = _json(perdure("tenants", "show", "acme", "--json"))
    assert (shown["weight"], shown["concurrency"]) == (3, 9)


def test_every_command_prints_text_for_people(perdure: Perdure, served: Served, tmp_path: Path) -> None:
    served.http.post("/tenants/acme/instances", json={"workflow": "Talker", "id": "t"})
    served.http.post("/tenants/acme/instances", json={"workflow": "Broken", "id": "b"})
    served.http.post("/tenants/acme/deployments", json={"files": {"workflows.py": "x = 1"}, "message": "second"})
    commit = served.http.get("/tenants/acme/versions").json()[1]["commit"]
    of = ("-t", "acme")
    told = {
        ("tenants", "list"): "acme",
        ("tenants", "show", "acme"): "/git/acme.git",
        ("tenants", "tokens", "create", "acme"): "pdt_",
        ("tenants", "tokens", "list", "acme"): "write",
        ("versions", "list", *of): "second",
        ("versions", "show", commit[:9], *of): f"commit   {commit}",
        ("versions", "channels", *of): "live",
        ("versions", "rollback", *of): "→ " + commit[:12],
        ("versions", "history", *of): "rollback",
        ("versions", "pin", *of): "live stays on",
        ("versions", "unpin", *of): "moves with the next push",
        ("instances", "list", *of): 'event "go" (wait for go)',
        ("instances", "show", "b", *of): "error     ValueError: no luck [workflow_failed]",
        ("instances", "logs", "t", *of): "info    speak  two",
        ("instances", "journal", "t", *of): '{"workflow":"Talker","payload":null}',
        ("instances", "facet", "t", "-o", str(tmp_path / "f.db"), *of): "Wrote 16 bytes",
        ("instances", "terminate", "t", *of): "terminated",
        ("gc", *of): "1000 → 900 bytes",
        ("backup", "/new"): "Copied to /new.",
        ("health",): "ready            True",
        ("start", "Echo", "[1]", "--wait", *of, "--commit", commit): "[1]",
    }
    for arguments, expected in told.items():
        code, out, err = perdure(*arguments)
        assert (arguments, code, err) == (arguments, 0, "")
        assert expected in out, arguments


@pytest.mark.parametrize(
    ("arguments", "exit_code", "error_code"),
    [
        (["start", "Nothing", "-t", "acme"], 2, "unknown_workflow"),
        (["start", "Echo", "{broken", "-t", "acme"], 2, "bad_payload"),
        (["start", "Echo", "@/none.json", "-t", "acme"], 2, "bad_payload"),
        (["tenants", "create", "No Name"], 2, "invalid_name"),
        (["tenants", "delete", "acme"], 2, "bad_request"),
        (["deploy", "/nowhere", "-t", "acme"], 2, "deploy_refused"),
        (["instances", "show", "none", "-t", "acme"], 3, "instance_not_found"),
        (["instances", "list", "-t", "nobody"], 3, "tenant_not_found"),
        (["tenants", "create", "acme"], 4, "tenant_exists"),
        (["start", "Waiter", "-t", "acme", "--wait", "--timeout", "0"], 5, "timeout"),
        (["tenants", "list", "--url", "http://127.0.0.1:1"], 5, "unreachable"),
        (["start", "Broken", "-t", "acme", "--wait"], 7, "workflow_failed"),
        (["tenants", "list", "--token", "pdt_wrong"], 2, "unauthorized"),
        (["tenants", "list", "--url", "nonsense"], 2, "bad_request"),
    ],
)
def test_errors_go_to_standard_error_with_code_and_exit_code(
    perdure: Perdure, monkeypatch: pytest.MonkeyPatch, arguments: list[str], exit_code: int, error_code: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    code, out, err = perdure(*arguments)
    assert (code, out) == (exit_code, "")
    assert err.startswith("error: ")
    assert f"[{error_code}]\n" in err
    code, out, err = perdure(*arguments, "--json")
    assert (code, out, json.loads(err)["code"]) == (exit_code, "", error_code)


def test_a_refused_deployment_prints_file_and_line(perdure: Perdure, tmp_path: Path) -> None:
    (tmp_path / "workflows.py").write_text("def f(:\n")
    code, _, err = perdure("deploy", str(tmp_path), "-t", "acme")
    assert code == 2
    assert "\n  workflows.py:1:1: invalid syntax\n" in err


def test_problems_found_by_verify_are_the_exit_code(perdure: Perdure) -> None:
    assert perdure("verify")[:2] == (6, "shard 3: entry 7 does not fit its chain\n")


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["start"], ["start", "Echo"], ["instances", "list", "--limit", "x", "-t", "a"]]
)
def test_wrong_usage_exits_with_2(perdure: Perdure, arguments: list[str]) -> None:
    assert perdure(*arguments)[0] == 2


def test_a_payload_comes_from_a_file_or_standard_input(
    perdure: Perdure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.json").write_text("[1, 2]")
    assert perdure("start", "Echo", f"@{tmp_path}/p.json", "-t", "acme", "--wait")[1] == "[1,2]\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO('"typed"'))
    assert perdure("start", "Echo", "-", "-t", "acme", "--wait")[1] == '"typed"\n'


def test_followed_logs_are_one_document_a_line(perdure: Perdure, served: Served) -> None:
    served.http.post("/tenants/acme/instances", json={"workflow": "Talker", "id": "t"})
    served.http.post("/tenants/acme/instances/t/events", json={"type": "go"})
    code, out, _ = perdure("instances", "logs", "t", "-f", "--json", "-t", "acme")
    assert (code, [json.loads(line)["text"] for line in out.splitlines()]) == (0, ["one", "two"])


def test_a_tenants_output_cannot_write_into_the_terminal(perdure: Perdure, served: Served) -> None:
    served.http.post("/tenants/acme/instances", json={"workflow": "Talker", "id": "t"})
    served.on_trio(lambda: served.service.instances_["acme", "t"].say("\x1b[2Jgone\rforged [red]x[/red]"))
    out = perdure("instances", "logs", "t", "-t", "acme")[1]
    assert "\\x1b[2Jgone\\rforged [red]x[/red]\n" in out


def test_the_data_directory_tells_address_and_token(
    perdure: Perdure, served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (served.data_dir / "address").write_text(served.url)
    for name in ("PERDURE_URL", "PERDURE_ADMIN_TOKEN"):
        monkeypatch.delenv(name)
    assert perdure("tenants", "list", "--data", str(served.data_dir))[0] == 0
    monkeypatch.chdir(tmp_path)
    code, _, err = perdure("tenants", "list")
    assert (code, "No token was given" in err) == (2, True)


def test_a_token_that_lies_around_is_not_sent_to_a_named_server(
    perdure: Perdure, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERDURE_ADMIN_TOKEN")
    monkeypatch.chdir(served.data_dir.parent)
    os.symlink(served.data_dir, "data-of-test")
    try:
        monkeypatch.setattr(Common, "data_dir", property(lambda _: Path("data-of-test")))
        code, _, err = perdure("tenants", "list", "--url", served.url)
        assert (code, "No token was given" in err) == (2, True)
    finally:
        os.unlink("data-of-test")


def test_help_loads_neither_the_platform_nor_the_client() -> None:
    program = (
        "import sys; from executor import cli\n"
        "try: cli.run(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('trio', 'httpx2', 'starlette', 'uvicorn', 'pygit2', 'apsw') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Usage: perdure COMMAND" in done.stdout


SERVE = textwrap.dedent("""
    import sys
    from pathlib import Path
    from executor import cli, daemon
    from tests.executor.fake_service import fake_running
    real = daemon.run
    daemon.run = lambda config, *, announce: real(config, announce=announce, running=fake_running([]))
    cli.main(["serve", "--data", sys.argv[1], "--port", "0", "--json"])
""")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_says_where_it_is_and_stops_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    root = Path(__file__).resolve().parents[2]
    data = tmp_path / "data"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PERDURE_")}
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(data)],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        told = "".join(process.stdout.readline() for _ in range(5))
        address = json.loads(told)["address"]
        assert (data / "address").read_text() == address + "\n"
        listed = subprocess.run(
            [sys.executable, "-m", "executor.cli", "tenants", "list", "--data", str(data), "--json"],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert (listed.returncode, listed.stdout, listed.stderr) == (0, "[]\n", "")
        process.send_signal(number)
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()
    assert not (data / "address").exists()


def test_data_in_use_is_refused_in_a_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def running(_config: object) -> AsyncIterator[object]:
        raise ExceptionGroup("nursery", [Refused("Process 7 has it.", code="data_in_use", hint="Stop it.")])
        yield

    monkeypatch.setattr(daemon, "composition_root", lambda: running)
    monkeypatch.setattr(logs, "setup", lambda *_: None)
    assert cli.run(["serve", "--data", str(tmp_path / "data"), "--port", "0"]) == 2
    assert capsys.readouterr().err == "error: Process 7 has it. [data_in_use]\nhint: Stop it.\n"


def test_a_taken_port_is_refused_in_a_sentence(
    served: Served, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "setup", lambda *_: None)
    port = served.url.rpartition(":")[2]
    assert cli.run(["serve", "--data", str(tmp_path / "data"), "--port", port]) == 2
    assert capsys.readouterr().err.startswith(
        f"error: Port {port} of 127.0.0.1 cannot be taken: Address already in use. [bad_request]\n"
    )
    assert not (tmp_path / "data").exists()
