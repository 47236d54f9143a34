"""The store as one: opening, sole ownership, kill -9 at any moment, and what the package imports."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gitstore
from gitstore import Conflict, GitStore, InvalidName, Limits, TenantExists, Unavailable
from tests.gitstore.stores import git, open_store, push, write_commit

ROOT = Path(__file__).parents[2]


def test_what_was_stored_is_there_after_reopening(tmp_path: Path) -> None:
    with open_store(tmp_path / "deep" / "git") as store:
        store.create_tenant("acme")
        commit = write_commit(store, "acme", {"x": b"1"})
        push(store, "acme", commit)
        deployments, history = store.deployments("acme"), store.channel_history("acme")
    with open_store(tmp_path / "deep" / "git") as store:
        assert [row.name for row in store.tenants()] == ["acme"]
        assert store.deployments("acme") == deployments
        assert store.channel_history("acme") == history
        assert store.repository("acme").read_file(commit, "x") == b"1"


def test_nobody_else_on_the_machine_may_look(tmp_path: Path) -> None:
    with open_store(tmp_path / "git") as store:
        assert store.root.stat().st_mode & 0o777 == 0o700


def test_a_bad_name_makes_no_tenant(tmp_path: Path) -> None:
    with open_store(tmp_path / "git") as store:
        with pytest.raises(InvalidName):
            store.create_tenant("../acme")
        store.create_tenant("acme")
        with pytest.raises(TenantExists):
            store.create_tenant("acme")
        assert [row.name for row in store.tenants()] == ["acme"]


def test_a_second_opener_in_this_process_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path / "git"):
        (tmp_path / "link").symlink_to(tmp_path / "git")
        for path in (tmp_path / "git", tmp_path / "link"):
            with pytest.raises(Conflict) as caught:
                open_store(path)
            assert caught.value.code == "data_in_use"
            assert caught.value.message == f"The git store in {path} is in use by this process."
            assert caught.value.details["pid"] == os.getpid()
    open_store(tmp_path / "git").close()


def test_a_second_process_is_refused_and_told_which_has_it(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom gitstore import Conflict, GitStore\n"
        "try:\n    GitStore.open(sys.argv[1])\nexcept Conflict as error:\n    print(error)\n"
    )
    with open_store(tmp_path / "git"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "git")], cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert done.stdout == (
        f"The git store in {tmp_path / 'git'} is in use by process {os.getpid()}."
        " Stop it first, or talk to its server.\n"
    ), done.stderr


def test_a_failed_opening_lets_the_next_one_in(tmp_path: Path) -> None:
    path = tmp_path / "git"
    path.mkdir()
    (path / "gitstore.sqlite3").write_bytes(b"not a database at all, but long enough to be looked at" * 20)
    with pytest.raises(gitstore.Refused):
        open_store(path)
    (path / "gitstore.sqlite3").unlink()
    open_store(path).close()


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable) as caught:
        open_store(tmp_path / "file" / "git")
    assert caught.value.code == "storage_failed"


def test_a_closed_store_refuses_and_closes_twice(tmp_path: Path) -> None:
    store = open_store(tmp_path / "git")
    store.close()
    store.close()
    with pytest.raises(Unavailable):
        store.tenants()


@pytest.mark.parametrize("field", ["pack_bytes_max", "channel_history_kept", "leftover_age_s"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, None])
def test_a_limit_is_a_positive_integer(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"Limits\.{field} must be a positive integer, not {value!r}\."):
        Limits(**{field: value})  # type: ignore[arg-type]  # as from a configuration file


WRITER = """
import sys
from tests.gitstore.stores import open_store, push, write_commit
store = open_store(sys.argv[1])
for number in range(int(sys.argv[2]), 10**6):
    commit = write_commit(store, "acme", {"x": b"%d" % number})
    print("making", number, commit, flush=True)
    push(store, "acme", commit, ref=b"refs/heads/main", pins=[commit])
    print("pushed", number, commit, flush=True)
    if number % 5 == 4:
        store.rollback("acme", who="kim")
        store.collect_garbage("acme", keep=[])
        print("rolled back", number, commit, flush=True)
"""


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    """SIGKILL after ever more lines of output, so that each kill comes at another place of the loop."""
    root = tmp_path / "git"
    with open_store(root) as store:
        store.create_tenant("acme")
    pushed: dict[int, str] = {}
    next_number = 0
    for lines in (3, 6, 7, 12, 14):
        command = [sys.executable, "-c", WRITER, str(root), str(next_number)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(lines)]
            process.send_signal(signal.SIGKILL)
            said += process.stdout  # what it wrote before the signal came is acknowledged too
        assert process.returncode == -signal.SIGKILL
        for line in said:
            if line.startswith("pushed") and line.endswith("\n"):
                pushed[int(line.split()[1])] = line.split()[2]
        with open_store(root) as store:
            assert store.verify("acme") == []
            deployed = {found.commit for found in store.deployments("acme", limit=1000)}
            assert deployed.issuperset(pushed.values())
            assert {pin.commit for pin in store.pins("acme")}.issuperset(pushed.values())
            for number, commit in pushed.items():
                assert store.repository("acme").read_file(commit, "x") == b"%d" % number
            main = store.refs("acme")[b"refs/heads/main"].decode()
            assert git(store._parts.repository_path("acme"), "rev-parse", "main").strip() == main
            assert main == list(pushed.values())[-1] or main not in pushed.values()
            next_number = max(pushed) + 2


def test_the_public_names_are_all_there() -> None:
    for name in gitstore.__all__:
        assert hasattr(gitstore, name)
    assert GitStore.__name__ in gitstore.__all__


def test_gitstore_imports_no_event_loop_and_no_other_package_of_the_project() -> None:
    forbidden = {"trio", "asyncio", "anyio", "executor", "facets", "uvicorn", "starlette"}
    found = {}
    for path in sorted((ROOT / "gitstore").glob("**/*.py")):
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add((node.module or "").partition(".")[0])
        if names & forbidden:
            found[path.name] = names & forbidden
    assert found == {}


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        (
            "apsw",
            {
                "backup",
                "bundle_keys",
                "channels",
                "connections",
                "database",
                "deployments",
                "pins",
                "pushes",
                "refs",
                "schema",
                "versions",
            },
        )
    ],
)
def test_a_library_stays_where_it_is_used(library: str, owners: set[str]) -> None:
    using = {path.stem for path in (ROOT / "gitstore").glob("*.py") if f"import {library}" in path.read_text()}
    assert using == owners


def test_deployed_commits_are_pinned_at_once_where_the_store_was_opened_so(tmp_path: Path) -> None:
    with GitStore.open(tmp_path / "store", deploy_pin="work") as store:
        store.create_tenant("acme")
        source = (
            b"from executor.workflow import Workflow\nclass W(Workflow):\n    async def run(self, event, step): ...\n"
        )
        deployed = store.commit_files("acme", {"workflows.py": source}, message="first", who="kim")
        assert [(pin.commit, pin.reason) for pin in store.pins("acme")] == [(deployed.commit, "work")]
