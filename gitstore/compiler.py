"""The limited child's side of `bundle.py`: unfold, hash, analyse, compile, write. Sources are hostile here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import marshal
import os
import resource
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType
from typing import IO

from .analysis import DIAGNOSTICS_MAX, Analyser, Analysis, syntax_diagnostic
from .bundle import CACHE_TAG, INTERPRETER_MAGIC, MAGIC, BuildAnswer, BuildRequest, commit_missing, is_current
from .errors import Diagnostic, LimitExceeded, code_invalid
from .limits import Limits
from .meanings import is_importable
from .objects import MODE_EXECUTABLE, MODE_LINK, Objects
from .rows import WorkflowFound
from .shown import shown
from .unfold import File, unfold

_IN_MEMORY_BYTES = 32 * 1024 * 1024
_COMPILER_WARNINGS_MAX = 20


def run_build(request: BuildRequest, report: Callable[[str], None]) -> BuildAnswer:
    """The job: analyse the commit's tree and make its bundle, unless there is one.

    Raises Refused (`code_invalid`, with diagnostics) if a source does not compile or a workflow cannot work, and the
    refusals of `check.unfold`.
    """
    objects = Objects(Path(request.objects))
    commit = bytes.fromhex(request.commit)
    tree = objects.tree_of(commit) if objects.kind(commit) is not None else None
    if tree is None:
        raise commit_missing(request.commit)
    report("unfolding the tree")
    files = unfold(objects, tree, request.limits, name=f"commit {request.commit[:10]}")
    contents = _Contents(objects, files)
    report("reading the files")
    key = contents.key()
    is_known = is_current(Path(request.bundles) / f"{key}.bundle")
    notes: list[str] = []
    compiled: dict[str, bytes] = {}
    if not is_known:
        compiled, notes = _compile_all(contents, request.limits, report)
    report("looking for workflows")
    analysis = _analyse(contents, request.limits)
    if analysis.errors:
        raise code_invalid(analysis.errors)
    links = [file.path for file in files if file.mode == MODE_LINK]
    if links:
        more = f" and {len(links) - 1} more" if len(links) > 1 else ""
        notes.append(f"{shown(links[0])}{more}: symbolic links are not part of what runs")
    if not is_known:
        report("writing the bundle")
        write(
            Path(request.temporary), contents, compiled, analysis.workflows, bytes_max=request.limits.bundle_bytes_max
        )
    return BuildAnswer(key, tree.hex(), not is_known, analysis.workflows, analysis.warnings + tuple(notes))


class _Contents:
    """The regular files of a tree, sorted; small trees stay in memory, large ones are read again."""

    def __init__(self, objects: Objects, files: Sequence[File]) -> None:
        self._objects = objects
        self.files = [file for file in files if file.mode != MODE_LINK]
        self._by_path = {file.path: file for file in self.files}
        self._keeps = sum(file.size for file in self.files) <= _IN_MEMORY_BYTES
        self._kept: dict[str, bytes] = {}

    def read(self, path: str) -> bytes:
        content = self._kept.get(path)
        if content is None:
            content = self._objects.read(self._by_path[path].oid)[1]
            if self._keeps:
                self._kept[path] = content
        return content

    def key(self) -> str:
        digest = hashlib.sha256()
        digest.update(b"%s %s %s\n" % (MAGIC, CACHE_TAG.encode(), INTERPRETER_MAGIC.encode()))
        for file in self.files:
            mode = b"x" if file.mode == MODE_EXECUTABLE else b"-"
            # A path has no NUL and a digest has a fixed length: no two manifests are written the same.
            digest.update(mode + file.path.encode() + b"\0" + hashlib.sha256(self.read(file.path)).digest())
        return digest.hexdigest()

    def sizes(self) -> dict[str, int]:
        return {file.path: file.size for file in self.files}


def _analyse(contents: _Contents, limits: Limits) -> Analysis:
    return Analyser(contents.sizes(), contents.read, source_bytes_max=limits.source_bytes_max).run()


def _compile_all(
    contents: _Contents, limits: Limits, report: Callable[[str], None]
) -> tuple[dict[str, bytes], list[str]]:
    """Bytecode by path, and what the compiler warned of. Raises Refused with all syntax errors."""
    compiled: dict[str, bytes] = {}
    errors: list[Diagnostic] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for file in contents.files:
            # A template such as `{{name}}/setup.py` ends in .py, but nothing can import it.
            if not is_importable(file.path) or file.size > limits.source_bytes_max:
                continue
            report(f"compiling {shown(file.path)}")
            try:
                code = compile(contents.read(file.path), file.path, "exec", dont_inherit=True, optimize=0)
                compiled[file.path] = marshalled(code)
            except (SyntaxError, ValueError, RecursionError) as error:
                errors.append(syntax_diagnostic(file.path, error))
            except MemoryError as error:
                # The parser says "no memory" for deep nesting as well.
                if _is_memory_spent():
                    raise
                errors.append(syntax_diagnostic(file.path, error))
            if len(errors) >= DIAGNOSTICS_MAX:
                break
    if errors:
        raise code_invalid(errors)
    notes = [f"{shown(one.filename)}:{one.lineno}: {shown(str(one.message))}" for one in caught]
    return compiled, list(dict.fromkeys(notes))[:_COMPILER_WARNINGS_MAX]


def marshalled(code: CodeType) -> bytes:
    """The code object's bytes, the same in every process.

    marshal marks an object as a target of back references if anybody else holds it, which for a string such as "self"
    depends on what else the process has loaded. Here everybody is held, so everybody is marked. (Version 2 has no
    back references at all: a fifth larger, and slower to load by half, for 123 modules of a library.)
    """
    held: dict[int, object] = {}
    todo: list[object] = [code]
    while todo:
        one = todo.pop()
        if id(one) in held:
            continue
        held[id(one)] = one
        if isinstance(one, CodeType):
            todo += (one.co_name, one.co_qualname, one.co_filename, one.co_linetable, one.co_exceptiontable)
            todo += (one.co_consts, one.co_names, *one.co_varnames, *one.co_cellvars, *one.co_freevars)
        elif isinstance(one, tuple | frozenset):
            todo += one
    return marshal.dumps(code)


def _is_memory_spent() -> bool:
    """Whether this process has come near its limit; a failed allocation can be a third of what is there."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/status").read_text()
    peak_kib = int(status.partition("VmPeak:")[2].split(maxsplit=1)[0])
    return limit != resource.RLIM_INFINITY and peak_kib * 1024 * 2 > limit


def write(
    path: Path,
    contents: _Contents,
    compiled: dict[str, bytes],
    workflows: Sequence[WorkflowFound],
    *,
    bytes_max: int,
) -> None:
    """Write a bundle to the new file `path`, read-only and synced. Raises LimitExceeded `bundle_bytes_max`."""
    index: dict[str, list[int]] = {}
    position = 0
    with contextlib.ExitStack() as stack:
        body: IO[bytes] = stack.enter_context(tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, dir=str(path.parent)))
        for file in contents.files:
            source, code = contents.read(file.path), compiled.get(file.path, b"")
            index[file.path] = [position, len(source), position + len(source), len(code)]
            position += len(source) + len(code)
            if position > bytes_max:
                raise LimitExceeded(
                    "The size in bytes of the code made ready to run", limit="bundle_bytes_max", bound=bytes_max
                )
            body.write(source)
            body.write(code)
        text = json.dumps(
            {
                "cache_tag": CACHE_TAG,
                "magic": INTERPRETER_MAGIC,
                "files": index,
                "workflows": [[workflow.name, workflow.module] for workflow in workflows],
            },
            ensure_ascii=False,
            separators=(",", ":"),
        ).encode()
        with path.open("xb") as out:
            out.write(MAGIC + len(text).to_bytes(4, "little") + text)
            body.seek(0)
            shutil.copyfileobj(body, out, 1 << 20)
            out.flush()
            os.fchmod(out.fileno(), 0o444)
            os.fsync(out.fileno())
