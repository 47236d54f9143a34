"""Real git clients clone, fetch and pull, with every protocol version, shallow and whole."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import dulwich.porcelain
import pygit2
import pytest

from gitstore.names import ensure_repository
from gitstore.parts import Parts
from gitstore.rows import RefUpdate
from tests.compat.conftest import Git, git_environment
from tests.compat.git_server import GitServer

VERSIONS = ["0", "1", "2"]


def publish(parts: Parts, tenant: str, source: Git) -> None:
    """Make the store's refs those of `source`, without a push: these tests are about fetching."""
    path = ensure_repository(parts.root, tenant)
    subprocess.run(
        ["git", "--git-dir", str(path), "fetch", "-q", str(source.folder), "+refs/*:refs/published/*"],
        env=git_environment(source.folder),
        check=True,
        capture_output=True,
    )
    shutil.rmtree(path / "refs" / "published")
    wanted = {}
    for line in source("for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/tags").splitlines():
        oid, name = line.split()
        wanted[name.encode()] = oid
    present = parts.database.refs(tenant)
    updates = [
        RefUpdate(name, present[name].decode() if name in present else None, oid)
        for name, oid in wanted.items()
        if present.get(name) != oid.encode()
    ]
    outcomes = parts.database.commit_push(
        tenant, updates, atomic=True, deployment=None, channel=None, who="test", message=""
    ).outcomes
    assert all(outcome.ok for outcome in outcomes), outcomes


@pytest.fixture
def source(tmp_path: Path) -> Git:
    """Ten commits on main with a merge, an annotated and a light tag, and a side branch."""
    git = Git(tmp_path / "source")
    git("init", "-q", ".")
    for number in range(6):
        git.commit(f"c{number}", **{f"file{number}.txt": f"{number}\n" * 50, "lib__same.py": "x = 1\n"})
    git("checkout", "-q", "-b", "side", "HEAD~2")
    git.commit("side", lib__side_py="s = 1\n")
    git("checkout", "-q", "main")
    git("merge", "-q", "--no-ff", "-m", "merge", "side")
    git("tag", "-a", "v1", "-m", "first")
    git.commit("after", **{"file9.txt": "9\n"})
    git("tag", "light")
    return git


def same_refs(clone: Git, source: Git) -> None:
    assert clone("rev-parse", "origin/main", "origin/side", "v1", "light") == source(
        "rev-parse", "main", "side", "v1", "light"
    )
    assert clone("fsck", "--strict", "--full") in {"", "notice: HEAD points to an unborn branch (main)"}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_clone_has_every_ref_and_file(
    tenant: str, tmp_path: Path, parts: Parts, server: GitServer, source: Git, version: str
) -> None:
    publish(parts, tenant, source)
    clone = Git(tmp_path / "clone")
    clone("-c", f"protocol.version={version}", "clone", "-q", server.url(tenant), ".")
    same_refs(clone, source)
    assert clone("rev-list", "--count", "HEAD") == source("rev-list", "--count", "main")
    assert (clone.folder / "lib" / "side.py").read_text() == "s = 1\n"
    assert clone("symbolic-ref", "HEAD") == "refs/heads/main"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_pull_brings_only_what_is_new(
    tenant: str, tmp_path: Path, parts: Parts, server: GitServer, source: Git, version: str
) -> None:
    publish(parts, tenant, source)
    clone = Git(tmp_path / "clone")
    clone("clone", "-q", server.url(tenant), ".")
    source.commit("later", **{"file0.txt": "changed\n"})
    source("tag", "-a", "v2", "-m", "second")
    publish(parts, tenant, source)
    before = int(clone("rev-list", "--count", "--objects", "--all"))
    clone("-c", f"protocol.version={version}", "-c", "transfer.unpackLimit=1", "pull", "-q")
    assert clone("rev-parse", "HEAD", "v2") == source("rev-parse", "main", "v2")
    assert int(clone("rev-list", "--count", "--objects", "--all")) == before + 4  # commit, tree, blob; and the tag
    packs = sorted((clone.folder / ".git/objects/pack").glob("*.idx"), key=lambda path: path.stat().st_mtime_ns)
    newest = clone("show-index", input=packs[-1].read_bytes())
    assert len(newest.splitlines()) <= 4, "the pack holds the new objects only"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_fetch_after_diverging_work_finds_the_common_history(
    tenant: str, tmp_path: Path, parts: Parts, server: GitServer, source: Git, version: str
) -> None:
    publish(parts, tenant, source)
    clone = Git(tmp_path / "clone")
    clone("clone", "-q", server.url(tenant), ".")
    for number in range(40):  # more local commits than the first round of haves
        clone("commit", "-q", "--allow-empty", "-m", f"local {number}")
    source.commit("theirs", **{"file1.txt": "theirs\n"})
    publish(parts, tenant, source)
    clone("-c", f"protocol.version={version}", "pull", "-q", "--no-rebase", "--no-edit")
    assert source("rev-parse", "main") in clone("rev-list", "HEAD").splitlines()
    assert clone("fsck", "--strict") == ""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_shallow_clone_deepens_and_becomes_whole(
    tenant: str, tmp_path: Path, parts: Parts, server: GitServer, source: Git, version: str
) -> None:
    publish(parts, tenant, source)
    clone = Git(tmp_path / "clone")
    base = ["-c", f"protocol.version={version}"]
    clone(*base, "clone", "-q", "--depth", "1", server.url(tenant), ".")
    assert clone("rev-list", "--count", "HEAD") == "1"
    clone(*base, "fetch", "-q", "--deepen", "1")
    assert clone("rev-list", "--count", "HEAD") == "2"
    clone(*base, "fetch", "-q", "--no-tags", "--depth", "4")
    assert clone("rev-list", "--count", "--first-parent", "HEAD") == "4"
    source.commit("more", **{"new.txt": "n\n"})
    publish(parts, tenant, source)
    clone(*base, "fetch", "-q")
    assert clone("rev-parse", "origin/main") == source("rev-parse", "main")
    clone(*base, "fetch", "-q", "--unshallow")
    assert not (clone.folder / ".git" / "shallow").exists()
    assert clone("rev-list", "origin/main").splitlines() == source("rev-list", "main").splitlines()
    assert clone("fsck", "--strict") == ""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_clone_since_a_date_stops_there(
    tenant: str, tmp_path: Path, parts: Parts, server: GitServer, version: str
) -> None:
    source = Git(tmp_path / "dated")
    source("init", "-q", ".")
    for day in range(5):
        date = f"{1_600_000_000 + day * 86_400} +0000"
        source.environment |= {"GIT_COMMITTER_DATE": date, "GIT_AUTHOR_DATE": date}
        source.commit(f"day {day}", **{"f.txt": str(day)})
    publish(parts, tenant, source)
    clone = Git(tmp_path / "clone")
    since = f"--shallow-since={1_600_000_000 + 3 * 86_400 - 60}"
    clone("-c", f"protocol.version={version}", "clone", "-q", since, server.url(tenant), ".")
    assert clone("log", "--format=%s") == "day 4\nday 3"


@pytest.mark.parametrize("version", VERSIONS)
def test_an_empty_repository_can_be_cloned(tenant: str, tmp_path: Path, server: GitServer, version: str) -> None:
    clone = Git(tmp_path / "clone")
    assert "empty repository" in clone("-c", f"protocol.version={version}", "clone", server.url(tenant), ".")
    if version == "2":  # the only version that can say where HEAD will be
        assert clone("symbolic-ref", "HEAD") == "refs/heads/main"


@pytest.mark.parametrize("version", VERSIONS)
def test_one_commit_of_the_history_can_be_fetched_by_its_id(
    tenant: str, tmp_path: Path, parts: Parts, server: GitServer, source: Git, version: str
) -> None:
    publish(parts, tenant, source)
    old = source("rev-parse", "main~3")
    clone = Git(tmp_path / "clone")
    clone("init", "-q", ".")
    clone("-c", f"protocol.version={version}", "fetch", "-q", server.url(tenant), old)
    assert clone("rev-parse", "FETCH_HEAD") == old


def test_pins_are_not_shown_and_their_commits_not_given(
    tenant: str, tmp_path: Path, parts: Parts, server: GitServer, source: Git
) -> None:
    gone = source.commit("gone", **{"secret.txt": "s\n"})
    publish(parts, tenant, source)
    parts.database.add_pin(tenant, gone, "an instance")
    source("reset", "-q", "--hard", "HEAD~1")
    publish(parts, tenant, source)
    clone = Git(tmp_path / "clone")
    clone("init", "-q", ".")
    assert gone not in clone("ls-remote", server.url(tenant))
    clone("fetch", "-q", server.url(tenant), gone, fails=True)
    assert "pins" not in clone("ls-remote", server.url(tenant))


def test_an_unknown_tenant_is_not_found(tenant: str, tmp_path: Path, server: GitServer) -> None:
    assert "not found" in Git(tmp_path / "clone")("clone", server.url("nobody"), ".", fails=True)


def test_pygit2_and_dulwich_clone_and_fetch(
    tenant: str, tmp_path: Path, parts: Parts, server: GitServer, source: Git
) -> None:
    publish(parts, tenant, source)
    first = pygit2.clone_repository(server.url(tenant), str(tmp_path / "libgit2"))
    assert str(first.head.target) == source("rev-parse", "main")
    with dulwich.porcelain.clone(server.url(tenant), str(tmp_path / "dulwich"), errstream=io.BytesIO()) as second:
        assert second.head().decode() == source("rev-parse", "main")
    source.commit("later", **{"file0.txt": "changed\n"})
    publish(parts, tenant, source)
    first.remotes["origin"].fetch()
    assert str(first.references["refs/remotes/origin/main"].target) == source("rev-parse", "main")


def test_a_large_history_needs_few_requests(tenant: str, tmp_path: Path, parts: Parts, server: GitServer) -> None:
    """Negotiation says `ready` as soon as it can; a client that had to send all its haves would need many rounds."""
    source = Git(tmp_path / "long")
    source("init", "-q", ".")
    lines = []
    for number in range(1500):
        lines.append(
            f"commit refs/heads/main\ncommitter Kim <kim@example.com> {1_600_000_000 + number} +0000\n"
            f"data 2\nc\nM 100644 inline f.txt\ndata {len(str(number))}\n{number}\n"
        )
    source("fast-import", "--quiet", input="".join(lines).encode())
    publish(parts, tenant, source)
    clone = Git(tmp_path / "clone")
    clone("clone", "-q", server.url(tenant), ".")
    source("checkout", "-q", "main")
    source.commit("later", **{"g.txt": "g\n"})
    publish(parts, tenant, source)
    before = server.posts
    clone("pull", "-q")
    assert server.posts - before <= 3
    assert clone("rev-parse", "HEAD") == source("rev-parse", "main")
