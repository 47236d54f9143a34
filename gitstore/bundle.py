"""A tree as one file of sources and bytecode, from which a sandbox imports without git, mount or path.

    0..8    magic, b"PDBUNDL1"
    8..12   N, length of the index in bytes, little-endian
    12..    index, N bytes of UTF-8 JSON:
              "cache_tag"  sys.implementation.cache_tag of the interpreter that the bytecode is for
              "magic"      importlib.util.MAGIC_NUMBER in hex
              "files"      {path: [source offset, source length, code offset, code length]}, sorted by the path's bytes
              "workflows"  [[name, module], …]
    12+N..  the bytes: for each file its source, then its code; offsets count from here

Code length 0: no bytecode (no Python source, not importable, or larger than `source_bytes_max`). Bytecode is a
marshalled code object, compiled with the path in the tree as its file name. Symbolic links are left out.

The key is the SHA-256 over format, interpreter, and path, mode and SHA-256 of every file. Equal keys mean equal bytes
(see `compiler.marshalled`). Git's own id of the tree is no key: SHA-1 alone must not decide whose code runs.

Bytecode comes only from here, the platform's limited child: what a tenant's process made is never loaded.
"""

from __future__ import annotations

import importlib.util
import json
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from .analysis import Analysis
from .durable import sync
from .errors import NotFound, Unavailable
from .job_messages import JobLimits
from .limits import Limits
from .names import bundle_path, bundles_root
from .parts import Parts
from .rows import BundleRef, WorkflowFound

MAGIC = b"PDBUNDL1"
CACHE_TAG = sys.implementation.cache_tag or sys.implementation.name
INTERPRETER_MAGIC = importlib.util.MAGIC_NUMBER.hex()
TEMPORARY_PREFIX = ".incoming-"  # of a bundle that is being made
_HEAD_BYTES = 12
# A collection may remove a bundle between its making and its use; again and again is no accident.
_ENSURE_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Prepared:
    """A commit that can be deployed. `tree` is 40 hex digits; `analysis` has no errors."""

    analysis: Analysis
    bundle: BundleRef
    tree: str


class BuildRequest(msgspec.Struct, frozen=True):
    """To the limited child. Paths are absolute; `temporary` does not exist yet, and does only if a bundle was made."""

    objects: str
    commit: str
    bundles: str
    temporary: str
    limits: Limits


class BuildAnswer(msgspec.Struct, frozen=True):
    """`is_new`: the bundle is at `temporary`; else a file of this key was there already."""

    key: str
    tree: str
    is_new: bool
    workflows: tuple[WorkflowFound, ...]
    warnings: tuple[str, ...]


def is_current(path: Path) -> bool:
    """Whether `path` is a bundle for this very interpreter; False also if it is missing or no bundle."""
    # The two fields come first in the index, and no file name can imitate them there.
    start = json.dumps({"cache_tag": CACHE_TAG, "magic": INTERPRETER_MAGIC}, separators=(",", ":"))[:-1].encode()
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES + len(start))
    except FileNotFoundError:
        return False
    return head.startswith(MAGIC) and head[_HEAD_BYTES:] == start


def commit_missing(commit: str) -> NotFound:
    """There is nothing to make a bundle from."""
    return NotFound(
        f"The commit {commit} is not in the repository.",
        code="commit_missing",
        hint="Push it again, or restore the repository from a backup.",
        details={"commit": commit},
    )


def temporary_path(bundles: Path) -> Path:
    """A new name for a bundle that is being made."""
    return bundles / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"


def place(root: Path, temporary: Path, key: str) -> BundleRef:
    """Give a finished bundle its name. Durable on return (its bytes were synced when it was written)."""
    path = bundle_path(root, key)
    temporary.rename(path)
    sync(path.parent)
    return BundleRef(key, path)


def ensure(parts: Parts, tenant: str, commit: str) -> BundleRef:
    """The bundle of a deployed commit for this interpreter; made again from git if its file is missing or foreign.

    Raises TenantNotFound and what `build` raises.
    """
    key = parts.database.bundle_key(tenant, commit)
    for _ in range(_ENSURE_ROUNDS):
        if key is not None:
            path = bundle_path(parts.root, key)
            if is_current(path):
                return BundleRef(key, path)
        objects = parts.repository_path(tenant) / "objects"
        if not objects.is_dir():
            raise commit_missing(commit)
        key = build(parts, objects, commit).bundle.key
        # First the note that it is used, then the look whether it is there: collection does it the other way round.
        parts.database.record_bundle(tenant, commit, key)
    raise Unavailable(
        f"The bundle of commit {commit[:10]} disappears as soon as it is made.",
        code="bundle_unstable",
        hint="Check what else removes files from the store's folder.",
    )


def build(parts: Parts, objects: Path, commit: str) -> Prepared:
    """Analyse a commit of the object store `objects` and put its bundle in place, durable on return.

    Raises Refused (`code_invalid`, with `diagnostics`; `object_refused`), NotFound (`commit_missing`), LimitExceeded,
    Unavailable.
    """
    folder = bundles_root(parts.root)
    folder.mkdir(exist_ok=True)
    temporary = temporary_path(folder)
    limits = parts.limits
    try:
        answer = parts.workers.run(
            "build",
            BuildRequest(
                objects=str(objects), commit=commit, bundles=str(folder), temporary=str(temporary), limits=limits
            ),
            BuildAnswer,
            JobLimits(
                cpu_s=limits.compile_cpu_s,
                cpu_limit="compile_cpu_s",
                memory_bytes=limits.compile_memory_bytes,
                memory_limit="compile_memory_bytes",
                file_bytes=limits.bundle_bytes_max,
                file_limit="bundle_bytes_max",
            ),
        )
        if answer.is_new:
            ref = place(parts.root, temporary, answer.key)
        else:
            ref = BundleRef(answer.key, bundle_path(parts.root, answer.key))
    finally:
        temporary.unlink(missing_ok=True)
    return Prepared(Analysis(answer.workflows, answer.warnings), ref, answer.tree)
