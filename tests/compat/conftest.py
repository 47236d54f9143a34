"""One server and one tenant a test; git in a clean environment."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitstore.database import Database
from gitstore.limits import Limits
from gitstore.names import database_path
from gitstore.parts import Parts
from tests.compat.git_server import GitServer, serving

NOW_MS = 1_700_000_000_000


def git_environment(home: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        # Never os.devnull: git writes a config by renaming over it, which as root replaces the device itself.
        "GIT_CONFIG_GLOBAL": str(home / ".gitconfig-of-the-test"),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": "Kim",
        "GIT_AUTHOR_EMAIL": "kim@example.com",
        "GIT_COMMITTER_NAME": "Kim",
        "GIT_COMMITTER_EMAIL": "kim@example.com",
        "GIT_AUTHOR_DATE": "1700000000 +0000",
        "GIT_COMMITTER_DATE": "1700000000 +0000",
    }


class Git:
    """One clone: `git("push", "origin", "main")` → what it printed; fails loudly unless `fails=True`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.environment = git_environment(folder)

    def run(self, *arguments: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["git", "-c", "init.defaultBranch=main", "-c", "gc.auto=0", *arguments],
            cwd=self.folder,
            env=self.environment,
            input=input,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def __call__(self, *arguments: str, input: bytes | None = None, fails: bool = False) -> str:
        done = self.run(*arguments, input=input)
        text = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
        assert (done.returncode != 0) == fails, f"git {' '.join(arguments)}: {done.returncode}\n{text}"
        return text.strip()

    def write(self, **files: str) -> None:
        for name, text in files.items():
            path = self.folder / name.replace("__", "/").replace("_py", ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def commit(self, message: str = "change", **files: str) -> str:
        self.write(**files)
        self("add", "-A")
        self("commit", "-q", "--allow-empty", "-m", message)
        return self("rev-parse", "HEAD")


WORKFLOWS = """from executor.workflow import Workflow


class Onboarding(Workflow):
    async def run(self, event, step):
        return {version}
"""


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """One store for all tests: its limited children start once. Tests are kept apart by their tenants."""
    root = tmp_path_factory.mktemp("compat") / "store"
    root.mkdir()
    limits = Limits(object_bytes_max=8 << 20, inflated_bytes_max=64 << 20, pack_bytes_max=4 << 20)
    parts = Parts(root, Database(database_path(root), limits, lambda: NOW_MS), limits, lambda: NOW_MS)
    try:
        yield parts
    finally:
        parts.close()


@pytest.fixture(scope="session")
def server(parts: Parts) -> Iterator[GitServer]:
    with serving(parts) as server:
        yield server


_numbers = itertools.count(1)


@pytest.fixture
def tenant(parts: Parts) -> str:
    return parts.database.create_tenant(f"acme{next(_numbers)}").name


@pytest.fixture
def work(tmp_path: Path, server: GitServer, tenant: str) -> Git:
    """A fresh repository with `origin` at the test's tenant; nothing committed."""
    git = Git(tmp_path / "work")
    git("init", "-q", ".")
    git("remote", "add", "origin", server.url(tenant))
    return git


def leftovers(parts: Parts, tenant: str) -> list[str]:
    """What is in the repository beyond packs and the files that every repository has."""
    path = parts.repository_path(tenant)
    usual = {"HEAD", "config", "objects", "refs", "objects/pack", "packed-refs"}
    found = {str(p.relative_to(path)) for p in path.rglob("*")} if path.exists() else set()
    return sorted(name for name in found - usual if not name.startswith("objects/pack/pack-"))
