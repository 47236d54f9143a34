"""The pipeline itself: commit_files, and what holds when something fails between two of its stages."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitstore import mirror, push, quarantine
from gitstore.database import Database
from gitstore.errors import Conflict, InvalidName, LimitExceeded, Refused, TenantNotFound, Unavailable
from gitstore.files import commit_files
from gitstore.libgit import open_repository
from gitstore.limits import Limits
from gitstore.parts import Parts
from gitstore.push import Push, PushRequest
from gitstore.push_options import PushOptions, parse_options
from gitstore.rows import RefUpdate
from tests.gitstore.git_requests import SOURCE, Objects, open_parts

FILES = {"workflows.py": SOURCE, "lib/util.py": b"x = 1\n"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    with open_parts(tmp_path_factory.mktemp("push") / "store", Limits(tree_files_max=50)) as parts:
        yield parts


_numbers = iter(range(10**6))


@pytest.fixture
def tenant(store: Parts) -> str:
    return store.database.create_tenant(f"t{next(_numbers)}").name


def files_of(parts: Parts, tenant: str, commit: str) -> dict[str, bytes]:
    """The whole tree, read by libgit2."""
    repository = open_repository(parts.repository_path(tenant))
    found: dict[str, bytes] = {}

    def walk(tree: object, prefix: str) -> None:
        for entry in tree:  # type: ignore[attr-defined]
            if entry.type_str == "tree":
                walk(entry, f"{prefix}{entry.name}/")
            else:
                found[prefix + entry.name] = entry.data

    walk(repository[commit].tree, "")
    return found


def live(parts: Parts, tenant: str) -> str | None:
    channel = parts.database.channel(tenant, "live")
    return None if channel is None else channel.commit


# -- commit_files ----------------------------------------------------------------------------------------------------


def test_files_become_a_deployed_commit(store: Parts, tenant: str) -> None:
    made = commit_files(store, tenant, FILES, message="first", who="kim")
    assert (made.tenant, made.branch, made.channel, made.who, made.message) == (tenant, "main", "live", "kim", "first")
    assert [(w.name, w.path, w.line, w.module) for w in made.workflows] == [("Job", "workflows.py", 4, "workflows")]
    assert files_of(store, tenant, made.commit) == FILES
    assert store.database.refs(tenant) == {b"refs/heads/main": made.commit.encode()}
    assert live(store, tenant) == made.commit
    commit = open_repository(store.repository_path(tenant))[made.commit]
    assert (commit.author.name, commit.message, commit.commit_time) == ("kim", "first\n", 1_700_000_000)


def test_a_second_commit_follows_the_first(store: Parts, tenant: str) -> None:
    first = commit_files(store, tenant, FILES, message="1", who="kim")
    second = commit_files(store, tenant, {"workflows.py": SOURCE + b"#\n"}, message="2", who="kim")
    commit = open_repository(store.repository_path(tenant))[second.commit]
    assert [str(parent) for parent in commit.parent_ids] == [first.commit]
    assert files_of(store, tenant, second.commit) == {"workflows.py": SOURCE + b"#\n"}


def test_without_replace_files_are_laid_over_the_present_ones(store: Parts, tenant: str) -> None:
    commit_files(store, tenant, FILES, message="1", who="kim")
    second = commit_files(store, tenant, {"lib/new.py": b"y = 2\n"}, message="2", who="kim", replace=False)
    assert files_of(store, tenant, second.commit) == {**FILES, "lib/new.py": b"y = 2\n"}


def test_the_same_files_again_change_nothing(store: Parts, tenant: str) -> None:
    first = commit_files(store, tenant, FILES, message="first", who="kim")
    again = commit_files(store, tenant, dict(reversed(FILES.items())), message="again", who="lee")
    assert again == first
    assert store.database.refs(tenant) == {b"refs/heads/main": first.commit.encode()}
    assert len(store.database.channel_history(tenant, "live")) == 1


def test_the_same_files_after_a_rollback_are_deployed_again(store: Parts, tenant: str) -> None:
    """Whoever deploys what the branch has, while the channel is elsewhere, wants the channel to move."""
    first = commit_files(store, tenant, FILES, message="1", who="kim")
    changed = {"workflows.py": SOURCE + b"# two\n"}
    second = commit_files(store, tenant, changed, message="2", who="kim")
    back = RefUpdate(b"refs/heads/side", None, first.commit)
    request = PushRequest(tenant, (back,), who="kim", options=PushOptions(channel="live"))
    with Push(store, request) as running:
        assert running.finish().error is None
    assert live(store, tenant) == first.commit
    third = commit_files(store, tenant, changed, message="3", who="kim")
    assert third.commit != second.commit
    assert third.tree == second.tree
    assert live(store, tenant) == third.commit


def test_another_branch_gets_a_deployment_and_moves_no_channel(store: Parts, tenant: str) -> None:
    made = commit_files(store, tenant, FILES, message="m", who="kim", branch="feature")
    assert (made.branch, made.channel) == ("feature", "")
    assert live(store, tenant) is None
    assert commit_files(store, tenant, FILES, message="m", who="kim", branch="feature") == made


def test_broken_sources_are_refused_with_diagnostics(store: Parts, tenant: str) -> None:
    commit_files(store, tenant, FILES, message="1", who="kim")
    before = store.database.refs(tenant)
    with pytest.raises(Refused) as refused:
        commit_files(store, tenant, {"workflows.py": b"x = 1\ndef f(:\n"}, message="2", who="kim")
    found = refused.value.diagnostics[0]
    assert (found.path, found.line, found.column) == ("workflows.py", 2, 7)
    assert store.database.refs(tenant) == before


@pytest.mark.parametrize("path", ["", "/abs", "a//b", "../up", "a/./b", "a/..", "trailing/", "nul\0", "\udc80"])
def test_paths_that_are_no_paths_are_refused(store: Parts, tenant: str, path: str) -> None:
    with pytest.raises(InvalidName) as refused:
        commit_files(store, tenant, {path: b""}, message="m", who="kim")
    assert refused.value.code == "invalid_path"


@pytest.mark.parametrize("path", [".git/config", "a/.GIT/x", "git~1/x", "a\\b", "x" * 300])
def test_hostile_names_are_refused_by_the_same_check_as_a_push(store: Parts, tenant: str, path: str) -> None:
    with pytest.raises(Refused):
        commit_files(store, tenant, {path: b"x"}, message="m", who="kim")
    assert store.database.refs(tenant) == {}


def test_a_file_cannot_be_a_folder_too(store: Parts, tenant: str) -> None:
    with pytest.raises(InvalidName, match="'a' is a file"):
        commit_files(store, tenant, {"a": b"", "a/b": b""}, message="m", who="kim")


def test_nothing_to_deploy_is_refused(store: Parts, tenant: str) -> None:
    with pytest.raises(Refused) as refused:
        commit_files(store, tenant, {}, message="m", who="kim")
    assert refused.value.code == "no_files"


def test_limits_hold_for_files_as_for_pushes(store: Parts, tenant: str) -> None:
    with pytest.raises(LimitExceeded, match="tree_files_max"):
        commit_files(store, tenant, {f"f{n}": b"" for n in range(60)}, message="m", who="kim")


def test_an_unknown_tenant_is_not_found(store: Parts) -> None:
    with pytest.raises(TenantNotFound):
        commit_files(store, "nobody", FILES, message="m", who="kim")


def test_a_branch_that_moves_meanwhile_is_a_conflict(
    store: Parts, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_files(store, tenant, FILES, message="1", who="kim")
    original = Push.receive

    def overtaken(self: Push, body: object) -> None:
        monkeypatch.setattr(Push, "receive", original)
        commit_files(store, tenant, {"workflows.py": SOURCE + b"# winner\n"}, message="2", who="lee")
        original(self, body)  # type: ignore[arg-type]

    monkeypatch.setattr(Push, "receive", overtaken)
    with pytest.raises(Conflict) as conflict:
        commit_files(store, tenant, {"workflows.py": SOURCE + b"# loser\n"}, message="3", who="kim")
    assert conflict.value.code == "stale"
    assert len(store.database.channel_history(tenant, "live")) == 2


def test_any_person_and_message_make_a_readable_commit(store: Parts, tenant: str) -> None:
    made = commit_files(store, tenant, FILES, message="line\n\nbody \0 é", who="<evil>\nauthor é")
    commit = open_repository(store.repository_path(tenant))[made.commit]
    assert commit.message == "line\n\nbody  é\n"
    assert commit.author.name == "evilauthor é"


_names = st.sampled_from(["a", "b", "c.txt", "é", "z z", "a0", "a.b"])
_paths = st.lists(_names, min_size=1, max_size=3).map("/".join)


@given(st.dictionaries(_paths, st.binary(max_size=20), min_size=1, max_size=6))
def test_what_is_committed_is_what_is_read(store: Parts, scratch: str, files: dict[str, bytes]) -> None:
    """Tree order is git's own (folders sort as if they ended in a slash): the check accepts every tree made here."""
    clashes = any(other.startswith(path + "/") for path in files for other in files)
    try:
        made = commit_files(store, scratch, files, message="m", who="kim")
    except InvalidName:
        assert clashes
        return
    assert not clashes
    assert files_of(store, scratch, made.commit) == files


@pytest.fixture(scope="module")
def scratch(store: Parts) -> str:
    return store.database.create_tenant("scratch").name


# -- the pipeline ----------------------------------------------------------------------------------------------------


def ready(store: Parts, tenant: str) -> tuple[PushRequest, io.BytesIO, str]:
    objects = Objects()
    tip = objects.commit(objects.tree(FILES))
    return PushRequest(tenant, (RefUpdate(b"refs/heads/main", None, tip),), who="kim"), io.BytesIO(objects.pack()), tip


def test_a_failure_of_the_transaction_moves_nothing_and_can_be_repeated(
    store: Parts, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, pack, tip = ready(store, tenant)

    def busy(*_: object, **__: object) -> None:
        raise Unavailable("The database is busy.")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "commit_push", busy)
        with Push(store, request) as running:
            running.receive(pack)
            result = running.finish()
    assert isinstance(result.error, Unavailable)
    assert store.database.refs(tenant) == {}
    pack.seek(0)
    with Push(store, request) as running:
        running.receive(pack)
        assert running.finish().error is None
    assert live(store, tenant) == tip


def test_a_mirror_that_cannot_be_written_does_not_undo_a_committed_push(
    store: Parts, tenant: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request, pack, tip = ready(store, tenant)

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(mirror, "rewrite", fail)
    with Push(store, request) as running:
        running.receive(pack)
        result = running.finish()
    assert [outcome.ok for outcome in result.outcomes] == [True]
    assert live(store, tenant) == tip
    assert "mirror not written" in caplog.text


def test_a_collection_during_the_push_makes_it_check_again(
    store: Parts, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, pack, _ = ready(store, tenant)
    checks: list[int] = []
    original = quarantine.Quarantine.check
    prepare = push.prepare.analysis_and_bundle

    def counted(self: quarantine.Quarantine, tips: object) -> None:
        checks.append(1)
        original(self, tips)  # type: ignore[arg-type]

    def collected(*args: object, **kwargs: object) -> object:
        with store.lock(tenant) as lock:
            lock.collections += 1
        return prepare(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(quarantine.Quarantine, "check", counted)
    monkeypatch.setattr(push.prepare, "analysis_and_bundle", collected)
    with Push(store, request) as running:
        running.receive(pack)
        assert running.finish().error is None
    assert checks == [1, 1]


def test_a_ref_that_moves_after_the_first_look_is_stale(
    store: Parts, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, pack, _ = ready(store, tenant)
    prepare = push.prepare.analysis_and_bundle

    def overtaken(*args: object, **kwargs: object) -> object:
        monkeypatch.setattr(push.prepare, "analysis_and_bundle", prepare)
        commit_files(store, tenant, {"other.txt": b"first\n"}, message="m", who="lee")
        return prepare(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(push.prepare, "analysis_and_bundle", overtaken)
    with Push(store, request) as running:
        running.receive(pack)
        result = running.finish()
    winner = store.database.refs(tenant)[b"refs/heads/main"].decode()
    assert result.outcomes[0].reason == f"stale: the branch exists already at {winner[:8]}; fetch first"
    assert len(list((store.repository_path(tenant) / "objects" / "pack").glob("*.pack"))) == 1


def test_a_broken_deployment_does_not_hold_up_the_other_refs_unless_atomic(store: Parts, tenant: str) -> None:
    objects = Objects()
    good = objects.commit(objects.tree({"a.txt": b"a"}))
    bad = objects.commit(objects.tree({"workflows.py": b"def f(:\n"}))
    updates = (RefUpdate(b"refs/heads/main", None, bad), RefUpdate(b"refs/tags/good", None, good))
    for atomic in (True, False):
        with Push(store, PushRequest(tenant, updates, who="kim", atomic=atomic)) as running:
            running.receive(io.BytesIO(objects.pack()))
            result = running.finish()
        assert [outcome.ok for outcome in result.outcomes] == [False, not atomic]
        assert result.outcomes[0].reason.startswith("workflows.py:1:7 ")
        assert store.database.channel(tenant, "live") is None
    assert store.database.refs(tenant) == {b"refs/tags/good": good.encode()}


# -- push options ----------------------------------------------------------------------------------------------------


def test_options_are_read() -> None:
    assert parse_options([b"message=a=b", b"channel=beta", b"no-deploy", b"pin"]) == PushOptions(
        message="a=b",
        no_deploy=True,
        pin=True,
        channel="beta",
        warnings=("push option 'channel' does nothing beside 'no-deploy'",),
    )


@given(st.lists(st.binary(max_size=30), max_size=5))
def test_any_options_are_read_or_refused(options: list[bytes]) -> None:
    try:
        found = parse_options(options)
    except InvalidName:
        return
    assert all("\n" not in warning and "\x1b" not in warning for warning in found.warnings)
