"""Reads of one tenant's code: revisions, files, history. Objects come from git, refs from the rows."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import pygit2
from pygit2.enums import FileMode, SortMode

from .database import Database
from .errors import Corrupt, InvalidName, LimitExceeded, NotFound, Refused, VersionNotFound
from .libgit import open_repository, read_object
from .limits import Limits
from .names import DEFAULT_BRANCH, HEADS, TAGS, parse_commit, parse_prefix
from .parts import Parts
from .rows import CommitMeta, FileEntry

_HANDLES_MAX: Final = 256  # one costs about 41 KB and a file descriptor
_KINDS: Final[dict[int, Literal["file", "executable", "symlink"]]] = {
    FileMode.BLOB: "file",
    FileMode.BLOB_EXECUTABLE: "executable",
    FileMode.LINK: "symlink",
}


class Repository:
    """Code of one tenant. Thread-safe: one call at a time. An idle handle may be closed and opened again inside."""

    def __init__(self, tenant: str, path: Path, database: Database, limits: Limits) -> None:
        self.tenant = tenant
        self._path = path
        self._database = database
        self._limits = limits
        self._lock = threading.Lock()
        self._handle: pygit2.Repository | None = None

    def resolve(self, revision: str) -> str:
        """The full commit id of a branch, tag, full ref name, `HEAD`, or commit id (at least 7 digits).

        A tag or branch wins over a commit id that looks the same. Annotated tags give their commit.
        Raises VersionNotFound, Refused `version_ambiguous`, TenantNotFound.
        """
        refs = self._database.refs(self.tenant)
        name = (DEFAULT_BRANCH if revision == "HEAD" else revision).encode(errors="replace")
        candidates = [name] if name.startswith(b"refs/") else [TAGS + name, HEADS + name]
        found = next((refs[candidate].decode() for candidate in candidates if candidate in refs), None)
        if found is None:
            try:
                found = parse_prefix(revision)
            except InvalidName:
                raise self._missing(revision) from None
        with self._open(revision) as handle:
            try:
                target = handle[found].peel(pygit2.Commit)
            except pygit2.AmbiguousError:
                raise Refused(
                    f"{revision!r} is the beginning of several objects of tenant {self.tenant!r}.",
                    code="version_ambiguous",
                    hint="Give more digits.",
                    details={"tenant": self.tenant, "commit": revision},
                ) from None
            except (KeyError, pygit2.GitError):  # absent, or no commit
                raise self._missing(revision) from None
            return str(target.id)

    def has_commit(self, commit: str) -> bool:
        """Whether the object is on disk now and is a commit. `commit` is a full id."""
        oid = parse_commit(commit)
        if not (self._path / "HEAD").exists():
            return False
        # A fresh handle: an old one still sees what a stray `git gc` has removed.
        handle = open_repository(self._path)
        try:
            return isinstance(read_object(handle, oid), pygit2.Commit)
        except KeyError:
            return False
        except pygit2.GitError as error:
            raise self._unreadable(commit, error) from error
        finally:
            handle.free()

    def commit_meta(self, commit: str) -> CommitMeta:
        """Author, message, time and parents of a commit (full id). Raises VersionNotFound."""
        with self._commit(commit) as (_, found):
            return _meta(found)

    def log(self, commit: str, limit: int = 100) -> list[CommitMeta]:
        """The commit and those before it, newest first and children before parents, at most `limit`.

        Raises VersionNotFound.
        """
        with self._commit(commit) as (handle, found):
            walk = handle.walk(found.id, SortMode.TOPOLOGICAL | SortMode.TIME)
            return [_meta(one) for one, _ in zip(walk, range(limit), strict=False)]

    def files(self, commit: str) -> list[FileEntry]:
        """Every file of the commit's tree, by path. Raises VersionNotFound, LimitExceeded."""
        entries: list[FileEntry] = []
        with self._commit(commit) as (handle, found):
            self._collect(handle, found.tree, "", 1, entries)
        return sorted(entries, key=lambda entry: entry.path)

    def read_file(self, commit: str, path: str) -> bytes:
        """The content of one file of the commit (for a symlink: where it points).

        Raises VersionNotFound, NotFound `file_not_found`, LimitExceeded.
        """
        with self._commit(commit) as (_, found):
            entry: pygit2.Object = found.tree
            for part in path.encode(errors="replace").split(b"/"):
                match = None
                if isinstance(entry, pygit2.Tree):
                    match = next((child for child in entry if child.raw_name == part), None)
                if match is None:
                    raise self._no_file(commit, path)
                entry = match
            if not isinstance(entry, pygit2.Blob):
                raise self._no_file(commit, path)
            if entry.size > self._limits.object_bytes_max:
                raise LimitExceeded(
                    f"The size of {path!r}",
                    limit="object_bytes_max",
                    bound=self._limits.object_bytes_max,
                    found=entry.size,
                )
            return bytes(entry.data)

    def close(self) -> None:
        """Give back the file descriptors. The next call opens them again."""
        with self._lock:
            handle, self._handle = self._handle, None
            if handle is not None:
                handle.free()

    @contextmanager
    def _open(self, revision: str) -> Iterator[pygit2.Repository]:
        with self._lock:
            if self._handle is None:
                if not (self._path / "HEAD").exists():  # nothing was pushed yet
                    raise self._missing(revision)
                self._handle = open_repository(self._path)
            try:
                yield self._handle
            except (KeyError, pygit2.GitError) as error:
                raise self._unreadable(revision, error) from error

    @contextmanager
    def _commit(self, commit: str) -> Iterator[tuple[pygit2.Repository, pygit2.Commit]]:
        oid = parse_commit(commit)
        with self._open(commit) as handle:
            try:
                found = read_object(handle, oid)
            except KeyError:
                raise self._missing(commit) from None
            if not isinstance(found, pygit2.Commit):
                raise self._missing(commit)
            yield handle, found

    def _collect(
        self, handle: pygit2.Repository, tree: pygit2.Tree, prefix: str, depth: int, entries: list[FileEntry]
    ) -> None:
        if depth > self._limits.tree_depth_max:
            raise LimitExceeded("The depth of the tree", limit="tree_depth_max", bound=self._limits.tree_depth_max)
        for entry in tree:
            path = prefix + (entry.raw_name or b"").decode(errors="surrogateescape")
            if isinstance(entry, pygit2.Tree):
                self._collect(handle, entry, path + "/", depth + 1, entries)
                continue
            kind = _KINDS.get(entry.filemode or 0)
            if kind is None or not isinstance(entry, pygit2.Blob):
                raise Corrupt(f"{path!r} of tenant {self.tenant!r} is neither file nor folder.")
            if len(entries) >= self._limits.tree_files_max:
                raise LimitExceeded("The number of files", limit="tree_files_max", bound=self._limits.tree_files_max)
            entries.append(FileEntry(path, kind, entry.size, str(entry.id)))

    def _unreadable(self, revision: str, error: Exception) -> Corrupt:
        return Corrupt(
            f"The repository of tenant {self.tenant!r} cannot be read at {revision!r}: {error}.",
            code="object_missing",
            hint="Verify the tenant; restore the repository from a backup.",
            details={"tenant": self.tenant, "commit": revision},
        )

    def _missing(self, revision: str) -> VersionNotFound:
        return VersionNotFound(
            f"Tenant {self.tenant!r} has no commit {revision!r}.",
            hint="Push it first, or check the spelling.",
            details={"tenant": self.tenant, "commit": revision},
        )

    def _no_file(self, commit: str, path: str) -> NotFound:
        return NotFound(
            f"Commit {commit[:12]} of tenant {self.tenant!r} has no file {path!r}.",
            code="file_not_found",
            details={"tenant": self.tenant, "commit": commit, "path": path},
        )


class Repositories:
    """The open repositories of a store: the most recently used keep their handles. Thread-safe."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._guard = threading.Lock()
        self._known: OrderedDict[str, Repository] = OrderedDict()

    def get(self, tenant: str) -> Repository:
        """Raises TenantNotFound."""
        name = self._parts.database.tenant(tenant).name
        with self._guard:
            found = self._known.get(name)
            if found is None:
                path = self._parts.repository_path(name)
                found = self._known[name] = Repository(name, path, self._parts.database, self._parts.limits)
            self._known.move_to_end(name)
            oldest = self._known.popitem(last=False)[1] if len(self._known) > _HANDLES_MAX else None
        if oldest is not None:
            oldest.close()
        return found

    def forget(self, tenant: str) -> None:
        """Close the tenant's handle: its packs have changed, or it is gone."""
        with self._guard:
            found = self._known.pop(tenant, None)
        if found is not None:
            found.close()

    def close(self) -> None:
        """Close all handles."""
        with self._guard:
            known, self._known = list(self._known.values()), OrderedDict()
        for repository in known:
            repository.close()


def _meta(commit: pygit2.Commit) -> CommitMeta:
    author = commit.author
    return CommitMeta(
        commit=str(commit.id),
        tree=str(commit.tree_id),
        author=f"{_text(author.raw_name, commit)} <{_text(author.raw_email, commit)}>",
        message=_text(commit.raw_message, commit),
        at_ms=commit.commit_time * 1000,
        parents=tuple(str(parent) for parent in commit.parent_ids),
    )


def _text(raw: bytes, commit: pygit2.Commit) -> str:
    """Bytes of a commit as text; the encoding it claims may be nonsense, and never raises here."""
    try:
        return raw.decode(commit.message_encoding or "utf-8", errors="replace")
    except (LookupError, ValueError):
        return raw.decode(errors="replace")
