"""Bundles: the format as its header draws it, the same bytes each time, and hostile sources that cost nothing."""

from __future__ import annotations

import io
import json
import marshal
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from gitstore import GitStore, bundle, prepare
from gitstore.compiler import marshalled
from gitstore.errors import Diagnostic, LimitExceeded, NotFound, Refused
from gitstore.limits import Limits
from gitstore.parts import Parts
from gitstore.quarantine import NewTip, start
from gitstore.rows import BundleRef, WorkflowFound
from tests.gitstore.hostile import BLOB, COMMIT, TREE, commit, oid, pack_of, tree
from tests.gitstore.stores import open_store

WORKFLOW = b"""from executor.workflow import Workflow

class Onboarding(Workflow):
    async def run(self, event, step):
        return "h\xc3\xa9llo" in {"a", "b", "c", 1, 2.5, None, b"x"}
"""
FILES = {
    "workflows.py": WORKFLOW,
    "app/__init__.py": b"",
    "app/sums.py": b"def total(values):\n    '''Adds.'''\n    return sum(values) + LIMIT\nLIMIT = 10\n",
    "data/\xfcmlaut.bin": bytes(range(256)),
    "templates/{{name}}.py": b"class {{ name }}: ...\n",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitStore]:
    with open_store(Path(tmp_path_factory.mktemp("store"))) as store:
        store.create_tenant("acme")
        yield store


@pytest.fixture
def parts(store: GitStore) -> Parts:
    return store._parts


def objects_of(files: Mapping[str, bytes], *, links: Mapping[str, bytes] = {}) -> tuple[bytes, str]:
    """A pack with one commit of the files, and the commit's id."""
    objects: dict[bytes, tuple[int, bytes]] = {}

    def add(kind: int, content: bytes) -> bytes:
        objects[oid(kind, content)] = (kind, content)
        return oid(kind, content)

    def folder(prefix: str) -> bytes:
        entries: dict[bytes, tuple[bytes, bytes, bytes]] = {}
        for modes, contents in ((b"100644", files), (b"120000", links)):
            for path, content in contents.items():
                if path.startswith(prefix):
                    name, slash, _ = path.removeprefix(prefix).partition("/")
                    if slash:
                        entries[name.encode() + b"/"] = (b"40000", name.encode(), folder(f"{prefix}{name}/"))
                    else:
                        entries[name.encode()] = (modes, name.encode(), add(BLOB, content))
        return add(TREE, tree(*(entries[key] for key in sorted(entries))))

    head = add(COMMIT, commit(folder("")))
    return pack_of(*objects.values()), head.hex()


def deploy(
    parts: Parts, files: Mapping[str, bytes], *, links: Mapping[str, bytes] = {}
) -> tuple[prepare.Prepared, str]:
    body, head = objects_of(files, links=links)
    with start(parts, "acme") as quarantine:
        quarantine.add_pack(io.BytesIO(body))
        quarantine.check([NewTip(b"refs/heads/main", head)])
        prepared = prepare.analysis_and_bundle(parts, "acme", head, quarantine=quarantine)
        quarantine.publish()
    return prepared, head


def refusal(parts: Parts, files: Mapping[str, bytes]) -> Refused:
    with pytest.raises(Refused) as caught:
        deploy(parts, files)
    assert list(bundle.bundles_root(parts.root).glob(".*")) == [], "nothing half made stays"
    return caught.value


def parsed(path: Path) -> tuple[dict[str, object], dict[str, tuple[bytes, bytes]]]:
    """An independent reading of the format: the index, and (source, code) by path."""
    raw = path.read_bytes()
    assert raw[:8] == b"PDBUNDL1"
    length = int.from_bytes(raw[8:12], "little")
    index = json.loads(raw[12 : 12 + length].decode())
    body = raw[12 + length :]
    files = {name: (body[so : so + sl], body[co : co + cl]) for name, (so, sl, co, cl) in index["files"].items()}
    assert sum(len(source) + len(code) for source, code in files.values()) == len(body)
    return index, files


def test_bundle_holds_every_file_and_bytecode_of_what_can_be_imported(parts: Parts) -> None:
    prepared, head = deploy(parts, FILES)
    path = prepared.bundle.path
    assert path == parts.root / "bundles" / f"{prepared.bundle.key}.bundle"
    assert path.stat().st_mode & 0o777 == 0o444
    index, files = parsed(path)
    assert list(index) == ["cache_tag", "magic", "files", "workflows"]
    assert index["cache_tag"] == sys.implementation.cache_tag
    assert index["workflows"] == [["Onboarding", "workflows"]]
    assert {name: source for name, (source, _) in files.items()} == FILES
    assert list(files) == sorted(FILES, key=str.encode)
    assert {name for name, (_, code) in files.items() if code} == {"workflows.py", "app/__init__.py", "app/sums.py"}
    module = ModuleType("app.sums")
    code = marshal.loads(files["app/sums.py"][1])
    assert code.co_filename == "app/sums.py"
    exec(code, module.__dict__)
    assert module.total([1, 2]) == 13
    assert module.total.__doc__ == "Adds."
    assert prepared.analysis.workflows == (WorkflowFound("Onboarding", "workflows.py", 3, "workflows"),)
    assert prepared.tree == oid(TREE, _root_tree(head, parts)).hex()


def _root_tree(head: str, parts: Parts) -> bytes:
    from gitstore.objects import Objects

    objects = Objects(parts.repository_path("acme") / "objects")
    root = objects.tree_of(bytes.fromhex(head))
    assert root is not None
    return objects.read(root)[1]


def test_bytes_and_key_are_the_same_in_every_process_and_store(parts: Parts, tmp_path: Path) -> None:
    first, _ = deploy(parts, FILES)
    # Another helper process has another hash seed, and has compiled other things before.
    with open_store(tmp_path / "other") as other:
        other.create_tenant("acme")
        noise = b"".join(b"def total_%d(values, event, step, self): return 'hello', values\n" % n for n in range(50))
        deploy(other._parts, {"workflows.py": WORKFLOW, "noise.py": noise})
        second, _ = deploy(other._parts, FILES)
        assert second.bundle.key == first.bundle.key
        assert second.bundle.path.read_bytes() == first.bundle.path.read_bytes()


def test_bytecode_does_not_depend_on_who_else_holds_its_strings() -> None:
    source = (
        "class Held_Once:\n    def held_method(self, held_argument):\n        return 'a held text', held_argument\n"
    )
    plain = marshal.dumps(compile(source, "m.py", "exec"))
    first = marshalled(compile(source, "m.py", "exec"))
    holders = [sys.intern(name) for name in ("Held_" + "Once", "held_" + "method", "held_" + "argument")]
    # The trap itself: without it this test would prove nothing.
    assert marshal.dumps(compile(source, "m.py", "exec")) != plain
    assert marshalled(compile(source, "m.py", "exec")) == first
    assert len(holders) == 3


def test_key_depends_on_every_path_mode_and_content(parts: Parts) -> None:
    key = deploy(parts, FILES)[0].bundle.key
    renamed = {("app/sums2.py" if path == "app/sums.py" else path): text for path, text in FILES.items()}
    changed = {**FILES, "data/\xfcmlaut.bin": b"other"}
    assert len({key, deploy(parts, renamed)[0].bundle.key, deploy(parts, changed)[0].bundle.key}) == 3


def test_equal_trees_share_one_bundle_that_is_made_once(parts: Parts) -> None:
    first, head = deploy(parts, FILES)
    stamp = first.bundle.path.stat()
    again = prepare.analysis_and_bundle(parts, "acme", head)
    assert again.bundle == first.bundle
    assert again.analysis == first.analysis
    assert first.bundle.path.stat().st_ino == stamp.st_ino


def test_bundle_is_made_before_its_objects_are_published(parts: Parts) -> None:
    body, head = objects_of({"workflows.py": WORKFLOW, "only": b"here"})
    with start(parts, "acme") as quarantine:
        quarantine.add_pack(io.BytesIO(body))
        quarantine.check([NewTip(b"refs/heads/main", head)])
        with pytest.raises(NotFound) as caught:
            prepare.analysis_and_bundle(parts, "acme", head)
        assert caught.value.code == "commit_missing"
        assert prepare.analysis_and_bundle(parts, "acme", head, quarantine=quarantine).bundle.path.is_file()


def test_ensure_makes_a_missing_bundle_again_the_same(parts: Parts) -> None:
    prepared, head = deploy(parts, FILES)
    content = prepared.bundle.path.read_bytes()
    assert prepare.ensure(parts, "acme", head) == prepared.bundle
    prepared.bundle.path.unlink()
    assert prepare.ensure(parts, "acme", head) == prepared.bundle
    assert prepared.bundle.path.read_bytes() == content
    assert parts.database.bundle_key("acme", head) == prepared.bundle.key
    # Found again without a look into git: a recorded key and a good file are enough.
    hidden = parts.repository_path("acme").rename(parts.repository_path("acme").with_suffix(".away"))
    try:
        assert prepare.ensure(parts, "acme", head) == prepared.bundle
    finally:
        hidden.rename(parts.repository_path("acme"))


def test_ensure_does_not_use_a_bundle_of_another_interpreter(parts: Parts) -> None:
    prepared, head = deploy(parts, FILES)
    foreign = parts.root / "bundles" / ("0" * 64 + ".bundle")
    foreign.write_bytes(prepared.bundle.path.read_bytes().replace(b'"cache_tag":"cpython-', b'"cache_tag":"cpyth0n-'))
    parts.database.record_bundle("acme", head, "0" * 64)
    assert not bundle.is_current(foreign)
    assert prepare.ensure(parts, "acme", head) == prepared.bundle
    assert parts.database.bundle_key("acme", head) == prepared.bundle.key


def test_ensure_of_a_commit_that_is_nowhere_is_not_found(store: GitStore, parts: Parts) -> None:
    for tenant in ("acme", "empty"):
        if tenant == "empty":
            store.create_tenant("empty")
        with pytest.raises(NotFound) as caught:
            prepare.ensure(parts, tenant, "01" * 20)
        assert caught.value.code == "commit_missing"
        assert caught.value.message == f"The commit {'01' * 20} is not in the repository."


def test_symbolic_links_are_left_out_with_a_warning(parts: Parts) -> None:
    prepared, _ = deploy(parts, FILES, links={"app/link.py": b"sums.py"})
    assert "app/link.py" not in parsed(prepared.bundle.path)[1]
    assert prepared.analysis.warnings == ("app/link.py: symbolic links are not part of what runs",)


def test_what_the_compiler_warns_of_is_a_warning_here(parts: Parts) -> None:
    prepared, _ = deploy(parts, {**FILES, "odd.py": b"x = 1\nassert (x, 'always true')\n"})
    assert prepared.analysis.warnings == ("odd.py:2: assertion is always true, perhaps remove parentheses?",)


def test_all_syntax_errors_are_told_with_line_and_column(parts: Parts) -> None:
    error = refusal(
        parts,
        {
            **FILES,
            "a.py": b"x = 1\ndef f(:\n",
            "b.py": b"\xff\xfe",
            "c.py": b"x = '\0'",
            "d.py": b"# coding: nonsense\n",
            "e.py": b"  x = 1\n",
        },
    )
    assert error.code == "code_invalid"
    places = [(found.path, found.line) for found in error.diagnostics]
    assert places[0] == ("a.py", 2)
    assert [path for path, _ in places] == ["a.py", "b.py", "c.py", "d.py", "e.py"]
    assert error.diagnostics[0] == Diagnostic("a.py", 2, 7, "invalid syntax")
    assert error.message == "The code cannot be deployed: a.py:2:7: invalid syntax (and 4 more)."
    assert error.diagnostics[2].message == "source code string cannot contain null bytes"
    assert error.diagnostics[3].message == "unknown encoding: nonsense"


def test_workflow_that_cannot_work_refuses_the_push(parts: Parts) -> None:
    error = refusal(parts, {"workflows.py": WORKFLOW.replace(b"async ", b"")})
    assert error.code == "code_invalid"
    assert error.message == (
        "The code cannot be deployed: workflows.py:4:5: Onboarding.run must be 'async def run(self, event, step)';"
        " 'async' is missing."
    )


NESTINGS = {
    "parentheses": b"(" * 100_000 + b")" * 100_000,
    "unary": b"x = " + b"-" * 100_000 + b"1",
    "attributes": b"x" + b".a" * 100_000,
    "calls": b"x" + b"()" * 50_000,
    "binary": b"x = " + b"1+" * 100_000 + b"1",
    "lambda": b"x = " + b"lambda:" * 50_000 + b"1",
    "not": b"x = " + b"not " * 50_000 + b"1",
    "if": b"".join(b" " * level + b"if x:\n" for level in range(500)),
    "elif": b"if x: pass\n" + b"elif x: pass\n" * 20_000,
    "strings": b"x = " + b"f'{" * 1000,
}


@pytest.mark.parametrize("kind", NESTINGS)
def test_deep_nesting_is_a_diagnostic_or_a_refusal_never_a_crash_here(parts: Parts, kind: str) -> None:
    try:
        deploy(parts, {"workflows.py": WORKFLOW, "deep.py": NESTINGS[kind]})
    except Refused as error:
        assert error.code in ("code_invalid", "worker_crashed", "limit_exceeded")
        assert "deep.py" in error.message
    else:
        assert kind in ("binary", "attributes", "calls", "elif", "unary", "not", "lambda"), "accepted"


def test_deep_nesting_says_so(parts: Parts) -> None:
    for kind in ("lambda", "not"):
        error = refusal(parts, {"deep.py": NESTINGS[kind]})
        assert str(error) == ("The code cannot be deployed: deep.py: nested too deeply for the Python compiler."), kind


def limited(folder: Path, **limits: int) -> GitStore:
    store = open_store(folder, limits=Limits(**limits))
    store.create_tenant("acme")
    return store


def test_source_that_needs_gigabytes_is_refused_naming_file_and_limit(tmp_path: Path) -> None:
    with limited(tmp_path, compile_memory_bytes=128 << 20, source_bytes_max=8 << 20) as store:
        error = refusal(store._parts, {"workflows.py": WORKFLOW, "z/huge.py": b"x = (" + b"1," * 3_000_000 + b")"})
        assert error.message == (
            "The memory in bytes for compiling z/huge.py is over the limit of 134217728 (compile_memory_bytes)."
        )
        # Nothing is left of it: the next push passes.
        deploy(store._parts, FILES)


def test_source_that_takes_too_long_is_refused_naming_file_and_limit(tmp_path: Path) -> None:
    with limited(tmp_path, compile_cpu_s=1, compile_memory_bytes=8 << 30, source_bytes_max=16 << 20) as store:
        error = refusal(store._parts, {"workflows.py": WORKFLOW, "slow.py": b"x = [" + b"a.b," * 3_000_000 + b"]"})
        assert error.message == "The time in seconds for compiling slow.py is over the limit of 1 (compile_cpu_s)."


def test_source_over_the_limit_is_data(tmp_path: Path) -> None:
    with limited(tmp_path, source_bytes_max=300) as store:
        prepared, _ = deploy(store._parts, {"workflows.py": WORKFLOW, "large.py": b"(" * 301})
        assert prepared.analysis.warnings == ("large.py: too large to be compiled; it is kept as data",)
        assert parsed(prepared.bundle.path)[1]["large.py"] == (b"(" * 301, b"")


def test_bundle_over_the_limit_is_refused(tmp_path: Path) -> None:
    with limited(tmp_path, bundle_bytes_max=2000) as store:
        error = refusal(store._parts, {"workflows.py": WORKFLOW, "data": os.urandom(2000)})
        assert isinstance(error, LimitExceeded)
        assert error.message == (
            "The size in bytes of the code made ready to run is over the limit of 2000 (bundle_bytes_max)."
        )


def test_store_gives_the_bundle_of_a_commit(store: GitStore, parts: Parts) -> None:
    prepared, head = deploy(parts, FILES)
    assert store.bundle("acme", head) == BundleRef(prepared.bundle.key, prepared.bundle.path)
