"""Law of indexing and checking: any pack that the scanner lets through is accepted or Refused, nothing else."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import event, given
from hypothesis import strategies as st

from gitstore.check import ObjectChecks
from gitstore.errors import Refused
from gitstore.ingest import _indexed, index_pack
from gitstore.limits import Limits
from gitstore.objects import Objects
from gitstore.scan import PackScanner
from gitstore.unfold import check_tips, unfold
from tests.gitstore import hostile
from tests.gitstore.hostile import BLOB, COMMIT, OFS_DELTA, REF_DELTA, TAG, TREE, commit, entry, oid, pack, tree

LIMITS = Limits(tree_files_max=30, tree_depth_max=4, name_bytes_max=20)
CODES = {"pack_malformed", "object_refused", "object_missing", "limit_exceeded"}
NAMES = st.sampled_from([b"a", b"b", b"c.py", b"d", b"..", b".GIT", b"a/b", b"\xff", b"x" * 21, "é".encode()])
MODES = st.sampled_from([b"100644", b"100644", b"40000", b"40000", b"120000", b"100755", b"160000", b"644"])
TARGETS = [b"a", b"../a", b"../../a", b"/a", b"a/../b", b".git/x", b""]


@st.composite
def histories(draw: st.DrawFn) -> tuple[bytes, str]:
    """A pack whose objects mostly fit together, and the id of one of them as the tip."""
    objects: list[tuple[int, bytes]] = [(BLOB, draw(st.sampled_from(TARGETS)))]
    objects.append((TREE, b""))
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from([BLOB, TREE, TREE, COMMIT, COMMIT, TAG]))
        known = st.sampled_from([oid(*one) for one in objects])
        ids = known | known | known | st.just(bytes(20))
        trees = st.sampled_from([oid(*one) for one in objects if one[0] == TREE] or [bytes(20)])
        commits = st.sampled_from([oid(*one) for one in objects if one[0] == COMMIT] or [bytes(20)])
        is_odd = draw(st.integers(0, 9)) == 0
        if kind == BLOB:
            content = draw(st.sampled_from(TARGETS) | st.binary(max_size=40))
        elif kind == TREE:
            entries = draw(st.lists(st.tuples(MODES, NAMES, ids), max_size=4))
            if not is_odd:
                of = draw(st.lists(st.sampled_from(objects), max_size=3))
                names = [b"a", b"b.py", b"c"]
                modes = {BLOB: draw(st.sampled_from([b"100644", b"120000"])), TREE: b"40000"}
                entries = [
                    (modes[one[0]], name, oid(*one)) for name, one in zip(names, of, strict=False) if one[0] in modes
                ]
            content = tree(*(sorted(entries, key=lambda one: one[1]) if draw(st.booleans()) else entries))
        elif kind == COMMIT:
            parents = [one for one in draw(st.lists(commits, max_size=2)) if any(one)]
            content = commit(draw(ids if is_odd else trees), *(draw(st.lists(ids, max_size=2)) if is_odd else parents))
        else:
            content = b"object %b\ntype tree\ntag t\n\nm\n" % draw(ids if is_odd else trees).hex().encode()
        if draw(st.integers(0, 19)) == 0 and content:
            place = draw(st.integers(0, len(content) - 1))
            content = content[:place] + draw(st.binary(max_size=2)) + content[place + draw(st.integers(0, 2)) :]
        objects.append((kind, content))
    entries_of_pack = [entry(kind, content) for kind, content in dict.fromkeys(objects)]
    if draw(st.integers(0, 3)) == 0:
        size = draw(st.integers(1, 60))
        delta = draw(st.just(hostile.copy_delta(size, 2)) | st.binary(max_size=20).map(lambda t: bytes([size, 5]) + t))
        if draw(st.booleans()):
            entries_of_pack.append(entry(OFS_DELTA, delta, base=hostile.back(len(entries_of_pack[-1]))))
        else:
            base = draw(st.sampled_from(objects))
            entries_of_pack.append(entry(REF_DELTA, delta, base=oid(*base)))
    tip = oid(*draw(st.sampled_from(objects[-2:]))).hex()
    return pack(*entries_of_pack), tip


@given(history=histories(), ref=st.sampled_from([b"refs/heads/main", b"refs/tags/v"]))
def test_packs_that_almost_fit_together_are_accepted_or_refused(history: tuple[bytes, str], ref: bytes) -> None:
    body, tip = history
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pack").mkdir()
        spool = folder / "incoming.pack"
        spool.write_bytes(body)
        try:
            scanner = PackScanner(LIMITS)
            scanner.feed(body)
            scanner.finish()
            with spool.open("r+b") as stream:
                index_pack(folder, stream)
            objects = Objects(folder)
            (index,) = (folder / "pack").glob("*.idx")
            ObjectChecks(objects, list(_indexed(index)), LIMITS).run()
            check_tips(objects, [(ref, tip)], LIMITS)
            root = objects.tree_of(bytes.fromhex(tip))
            files = unfold(objects, root, LIMITS, name="tip") if root is not None else []
        except Refused as error:
            event(error.code)
            assert error.code in CODES
            assert error.message.isprintable()
        else:
            event("accepted")
            paths = [file.path for file in files]
            assert len(paths) == len(set(paths)) <= LIMITS.tree_files_max
            for path in paths:
                assert not {"", ".", "..", ".git"} & set(path.lower().split("/"))
