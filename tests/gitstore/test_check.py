"""The object checks: what a hostile tree, commit or link is refused for, in which words, and that honest ones pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from gitstore.check import ObjectChecks
from gitstore.entry_names import name_problem
from gitstore.errors import LimitExceeded, Refused
from gitstore.ingest import _indexed, index_pack
from gitstore.limits import Limits
from gitstore.objects import Objects
from gitstore.unfold import check_tips, unfold
from tests.gitstore import hostile
from tests.gitstore.hostile import BLOB, COMMIT, PERSON, TAG, TREE, commit, oid, pack_of, tree

LIMITS = Limits()
FILE = b"x = 1\n"
FILE_ID = oid(BLOB, FILE)
EMPTY_TREE_ID = oid(TREE, b"")


def opened(folder: Path, body: bytes) -> tuple[Objects, list[bytes]]:
    """The objects of a pack, indexed in `folder`, and their ids."""
    (folder / "pack").mkdir(parents=True)
    spool = folder / "incoming.pack"
    spool.write_bytes(body)
    with spool.open("r+b") as stream:
        index_pack(folder, stream)
    (index,) = (folder / "pack").glob("*.idx")
    return Objects(folder), list(_indexed(index))


def check(folder: Path, *objects: tuple[int, bytes], limits: Limits = LIMITS) -> None:
    """Check all objects of a pack, then the last one as the tip of main."""
    found, new = opened(folder, pack_of(*objects))
    ObjectChecks(found, new, limits).run()
    kind, content = objects[-1]
    check_tips(found, [(b"refs/heads/main", oid(kind, content).hex())], limits)


def refusal(folder: Path, *objects: tuple[int, bytes], limits: Limits = LIMITS) -> Refused:
    with pytest.raises(Refused) as caught:
        check(folder, *objects, limits=limits)
    assert caught.value.code in ("object_refused", "limit_exceeded")
    return caught.value


def in_a_commit(
    *entries: tuple[bytes, bytes, bytes], more: tuple[tuple[int, bytes], ...] = ()
) -> list[tuple[int, bytes]]:
    """Objects of one commit whose tree has the entries."""
    root = tree(*entries)
    return [(BLOB, FILE), *more, (TREE, root), (COMMIT, commit(oid(TREE, root)))]


def commit_name(objects: list[tuple[int, bytes]]) -> str:
    return oid(*objects[-1]).hex()[:10]


def test_ordinary_trees_pass(tmp_path: Path) -> None:
    sub = tree((b"100755", b"run.sh", FILE_ID), (b"120000", b"up", oid(BLOB, b"../a.py")))
    entries = [
        (b"100644", b".gitignore", FILE_ID),
        (b"100644", b"a.py", FILE_ID),
        (b"40000", b"lib", oid(TREE, sub)),
        (b"100664", b"old", FILE_ID),
        (b"100644", b"with space", FILE_ID),
        (b"100644", "ünïcödé.py".encode(), FILE_ID),
    ]
    check(tmp_path, *in_a_commit(*entries, more=((BLOB, b"../a.py"), (TREE, sub))))


def test_a_file_sorts_before_a_folder_of_a_longer_name_as_git_sorts(tmp_path: Path) -> None:
    sub = tree((b"100644", b"x", FILE_ID))
    entries = [(b"100644", b"a-b", FILE_ID), (b"100644", b"a.b", FILE_ID), (b"40000", b"a", oid(TREE, sub))]
    check(tmp_path, *in_a_commit(*entries, more=((TREE, sub),)))


HOSTILE_NAMES = {
    b"": "a tree entry has an empty name",
    b".": "a tree entry may not be named '.'",
    b"..": "a tree entry may not be named '..'",
    b".git": "the name means git's own folder on some file systems",
    b".GIT": "the name means git's own folder on some file systems",
    b".gIt.": "the name means git's own folder on some file systems",
    b".git ": "the name means git's own folder on some file systems",
    b".git::$INDEX_ALLOCATION": "the name means git's own folder on some file systems",
    b"git~1": "the name means git's own folder on some file systems",
    b"GIT~12": "the name means git's own folder on some file systems",
    ".g\u200cit".encode(): "the name means git's own folder on some file systems",
    "\ufeff.git".encode(): "the name means git's own folder on some file systems",
    b"a/b": "a name may not contain a slash or backslash",
    b"a\\b": "a name may not contain a slash or backslash",
    b"a\nb": "a name may not contain control characters",
    b"a\x1b[31m": "a name may not contain control characters",
    b"a\x7f": "a name may not contain control characters",
    b"n" * 256: "the name is 256 bytes long, 255 are allowed (name_bytes_max)",
}


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_that_leave_the_folder_or_mean_git_are_refused(tmp_path: Path, name: bytes) -> None:
    objects = in_a_commit((b"100644", name, FILE_ID))
    error = refusal(tmp_path, *objects)
    place = error.message.removesuffix(f": {HOSTILE_NAMES[name]} (commit {commit_name(objects)}).")
    assert place != error.message, error.message
    assert place.isprintable()
    assert error.details["path"] == name.decode()


@pytest.mark.parametrize("name", [b"git", b".gitx", b"git~", b"git~x", b"...", b".gitignore", b"a" * 255, b"\xff\xfe"])
def test_names_that_only_look_like_it_pass(name: bytes) -> None:
    assert name_problem(name, bytes_max=255) is None


def test_refusal_names_the_whole_path(tmp_path: Path) -> None:
    inner = tree((b"100644", b"..", FILE_ID))
    outer = tree((b"40000", b"inner", oid(TREE, inner)))
    objects = in_a_commit((b"40000", b"outer", oid(TREE, outer)), more=((TREE, inner), (TREE, outer)))
    assert refusal(tmp_path, *objects).message == (
        f"outer/inner/..: a tree entry may not be named '..' (commit {commit_name(objects)})."
    )


def test_control_characters_of_a_name_do_not_reach_the_terminal(tmp_path: Path) -> None:
    objects = in_a_commit((b"100644", b"a\x1b[31m\xff", FILE_ID))
    assert refusal(tmp_path, *objects).message.startswith("a\\x1b[31m\\xff: a name may not contain control characters")


@pytest.mark.parametrize("mode", [b"100777", b"100600", b"040000", b"755", b"0", b"", b"140000", b"100644x"])
def test_odd_modes_are_refused(tmp_path: Path, mode: bytes) -> None:
    objects = in_a_commit((mode, b"a", FILE_ID))
    why = f"a tree entry may not have the mode {mode.decode()}"
    assert refusal(tmp_path, *objects).message == f"a: {why} (commit {commit_name(objects)})."


def test_submodules_are_refused_with_advice(tmp_path: Path) -> None:
    objects = in_a_commit((b"160000", b"vendor", bytes(19) + b"\1"))
    error = refusal(tmp_path, *objects)
    assert str(error) == (
        f"vendor: submodules are not supported (commit {commit_name(objects)})."
        " Commit the files themselves, or name the library in a lock file."
    )


def test_name_twice_is_refused_also_as_file_and_folder(tmp_path: Path) -> None:
    objects = in_a_commit((b"100644", b"a", FILE_ID), (b"100644", b"a", FILE_ID))
    why = f"the name occurs twice in its folder (commit {commit_name(objects)})."
    assert refusal(tmp_path / "1", *objects).message == f"a: {why}"
    sub = tree((b"100644", b"x", FILE_ID))
    entries = [(b"100644", b"a", FILE_ID), (b"100644", b"a.b", FILE_ID), (b"40000", b"a", oid(TREE, sub))]
    objects = in_a_commit(*entries, more=((TREE, sub),))
    why = f"the name occurs twice in its folder (commit {commit_name(objects)})."
    assert refusal(tmp_path / "2", *objects).message == f"a: {why}"


def test_unsorted_trees_are_refused(tmp_path: Path) -> None:
    objects = in_a_commit((b"100644", b"b", FILE_ID), (b"100644", b"a", FILE_ID))
    why = f"the entries of its folder are not sorted (commit {commit_name(objects)})."
    assert refusal(tmp_path, *objects).message == f"a: {why}"


def test_tree_cut_short_is_refused(tmp_path: Path) -> None:
    root = tree((b"100644", b"a", FILE_ID))[:-1]
    objects = [(BLOB, FILE), (TREE, root), (COMMIT, commit(oid(TREE, root)))]
    why = f"the tree object ends in the middle of an entry (commit {commit_name(objects)})."
    assert refusal(tmp_path, *objects).message == f"tree {oid(TREE, root).hex()}: {why}"


LINKS = {
    b"/etc/passwd": "the symbolic link leads outside the repository: /etc/passwd",
    b"C:/x": "the symbolic link leads outside the repository: C:/x",
    b"..\\x": "the symbolic link leads outside the repository: ..\\x",
    b"": "the symbolic link is empty",
    b"a\0b": "the symbolic link contains control characters",
    b".git/hooks": "the symbolic link leads into git's own folder: .git/hooks",
    b"a/../../x": "the symbolic link goes up after going down: a/../../x",
    b"x" * 4096: "a symbolic link may not be longer than 4095 bytes",
}


@pytest.mark.parametrize("target", LINKS, ids=lambda target: target[:12].hex())
def test_links_out_of_the_tree_are_refused_wherever_they_are(tmp_path: Path, target: bytes) -> None:
    objects = in_a_commit((b"120000", b"link", oid(BLOB, target)), more=((BLOB, target),))
    assert refusal(tmp_path, *objects).message == f"link: {LINKS[target]} (commit {commit_name(objects)})."


@pytest.mark.parametrize(("target", "is_inside"), [(b"../../a", True), (b"./../.././a", True), (b"../../../a", False)])
def test_how_far_up_a_link_may_lead_depends_on_where_it_is(tmp_path: Path, target: bytes, is_inside: bool) -> None:
    two = tree((b"120000", b"link", oid(BLOB, target)))
    one = tree((b"40000", b"two", oid(TREE, two)))
    objects = in_a_commit((b"40000", b"one", oid(TREE, one)), more=((BLOB, target), (TREE, two), (TREE, one)))
    if is_inside:
        check(tmp_path, *objects)
    else:
        assert refusal(tmp_path, *objects).message == (
            "one/two/link: the symbolic link leads outside the repository (refs/heads/main)."
        )


def test_a_checked_folder_moved_up_does_not_carry_its_link_outside(tmp_path: Path) -> None:
    two = tree((b"120000", b"link", oid(BLOB, b"../a")))
    objects = [(BLOB, b"../a"), (TREE, two), (COMMIT, commit(oid(TREE, two)))]
    assert refusal(tmp_path, *objects).message == (
        "link: the symbolic link leads outside the repository (refs/heads/main)."
    )


def test_link_named_gitmodules_is_refused(tmp_path: Path) -> None:
    objects = in_a_commit((b"120000", b".gitmodules", oid(BLOB, b"a")), more=((BLOB, b"a"),))
    assert refusal(tmp_path, *objects).message == (
        f".gitmodules: this name may not be a symbolic link (commit {commit_name(objects)})."
    )


def test_ids_that_are_nowhere_are_refused(tmp_path: Path) -> None:
    absent = "01" * 20
    objects = in_a_commit((b"100644", b"a", bytes.fromhex(absent)))
    assert refusal(tmp_path / "1", *objects).message == (
        f"a: the file {absent} is in neither the push nor this repository (commit {commit_name(objects)})."
    )
    lonely = [(COMMIT, commit(bytes.fromhex(absent)))]
    assert refusal(tmp_path / "2", *lonely).message == (
        f"commit {oid(*lonely[0]).hex()}: the tree {absent} is in neither the push nor this repository."
    )
    orphan = [(TREE, b""), (COMMIT, commit(EMPTY_TREE_ID, bytes.fromhex(absent)))]
    assert refusal(tmp_path / "3", *orphan).message == (
        f"commit {oid(*orphan[1]).hex()}: the commit {absent} is in neither the push nor this repository."
    )


def test_an_object_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    objects = in_a_commit((b"40000", b"a", FILE_ID))
    assert refusal(tmp_path / "1", *objects).message == (
        f"a: {FILE_ID.hex()} is a file, not a tree (commit {commit_name(objects)})."
    )
    odd = [(BLOB, FILE), (COMMIT, commit(FILE_ID))]
    assert refusal(tmp_path / "2", *odd).message == (
        f"commit {oid(*odd[1]).hex()}: {FILE_ID.hex()} is a file, not a tree."
    )


GOOD = commit(EMPTY_TREE_ID)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "its tree line is missing"),
        (GOOD.replace(b"tree ", b"tree x"), "its tree line is malformed"),
        (GOOD.replace(b"author", b"writer"), "its author line is missing"),
        (commit(EMPTY_TREE_ID, author=b"A a@example.com 17 +0000"), "its author line is malformed"),
        (commit(EMPTY_TREE_ID, author=b"A <a> tomorrow +0000"), "its author line is malformed"),
        (commit(EMPTY_TREE_ID, author=b"A <a> 1 UTC"), "its author line is malformed"),
        (GOOD.replace(b"author A", b"author \0"), "its header contains a NUL"),
        (GOOD.replace(b"committer", b"parent"), "its committer line is missing"),
    ],
)
def test_malformed_commits_are_refused(tmp_path: Path, content: bytes, why: str) -> None:
    objects = [(TREE, b""), (COMMIT, content)]
    assert refusal(tmp_path, *objects).message == f"commit {oid(COMMIT, content).hex()}: {why}."


def test_signed_and_encoded_commits_pass(tmp_path: Path) -> None:
    head, _, message = GOOD.partition(b"\n\n")
    signed = head + b"\ngpgsig -----BEGIN\n line\n -----END\nencoding latin1\n\n" + message
    check(tmp_path, (TREE, b""), (COMMIT, signed))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"object x\ntype commit\ntag v\n\n", "its object line is malformed"),
        (b"object %b\ntype thing\ntag v\n\n" % EMPTY_TREE_ID.hex().encode(), "its type line is malformed"),
        (b"object %b\ntype tree\n\n" % EMPTY_TREE_ID.hex().encode(), "its tag line is missing"),
        (b"object %b\ntype tree\ntag v\ntagger me\n\n" % EMPTY_TREE_ID.hex().encode(), "its tagger line is malformed"),
        (
            b"object %b\ntype commit\ntag v\ntagger %b\n\n" % (EMPTY_TREE_ID.hex().encode(), PERSON),
            f"{EMPTY_TREE_ID.hex()} is a tree, not a commit",
        ),
    ],
)
def test_malformed_tags_are_refused(tmp_path: Path, content: bytes, why: str) -> None:
    error = refusal(tmp_path, (TREE, b""), (TAG, content))
    assert error.message == f"tag {oid(TAG, content).hex()}: {why}."


def test_branches_name_commits_and_tags_may_name_anything(tmp_path: Path) -> None:
    objects, _ = opened(tmp_path, pack_of((BLOB, FILE), (TREE, b"")))
    for name in (FILE_ID, EMPTY_TREE_ID):
        check_tips(objects, [(b"refs/tags/t", name.hex())], LIMITS)
    with pytest.raises(Refused) as caught:
        check_tips(objects, [(b"refs/heads/main", FILE_ID.hex())], LIMITS)
    assert caught.value.message == f"refs/heads/main: a branch must name a commit; {FILE_ID.hex()} is a file."


def test_tip_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    objects, _ = opened(tmp_path, pack_of((BLOB, FILE)))
    with pytest.raises(Refused) as caught:
        check_tips(objects, [(b"refs/heads/main", "01" * 20)], LIMITS)
    assert caught.value.code == "object_missing"
    assert caught.value.message == (
        f"refs/heads/main: the object {'01' * 20} is in neither the push nor this repository."
    )


def test_bomb_of_a_hundred_million_files_is_refused_without_being_unfolded(tmp_path: Path) -> None:
    body, head = hostile.tree_bomb(width=10, depth=8)
    assert len(body) < 1200
    objects, new = opened(tmp_path, body)
    ObjectChecks(objects, new, LIMITS).run()
    with pytest.raises(LimitExceeded) as caught:
        check_tips(objects, [(b"refs/heads/main", head)], LIMITS)
    # 10^8 files and all the folders above them.
    assert caught.value.message == (
        "The number of files and folders in refs/heads/main (111111110) is over the limit of 20000 (tree_files_max)."
    )
    with pytest.raises(LimitExceeded, match="tree_files_max"):
        root = objects.tree_of(bytes.fromhex(head))
        assert root is not None
        unfold(objects, root, LIMITS, name="commit")


def test_bomb_of_folders_without_any_file_is_refused(tmp_path: Path) -> None:
    contents, below = [b""], EMPTY_TREE_ID
    for _ in range(6):
        contents.append(tree(*((b"40000", b"%02d" % number, below) for number in range(20))))
        below = oid(TREE, contents[-1])
    objects = [*((TREE, content) for content in contents), (COMMIT, commit(below))]
    assert refusal(tmp_path, *objects).details["limit"] == "tree_files_max"


def nested(depth: int, name: bytes = b"d") -> list[tuple[int, bytes]]:
    contents, below = [tree((b"100644", b"f", FILE_ID))], b""
    below = oid(TREE, contents[0])
    for _ in range(depth - 1):
        contents.append(tree((b"40000", name, below)))
        below = oid(TREE, contents[-1])
    return [(BLOB, FILE), *((TREE, content) for content in contents), (COMMIT, commit(below))]


def test_depth_of_folders_is_bounded_also_far_beyond_any_stack(tmp_path: Path) -> None:
    check(tmp_path / "1", *nested(32))
    assert refusal(tmp_path / "2", *nested(33)).message == (
        "The depth of folders in refs/heads/main (33) is over the limit of 32 (tree_depth_max)."
    )
    assert refusal(tmp_path / "3", *nested(3000)).details["found"] == 3000


def test_length_of_paths_and_sum_of_sizes_are_bounded(tmp_path: Path) -> None:
    assert refusal(tmp_path / "1", *nested(10, b"d" * 200)).message == (
        "The length in bytes of the longest path in refs/heads/main (1810) is over the limit of 1024 (path_bytes_max)."
    )
    # One blob, named five times, counts five times.
    entries = [(b"100644", b"f%d" % number, FILE_ID) for number in range(5)]
    limits = Limits(tree_bytes_max=4 * len(FILE))
    assert refusal(tmp_path / "2", *in_a_commit(*entries), limits=limits).message == (
        "The size in bytes of all files in refs/heads/main (30) is over the limit of 24 (tree_bytes_max)."
    )


def test_unfolded_files_are_sorted_by_bytes_and_names_must_be_utf8(tmp_path: Path) -> None:
    sub = tree((b"100644", b"z", FILE_ID))
    entries = [(b"100644", b"a-", FILE_ID), (b"40000", b"a", oid(TREE, sub)), (b"100755", b"b", FILE_ID)]
    objects = in_a_commit(*entries, more=((TREE, sub),))
    found, _ = opened(tmp_path / "1", pack_of(*objects))
    files = unfold(found, oid(*objects[-2]), LIMITS, name="commit")
    assert [(file.path, file.mode, file.size) for file in files] == [
        ("a-", b"100644", 6),
        ("a/z", b"100644", 6),
        ("b", b"100755", 6),
    ]
    objects = in_a_commit((b"100644", b"caf\xe9", FILE_ID))
    found, _ = opened(tmp_path / "2", pack_of(*objects))
    with pytest.raises(Refused) as caught:
        unfold(found, oid(*objects[-2]), LIMITS, name="commit 1234")
    assert caught.value.message == "caf\\xe9: the name is not UTF-8 (commit 1234)."
