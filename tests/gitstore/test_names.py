"""Names: what may be one, and that no name leaves its folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitstore.errors import InvalidName
from gitstore.names import (
    branch_ref,
    bundle_path,
    ensure_repository,
    is_bundle,
    parse_channel,
    parse_commit,
    parse_prefix,
    parse_ref,
    parse_tenant,
    pin_ref,
    ref_problem,
    repository_path,
)

ROOT = Path("/store")


@pytest.mark.parametrize("name", ["a", "0", "acme", "a-b_c", "x" * 63])
def test_ordinary_tenant_names_are_accepted(name: str) -> None:
    assert parse_tenant(name) == name
    assert repository_path(ROOT, name) == Path(f"/store/repositories/{name}.git")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "A", "-a", "a-", "a.git", "a\n", "a\0", " a", "ä", "x" * 64, "a..b", "²"]
)
def test_other_tenant_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidName) as caught:
        parse_tenant(name)
    assert caught.value.code == "invalid_name"
    assert str(caught.value) == (
        f"{name!r} is no tenant name. Use 1 to 63 of a-z, 0-9, '-' and '_', with a letter or digit at both ends."
    )
    with pytest.raises(InvalidName):
        repository_path(ROOT, name)


@given(st.text())
def test_no_text_makes_a_path_outside_the_folder_of_repositories(name: str) -> None:
    try:
        path = repository_path(ROOT, name)
    except InvalidName:
        return
    assert path.parent == ROOT / "repositories"
    assert path.name == f"{name}.git"


@pytest.mark.parametrize("name", ["live", "production", "eu-west.1", "A_b"])
def test_ordinary_channel_names_are_accepted(name: str) -> None:
    assert parse_channel(name) == name


@pytest.mark.parametrize("name", ["", "-x", "x.", "a/b", "a b", "a..b", "x" * 65, "live\n"])
def test_other_channel_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidName) as caught:
        parse_channel(name)
    assert caught.value.code == "invalid_name"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (b"refs/heads/main", None),
        (b"refs/tags/v1.0", None),
        ("refs/heads/grün/blau".encode(), None),
        (b"refs/heads/a@b", None),
        (b"HEAD", "only refs/heads/* and refs/tags/* can be pushed"),
        (b"refs/pins/" + b"a" * 40, "only refs/heads/* and refs/tags/* can be pushed"),
        (b"refs/keep/x", "only refs/heads/* and refs/tags/* can be pushed"),
        (b"refs/heads", "only refs/heads/* and refs/tags/* can be pushed"),
        (b"refs/heads/", "malformed ref name"),
        (b"refs/heads//a", "malformed ref name"),
        (b"refs/heads/a/../../../x", "malformed ref name"),
        (b"refs/heads/a..b", "malformed ref name"),
        (b"refs/heads/.a", "malformed ref name"),
        (b"refs/heads/a/.b", "malformed ref name"),
        (b"refs/heads/a.lock", "malformed ref name"),
        (b"refs/heads/a.lock/b", "malformed ref name"),
        (b"refs/heads/a.", "malformed ref name"),
        (b"refs/heads/a b", "malformed ref name"),
        (b"refs/heads/a\nb", "malformed ref name"),
        (b"refs/heads/a\x7f", "malformed ref name"),
        (b"refs/heads/a~1", "malformed ref name"),
        (b"refs/heads/a^", "malformed ref name"),
        (b"refs/heads/a:b", "malformed ref name"),
        (b"refs/heads/a?", "malformed ref name"),
        (b"refs/heads/a*", "malformed ref name"),
        (b"refs/heads/a[", "malformed ref name"),
        (b"refs/heads/a\\b", "malformed ref name"),
        (b"refs/heads/a@{1}", "malformed ref name"),
        (b"refs/heads/-x", "ref name begins with a dash"),
        (b"refs/heads/\xff", "ref name is not UTF-8"),
        (b"refs/heads/" + b"x" * 250, "ref name longer than 255 bytes"),
    ],
)
def test_each_bad_ref_name_has_its_reason(name: bytes, problem: str | None) -> None:
    assert ref_problem(name) == problem


_pieces = st.sampled_from([b"a", b"/", b".", b"..", b"@{", b".lock", b"-", b"~", b" ", b"x", b"\\", b"\xc3\xa4", b"*"])


@given(st.lists(_pieces, min_size=1, max_size=6).map(b"".join))
def test_an_accepted_ref_name_is_one_for_git_too(tail: bytes) -> None:
    name = b"refs/heads/" + tail
    if ref_problem(name) is None:
        assert subprocess.run(["git", "check-ref-format", name], check=False).returncode == 0


def test_a_bad_ref_is_named_in_the_error() -> None:
    with pytest.raises(InvalidName, match=r"The ref 'refs/heads/a b' cannot be written: malformed ref name\."):
        branch_ref("a b")
    with pytest.raises(InvalidName, match=r"'refs/heads/\\\\xff' cannot be written: ref name is not UTF-8"):
        parse_ref(b"refs/heads/\xff")
    assert branch_ref("main") == b"refs/heads/main"


def test_commit_ids_are_full_lower_case_hex() -> None:
    assert parse_commit("a" * 40) == "a" * 40
    assert pin_ref("b" * 40) == b"refs/pins/" + b"b" * 40
    for bad in ("A" * 40, "a" * 39, "a" * 41, "g" * 40, "a" * 40 + "\n", ""):
        with pytest.raises(InvalidName):
            parse_commit(bad)


def test_prefixes_have_at_least_seven_digits_and_become_lower_case() -> None:
    assert parse_prefix("ABCDEF0") == "abcdef0"
    for bad in ("abcdef", "a" * 41, "abcdefg", "abcdef0\n", "main"):
        with pytest.raises(InvalidName):
            parse_prefix(bad)


def test_bundle_keys_are_sha256_and_nothing_else() -> None:
    assert bundle_path(ROOT, "c" * 64) == Path(f"/store/bundles/{'c' * 64}.bundle")
    assert is_bundle("c" * 64 + ".bundle")
    assert not is_bundle("c" * 63 + ".bundle")
    assert not is_bundle(".making-c")
    for bad in ("../" + "c" * 61, "c" * 63, "C" * 64, ""):
        with pytest.raises(InvalidName):
            bundle_path(ROOT, bad)


def test_a_repository_is_made_again_after_a_crash_in_its_making(tmp_path: Path) -> None:
    half = repository_path(tmp_path, "acme")
    (half / "objects").mkdir(parents=True)
    (half / "config").write_text("[core]")
    path = ensure_repository(tmp_path, "acme")
    assert path == half
    assert (path / "HEAD").read_text() == "ref: refs/heads/main\n"
    assert sorted(str(found.relative_to(path)) for found in path.rglob("*")) == [
        "HEAD", "config", "objects", "objects/pack", "refs",
    ]  # fmt: skip
