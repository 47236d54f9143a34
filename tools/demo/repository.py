"""The tenant's working copy: what a tenant does with an ordinary git client."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tools.demo.claims import Stopped

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "release-audit"
GIT_TIMEOUT_S = 60


class Repository:
    """A clone on the tenant's disk, with the platform as its remote."""

    def __init__(self, home: Path, url: str, secret: str) -> None:
        self._tree = home / "release-audit"
        self._tree.mkdir()
        scheme, _, rest = url.partition("://")
        self._secret = secret
        # Nothing of the machine's git configuration counts: hooks, signing keys and proxies are not part of the story.
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")} | {
            "HOME": str(home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_AUTHOR_NAME": "Kim",
            "GIT_AUTHOR_EMAIL": "kim@acme.example",
            "GIT_COMMITTER_NAME": "Kim",
            "GIT_COMMITTER_EMAIL": "kim@acme.example",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("remote", "add", "perdure", f"{scheme}://kim:{secret}@{rest}")

    def commit(self, version: str, message: str) -> str:
        """Make the tree that of the example's `version` ("v1", "v2") and commit it; the commit's id."""
        for path in self._tree.iterdir():
            if path.name != ".git":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(
            EXAMPLE / version, self._tree, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD").strip()

    def push(self) -> list[str]:
        """`git push`; the lines that git printed, without the secret."""
        done = self._run("push", "perdure", "main")
        lines = done.stderr.replace(self._secret, "…").splitlines()
        if done.returncode:
            raise Stopped("git push failed:\n" + "\n".join(lines))
        return [line.rstrip() for line in lines]

    def remote_branch(self) -> str:
        """Where the platform says that `main` is."""
        return self.git("ls-remote", "perdure", "refs/heads/main").partition("\t")[0]

    def git(self, *arguments: str) -> str:
        done = self._run(*arguments)
        if done.returncode:
            raise Stopped(f"git {arguments[0]} failed: {done.stderr.replace(self._secret, '…').strip()}")
        return done.stdout

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *arguments],
            cwd=self._tree,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
