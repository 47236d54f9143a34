"""Real git clients push: what they are told, what is stored, and what is left when they vanish or lose."""

from __future__ import annotations

import socket
import subprocess
import threading
from pathlib import Path

import dulwich.porcelain
import pygit2
import pytest

from gitstore.parts import Parts
from tests.compat.conftest import WORKFLOWS, Git, leftovers
from tests.compat.git_server import GitServer

SOURCE = WORKFLOWS.format(version=1)


def remote_lines(text: str) -> list[str]:
    """What the pusher sees behind `remote:`, without the padding that git adds."""
    return [line.removeprefix("remote: ").rstrip() for line in text.splitlines() if line.startswith("remote:")]


def refs(parts: Parts, tenant: str) -> dict[str, str]:
    return {name.decode(): oid.decode() for name, oid in parts.database.refs(tenant).items()}


def live(parts: Parts, tenant: str) -> str | None:
    channel = parts.database.channel(tenant, "live")
    return None if channel is None else channel.commit


@pytest.fixture
def pushed(work: Git) -> str:
    """One pushed and deployed commit on main."""
    tip = work.commit("first", workflows_py=SOURCE)
    work("push", "-q", "origin", "main")
    return tip


@pytest.mark.parametrize("version", ["0", "1", "2"])
def test_a_push_tells_commit_workflows_and_channel(
    parts: Parts, tenant: str, work: Git, server: GitServer, tmp_path: Path, version: str
) -> None:
    tip = work.commit("first", workflows_py=SOURCE)
    text = work("-c", f"protocol.version={version}", "push", "origin", "main")
    assert remote_lines(text) == [
        f"  {tenant}  main  {tip[:8]} (new)",
        "  Workflows Onboarding  workflows.py:4",
        f"  Channel   live -> {tip[:8]}",
    ]
    second = work.commit("second", **{"requirements.txt": "requests==2.31.0\n"})
    text = work("-c", f"protocol.version={version}", "push", "-q", "origin", "main")
    found = remote_lines(text)
    assert found[0] == f"  {tenant}  main  {second[:8]} (was {tip[:8]})", "quiet silences progress, not the report"
    assert f"  Channel   live {tip[:8]} -> {second[:8]}" in found
    assert any(line.startswith("  Warning   ") for line in found)
    assert found[-1] == "  Running instances stay on the commit they are pinned to."
    assert all(len(line) <= 72 for line in found)
    clone = Git(tmp_path / "clone")
    clone("clone", "-q", server.url(tenant), ".")
    assert clone("rev-parse", "HEAD") == second
    assert clone("fsck", "--strict") == ""
    assert leftovers(parts, tenant) == []


def test_a_push_of_the_same_commit_changes_nothing(parts: Parts, tenant: str, work: Git, pushed: str) -> None:
    assert "Everything up-to-date" in work("push", "origin", "main")
    assert len(parts.database.deployments(tenant)) == 1


def test_a_broken_workflow_is_refused_with_file_and_line(parts: Parts, tenant: str, work: Git, pushed: str) -> None:
    work.commit("broken", workflows_py="def f(:\n")
    text = work("push", "origin", "main", fails=True)
    assert "! [remote rejected] main -> main (workflows.py:1:7 " in text
    assert remote_lines(text)[0].startswith("workflows.py:1:7 ")
    assert remote_lines(text)[-1] == "Nothing was changed."
    assert refs(parts, tenant) == {"refs/heads/main": pushed}


def test_a_push_that_is_behind_is_refused_and_force_moves_the_branch(
    parts: Parts, tenant: str, work: Git, pushed: str
) -> None:
    second = work.commit("second", workflows_py=WORKFLOWS.format(version=2))
    work("push", "-q", "origin", "main")
    work("reset", "-q", "--hard", pushed)
    other = work.commit("other", workflows_py=WORKFLOWS.format(version=3))
    assert "[rejected]" in work("push", "origin", "main", fails=True)
    text = work("push", "--force", "origin", "main")
    assert f"(was {second[:8]})" in remote_lines(text)[0]
    assert refs(parts, tenant) == {"refs/heads/main": other}
    assert live(parts, tenant) == other
    assert {d.commit for d in parts.database.deployments(tenant)} == {pushed, second, other}


def test_force_with_lease_holds_only_while_nobody_else_pushed(
    parts: Parts, tenant: str, work: Git, pushed: str, server: GitServer, tmp_path: Path
) -> None:
    other = Git(tmp_path / "other")
    other("clone", "-q", server.url(tenant), ".")
    theirs = other.commit("theirs", workflows_py=WORKFLOWS.format(version=2))
    other("push", "-q", "origin", "main")
    work("commit", "-q", "--amend", "-m", "amended")
    assert "stale info" in work("push", "--force-with-lease", "origin", "main", fails=True)
    assert refs(parts, tenant) == {"refs/heads/main": theirs}
    work("fetch", "-q")
    work("push", "-q", "--force-with-lease", "origin", "main")
    assert refs(parts, tenant) == {"refs/heads/main": work("rev-parse", "HEAD")}


def test_branches_are_deleted_but_for_the_default_one(parts: Parts, tenant: str, work: Git, pushed: str) -> None:
    work("push", "-q", "origin", "main:feature")
    text = work("push", "origin", ":feature")
    assert remote_lines(text) == [f"  {tenant}  feature  deleted (was {pushed[:8]})"]
    text = work("push", "origin", "--delete", "main", fails=True)
    assert "! [remote rejected] main (main is the default branch and cannot be deleted)" in text
    assert refs(parts, tenant) == {"refs/heads/main": pushed}


def test_tags_light_and_annotated(
    parts: Parts, tenant: str, work: Git, pushed: str, server: GitServer, tmp_path: Path
) -> None:
    work("tag", "light")
    work("tag", "-a", "v1", "-m", "one")
    text = work("push", "origin", "--tags")
    assert f"  {tenant}  tag light  {pushed[:8]} (new)" in remote_lines(text)
    assert refs(parts, tenant)["refs/tags/v1"] == work("rev-parse", "v1")
    clone = Git(tmp_path / "clone")
    clone("clone", "-q", server.url(tenant), ".")
    assert clone("rev-parse", "v1^{}", "light") == f"{pushed}\n{pushed}"
    work("tag", "-f", "light", "HEAD")
    work.commit("next", **{"a.txt": "a"})
    work("tag", "-f", "light")
    assert "already exists" in work("push", "origin", "light", fails=True)
    work("push", "-q", "--force", "origin", "light")
    work("push", "-q", "origin", ":refs/tags/v1")
    assert set(refs(parts, tenant)) == {"refs/heads/main", "refs/tags/light"}


def test_atomic_moves_every_ref_or_none(parts: Parts, tenant: str, work: Git, pushed: str) -> None:
    work.commit("broken", workflows_py="def f(:\n")
    work("tag", "release")
    text = work("push", "--atomic", "origin", "main", "release", fails=True)
    assert text.count("[remote rejected]") == 2
    assert refs(parts, tenant) == {"refs/heads/main": pushed}
    text = work("push", "origin", "main", "release", fails=True)
    assert "[new tag]" in text
    assert set(refs(parts, tenant)) == {"refs/heads/main", "refs/tags/release"}


def test_push_options(parts: Parts, tenant: str, work: Git) -> None:
    tip = work.commit("first", workflows_py=SOURCE)
    options = ["-o", "message=release one", "-o", "pin", "-o", "channel=beta", "-o", "nonsense"]
    found = remote_lines(work("push", *options, "origin", "main"))
    assert f"  Channel   beta -> {tip[:8]}" in found
    assert "  Warning   push option 'nonsense' is unknown (known: message=TEXT," in found
    assert parts.database.deployment(tenant, tip).message == "release one"
    assert [pin.commit for pin in parts.database.pins(tenant)] == [tip]
    assert live(parts, tenant) is None
    second = work.commit("second", **{"a.txt": "a"})
    assert "not deployed, as asked" in work("push", "-o", "no-deploy", "origin", "main")
    assert refs(parts, tenant)["refs/heads/main"] == second
    assert len(parts.database.deployments(tenant)) == 1


def test_a_shallow_clone_can_push(
    parts: Parts, tenant: str, work: Git, pushed: str, server: GitServer, tmp_path: Path
) -> None:
    for number in range(3):
        work.commit(f"c{number}", **{"n.txt": str(number)})
    work("push", "-q", "origin", "main")
    shallow = Git(tmp_path / "shallow")
    shallow("clone", "-q", "--depth", "1", server.url(tenant), ".")
    new = shallow.commit("from a shallow clone", **{"new.txt": "n"})
    shallow("push", "-q", "origin", "main")
    assert refs(parts, tenant) == {"refs/heads/main": new}
    work("pull", "-q", "origin", "main")
    assert work("rev-list", "--count", "HEAD") == "5"
    assert work("fsck", "--strict") == ""


def test_five_hundred_refs_in_one_push(parts: Parts, tenant: str, work: Git, pushed: str, server: GitServer) -> None:
    lines = "".join(f"create refs/tags/t{number:03} {pushed}\n" for number in range(500))
    work("update-ref", "--stdin", input=lines.encode())
    found = remote_lines(work("push", "origin", "--tags"))
    assert found[-1] == "  and 480 more refs"
    assert len(refs(parts, tenant)) == 501
    assert len(work("ls-remote", "--tags", "origin").splitlines()) == 500
    work("push", "-q", "origin", *(f":refs/tags/t{number:03}" for number in range(500)))
    assert len(refs(parts, tenant)) == 1


def test_of_eight_clients_at_once_one_wins_and_the_others_are_told(
    parts: Parts, tenant: str, work: Git, pushed: str, server: GitServer, tmp_path: Path
) -> None:
    clients = []
    for number in range(8):
        client = Git(tmp_path / f"client{number}")
        client("clone", "-q", server.url(tenant), ".")
        client.commit(f"by {number}", **{"who.txt": str(number)})
        clients.append(client)
    results: dict[int, subprocess.CompletedProcess[bytes]] = {}
    together = threading.Barrier(8)

    def push(number: int) -> None:
        together.wait(timeout=30)
        results[number] = clients[number].run("push", "origin", "main")

    threads = [threading.Thread(target=push, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [number for number, done in results.items() if done.returncode == 0]
    assert len(winners) == 1
    tip = clients[winners[0]]("rev-parse", "HEAD")
    assert refs(parts, tenant) == {"refs/heads/main": tip}
    assert live(parts, tenant) == tip
    assert [move.to_commit for move in parts.database.channel_history(tenant, "live")] == [tip, pushed]
    for number in set(results) - set(winners):
        text = results[number].stderr.decode()
        assert "fetch first" in text, "told by the server, or seen by the client before it sent anything"
    assert leftovers(parts, tenant) == []
    for client in clients:
        client("pull", "-q", "--rebase", "-X", "theirs")
        client("push", "-q", "origin", "main")
    work("pull", "-q", "origin", "main")
    assert work("rev-list", "--count", "HEAD") == "9"


def test_eight_branches_at_once_all_arrive(parts: Parts, tenant: str, work: Git, pushed: str) -> None:
    commits = {}
    for number in range(8):
        commits[f"refs/heads/b{number}"] = work.commit(f"c{number}", **{f"f{number}.txt": "x"})
        work("branch", f"b{number}")
    children = [
        subprocess.Popen(
            ["git", "push", "-q", "origin", f"b{number}"],
            cwd=work.folder, env=work.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for number in range(8)
    ]  # fmt: skip
    for child in children:
        output, _ = child.communicate(timeout=60)
        assert child.returncode == 0, output
    assert refs(parts, tenant) == {"refs/heads/main": pushed, **commits}


@pytest.mark.parametrize("kept", [0.2, 0.9])
def test_a_killed_client_leaves_nothing(
    parts: Parts, tenant: str, work: Git, pushed: str, server: GitServer, kept: float
) -> None:
    """The bytes of a real push, cut off in the middle of the body, and the connection closed."""
    new = work.commit("second", **{"data.txt": "\n".join(map(str, range(20_000)))})
    pack = work.run("pack-objects", "--stdout", "--revs", input=f"{new}\n^{pushed}\n".encode()).stdout
    command = f"{pushed} {new} refs/heads/main\0report-status side-band-64k".encode()
    body = f"{len(command) + 4:04x}".encode() + command + b"0000" + pack
    before = server.posts
    with socket.create_connection(server.server_address) as connection:
        head = f"POST /{tenant}.git/git-receive-pack HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[: int(len(body) * kept)])
    server.wait_for_posts(before + 1)
    assert refs(parts, tenant) == {"refs/heads/main": pushed}
    assert leftovers(parts, tenant) == []
    work("push", "-q", "origin", "main")
    assert refs(parts, tenant) == {"refs/heads/main": new}


def test_a_large_push_arrives_chunked_and_deltified(
    parts: Parts, tenant: str, work: Git, server: GitServer, tmp_path: Path
) -> None:
    import random

    lines = [f"{random.Random(number).random()}" for number in range(4000)]
    for number in range(5):
        lines[number * 100] = f"changed {number}"
        tip = work.commit(
            f"c{number}", **{"big.txt": "\n".join(lines), f"n{number}.bin": "".join(lines)[:: number + 1]}
        )
    work("-c", "http.postBuffer=4096", "push", "-q", "origin", "main")
    lines[7] = "again"
    tip = work.commit("thin", **{"big.txt": "\n".join(lines)})
    work("push", "-q", "origin", "main")  # a thin pack: a delta on a blob that the server has
    assert refs(parts, tenant) == {"refs/heads/main": tip}
    clone = Git(tmp_path / "clone")
    clone("clone", "-q", server.url(tenant), ".")
    assert (clone.folder / "big.txt").read_text() == "\n".join(lines)
    assert clone("fsck", "--strict") == ""


def test_a_pack_over_the_limit_is_refused_with_the_limit(parts: Parts, tenant: str, work: Git) -> None:
    import random

    (work.folder / "noise.bin").write_bytes(random.Random(1).randbytes(5 << 20))
    work.commit("noise")
    text = work("push", "origin", "main", fails=True)
    assert "pack_bytes_max" in "\n".join(remote_lines(text))
    assert refs(parts, tenant) == {}
    assert leftovers(parts, tenant) == []


def test_pygit2_pushes(parts: Parts, tenant: str, work: Git, server: GitServer) -> None:
    tip = work.commit("first", workflows_py=SOURCE)
    pygit2.Repository(str(work.folder)).remotes["origin"].push(["refs/heads/main"])
    assert refs(parts, tenant) == {"refs/heads/main": tip}
    work.commit("broken", workflows_py="def f(:\n")

    class Callbacks(pygit2.RemoteCallbacks):
        told: str | None = None

        def push_update_reference(self, refname: str, message: str | None) -> None:
            Callbacks.told = message

    pygit2.Repository(str(work.folder)).remotes["origin"].push(["refs/heads/main"], callbacks=Callbacks())
    assert (Callbacks.told or "").startswith("workflows.py:1:7 ")
    assert live(parts, tenant) == tip


def test_dulwich_pushes(parts: Parts, tenant: str, work: Git, server: GitServer) -> None:
    import io

    tip = work.commit("first", workflows_py=SOURCE)
    told = io.BytesIO()
    dulwich.porcelain.push(
        str(work.folder), server.url(tenant), "refs/heads/main", outstream=io.BytesIO(), errstream=told
    )
    assert refs(parts, tenant) == {"refs/heads/main": tip}
    assert f"Channel   live -> {tip[:8]}".encode() in told.getvalue()


def test_the_mirror_lets_plain_git_read_what_was_pushed(parts: Parts, tenant: str, work: Git, pushed: str) -> None:
    path = str(parts.repository_path(tenant))
    assert work("--git-dir", path, "log", "--format=%H %s", "main") == f"{pushed} first"
    assert work("--git-dir", path, "fsck", "--strict", "--full") == ""
