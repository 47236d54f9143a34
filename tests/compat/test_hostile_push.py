"""Trees and packs that git itself would take, pushed by git: each is refused with its path and a reason, and leaves nothing."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator

import pytest
from dulwich.object_format import SHA1
from dulwich.pack import pack_header_chunks, pack_object_header

from gitstore.parts import Parts
from tests.compat.conftest import Git, leftovers
from tests.compat.git_server import GitServer
from tests.compat.test_push import refs, remote_lines

NAME = "hostile"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, parts: Parts, server: GitServer) -> Iterator[Git]:
    git = Git(tmp_path_factory.mktemp("hostile") / "work")
    git("init", "-q", ".")
    parts.database.create_tenant(NAME)
    git("remote", "add", "origin", server.url(NAME))
    yield git


def write(git: Git, kind: str, content: bytes) -> str:
    return git("hash-object", "-t", kind, "--literally", "-w", "--stdin", input=content)


def entry(mode: bytes, name: bytes, oid: str) -> bytes:
    return mode + b" " + name + b"\0" + bytes.fromhex(oid)


def refused(git: Git, parts: Parts, tree: str) -> str:
    """Push a commit of `tree` to a side branch; it must be refused, and nothing kept. What the pusher was told."""
    commit = git("commit-tree", "-m", "hostile", tree)
    text = git("push", "origin", f"{commit}:refs/heads/side", fails=True)
    assert "[remote rejected]" in text, text
    assert refs(parts, NAME) == {}
    assert leftovers(parts, NAME) == []
    assert not list(parts.repository_path(NAME).glob("objects/pack/*"))
    lines = remote_lines(text)
    assert lines[-1] == "Nothing was changed."
    return " ".join(line.strip() for line in lines)


NAMES = {
    "dot git": b".git",
    "dot git in capitals": b".GIT",
    "short name of dot git": b"git~1",
    "dot git with an invisible character": ".g\u200cit".encode(),
    "dot dot": b"..",
    "dot": b".",
    "slash": b"a/b",
    "backslash": b"a\\b",
    "too long": b"n" * 300,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_hostile_name_is_refused(hostile: Git, parts: Parts, name: bytes) -> None:
    blob = write(hostile, "blob", b"x")
    inner = write(hostile, "tree", entry(b"100644", name, blob))
    told = refused(hostile, parts, write(hostile, "tree", entry(b"40000", b"folder", inner)))
    assert "folder" in told, "the path says where"


@pytest.mark.parametrize("mode", [b"100777", b"100600", b"0100644", b"160000", b"60000"])
def test_an_odd_mode_is_refused(hostile: Git, parts: Parts, mode: bytes) -> None:
    blob = write(hostile, "blob", b"x")
    told = refused(hostile, parts, write(hostile, "tree", entry(mode, b"odd.txt", blob)))
    assert "odd.txt" in told
    if mode == b"160000":
        assert "submodule" in told


@pytest.mark.parametrize("target", [b"/etc/passwd", b"../../outside", b"a/../../x", b"", b"x\0y"])
def test_a_symlink_that_leaves_the_tree_is_refused(hostile: Git, parts: Parts, target: bytes) -> None:
    link = write(hostile, "blob", target)
    assert "link" in refused(hostile, parts, write(hostile, "tree", entry(b"120000", b"link", link)))


def test_a_name_twice_is_refused(hostile: Git, parts: Parts) -> None:
    first, second = write(hostile, "blob", b"1"), write(hostile, "blob", b"2")
    tree = write(hostile, "tree", entry(b"100644", b"same.txt", first) + entry(b"100644", b"same.txt", second))
    assert "same.txt" in refused(hostile, parts, tree)


def test_a_file_and_a_folder_of_one_name_are_refused(hostile: Git, parts: Parts) -> None:
    blob = write(hostile, "blob", b"1")
    tree = write(hostile, "tree", entry(b"100644", b"x", blob))
    both = write(hostile, "tree", entry(b"100644", b"both", blob) + entry(b"40000", b"both", tree))
    assert "both" in refused(hostile, parts, both)


def test_entries_out_of_order_are_refused(hostile: Git, parts: Parts) -> None:
    blob = write(hostile, "blob", b"1")
    refused(hostile, parts, write(hostile, "tree", entry(b"100644", b"z", blob) + entry(b"100644", b"a", blob)))


def test_a_link_inside_the_tree_is_taken(hostile: Git, parts: Parts, tenant: str, server: GitServer) -> None:
    blob = write(hostile, "blob", b"x")
    link = write(hostile, "blob", b"file.txt")
    tree = write(hostile, "tree", entry(b"100644", b"file.txt", blob) + entry(b"120000", b"link", link))
    commit = hostile("commit-tree", "-m", "fine", tree)
    hostile("push", "-q", server.url(tenant), f"{commit}:refs/heads/side")
    assert refs(parts, tenant) == {"refs/heads/side": commit}


def test_a_tree_that_unfolds_to_a_hundred_million_files_is_refused(hostile: Git, parts: Parts) -> None:
    oid, mode = write(hostile, "blob", b"x"), b"100644"
    for _ in range(8):
        oid = write(hostile, "tree", b"".join(entry(mode, f"d{number}".encode(), oid) for number in range(10)))
        mode = b"40000"
    assert "tree_files_max" in refused(hostile, parts, oid)


def test_a_very_deep_tree_is_refused(hostile: Git, parts: Parts) -> None:
    oid, mode = write(hostile, "blob", b"x"), b"100644"
    for _ in range(200):
        oid = write_tree(hostile, mode, oid)
        mode = b"40000"
    assert "tree_depth_max" in refused(hostile, parts, oid)


def write_tree(git: Git, mode: bytes, oid: str) -> str:
    """A tree of one entry, written as a loose object without a process for each."""
    content = entry(mode, b"d", oid)
    store = b"tree %d\0" % len(content) + content
    name = hashlib.sha1(store).hexdigest()
    path = git.folder / ".git" / "objects" / name[:2] / name[2:]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zlib.compress(store))
    return name


def test_a_small_pack_with_a_huge_blob_is_refused_before_it_is_indexed(hostile: Git, parts: Parts) -> None:
    """9 MiB of zeros against the 8 MiB of this store; the pack has 9 KB."""
    blob = write(hostile, "blob", bytes(9 << 20))
    assert "object_bytes_max" in refused(hostile, parts, write(hostile, "tree", entry(b"100644", b"zeros", blob)))


def test_a_chain_of_deltas_that_grows_is_refused(parts: Parts, tenant: str, server: GitServer) -> None:
    """Each delta copies its base ten times: 7 small objects claim 10^7 times 100 bytes."""
    import http.client

    base = b"x" * 100
    objects = [bytes(pack_object_header(3, None, len(base), object_format=SHA1)) + zlib.compress(base)]
    size = len(base)
    for _ in range(7):
        copy = bytes([0x80 | 0x70]) + size.to_bytes(3, "little") if size < 1 << 24 else b""
        delta = _varint(size) + _varint(size * 10) + copy * 10
        offset = len(objects[-1])
        objects.append(bytes(pack_object_header(6, offset, len(delta), object_format=SHA1)) + zlib.compress(delta))
        size *= 10
    pack = b"".join(pack_header_chunks(len(objects))) + b"".join(objects)
    pack += hashlib.sha1(pack).digest()
    assert len(pack) < 1_000
    command = f"{'0' * 40} {'a' * 40} refs/heads/side\0report-status".encode()
    body = f"{len(command) + 4:04x}".encode() + command + b"0000" + pack
    connection = http.client.HTTPConnection(*server.server_address)
    connection.request("POST", f"/{tenant}.git/git-receive-pack", body)
    answer = connection.getresponse().read().decode()
    connection.close()
    assert "unpack ok" not in answer
    assert "_bytes_max" in answer
    assert leftovers(parts, tenant) == []


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def test_a_submodule_is_refused_in_words(hostile: Git, parts: Parts) -> None:
    assert "submodule" in refused(hostile, parts, write(hostile, "tree", entry(b"160000", b"vendor", "1" * 40)))
