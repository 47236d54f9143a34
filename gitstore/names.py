"""The only parser of tenant, channel, ref and commit names, and the only code that turns them into paths.

A name reaches a path only after a parser of this module accepted it, so no name can leave its folder:
tenant names have no dot, slash, backslash, NUL, upper case or leading dash at all.

Layout below the store's folder:

    gitstore.sqlite3          the rows: tenants, refs, deployments, channels, pins, tokens (database.py)
    repositories/<tenant>.git bare repository, made at the first push; packs are plain git, packed-refs is a mirror
    bundles/<sha256>.bundle   one file per tree and interpreter, shared by tenants with equal trees, read-only
    trash/                    repositories of deleted tenants on their way out
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NewType

from .durable import sync, write_durably
from .errors import InvalidName

TenantName = NewType("TenantName", str)
ChannelName = NewType("ChannelName", str)
RefName = NewType("RefName", bytes)
CommitId = NewType("CommitId", str)

DEFAULT_BRANCH = "main"
DEFAULT_CHANNEL = "live"
HEADS = b"refs/heads/"
TAGS = b"refs/tags/"
PINS = b"refs/pins/"  # only in the mirror; hidden from clients

_TENANT = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
_CHANNEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_HEX = re.compile(r"[0-9a-f]{40}")
_PREFIX = re.compile(r"[0-9a-fA-F]{7,40}")
_KEY = re.compile(r"[0-9a-f]{64}")
# git-check-ref-format: control characters, space, and the characters of revision syntax.
_REF_FORBIDDEN = re.compile(rb"[\x00-\x20\x7f~^:?*\[\\]")
_REF_BYTES_MAX = 255


def parse_tenant(name: str) -> TenantName:
    """`name` itself if it may name a tenant: 1 to 63 of a-z, 0-9, `-`, `_`, a letter or digit at both ends.

    Raises InvalidName.
    """
    if not isinstance(name, str) or _TENANT.fullmatch(name) is None:
        raise InvalidName(
            f"{name!r} is no tenant name.",
            hint="Use 1 to 63 of a-z, 0-9, '-' and '_', with a letter or digit at both ends.",
            details={"tenant": name},
        )
    return TenantName(name)


def parse_channel(name: str) -> ChannelName:
    """`name` itself if it may name a channel: 1 to 64 letters, digits, `.`, `_`, `-`. Raises InvalidName."""
    if not isinstance(name, str) or _CHANNEL.fullmatch(name) is None or ".." in name:
        raise InvalidName(
            f"{name!r} is no channel name.",
            hint="Use 1 to 64 letters, digits, '.', '_' and '-', with a letter or digit at both ends.",
            details={"channel": name},
        )
    return ChannelName(name)


def ref_problem(name: bytes) -> str | None:
    """Why a client may not write the ref `name`, as one line for its terminal; None if it may.

    Clients own refs/heads/* and refs/tags/* and nothing else. Source: git-check-ref-format, rules 1 to 10.
    """
    if len(name) > _REF_BYTES_MAX:
        return f"ref name longer than {_REF_BYTES_MAX} bytes"
    if not name.startswith((HEADS, TAGS)):
        return "only refs/heads/* and refs/tags/* can be pushed"
    if _REF_FORBIDDEN.search(name) or b".." in name or b"@{" in name or b"//" in name:
        return "malformed ref name"
    if name.endswith((b"/", b".")) or any(
        not part or part.startswith(b".") or part.endswith(b".lock") for part in name.split(b"/")
    ):
        return "malformed ref name"
    if name.split(b"/", 2)[2].startswith(b"-"):
        return "ref name begins with a dash"
    try:
        name.decode()
    except UnicodeDecodeError:
        return "ref name is not UTF-8"
    return None


def parse_ref(name: bytes) -> RefName:
    """`name` itself if a client may write this ref (see `ref_problem`). Raises InvalidName."""
    problem = ref_problem(name)
    if problem is not None:
        shown = name[:_REF_BYTES_MAX].decode(errors="backslashreplace")
        raise InvalidName(f"The ref {shown!r} cannot be written: {problem}.", details={"ref": shown})
    return RefName(name)


def branch_ref(branch: str) -> RefName:
    """The ref of a branch: `main` → `refs/heads/main`. Raises InvalidName."""
    return parse_ref(HEADS + branch.encode(errors="surrogatepass"))


def pin_ref(commit: str) -> RefName:
    """The mirror's ref that keeps a pinned commit from stray `git gc`."""
    return RefName(PINS + parse_commit(commit).encode())


def parse_commit(text: str) -> CommitId:
    """A full lower-case hexadecimal SHA-1 id. Raises InvalidName."""
    if not isinstance(text, str) or _HEX.fullmatch(text) is None:
        raise InvalidName(
            f"{text!r} is no commit id.",
            hint="Give all 40 hexadecimal digits.",
            details={"commit": text},
        )
    return CommitId(text)


def parse_prefix(text: str) -> str:
    """A commit id or its first 7 to 39 digits, in lower case. Raises InvalidName."""
    if not isinstance(text, str) or _PREFIX.fullmatch(text) is None:
        raise InvalidName(
            f"{text!r} is no commit id.",
            hint="Give at least the first 7 hexadecimal digits.",
            details={"commit": text},
        )
    return text.lower()


def database_path(root: Path) -> Path:
    """The store's one SQLite file."""
    return root / "gitstore.sqlite3"


def repository_path(root: Path, tenant: str) -> Path:
    """Where the tenant's bare repository is, or will be after the first push. Raises InvalidName."""
    return root / "repositories" / f"{parse_tenant(tenant)}.git"


def bundles_root(root: Path) -> Path:
    """The folder of all bundles."""
    return root / "bundles"


def bundle_path(root: Path, key: str) -> Path:
    """The file of the bundle with this key (64 hexadecimal digits); it may be missing. Raises InvalidName."""
    if _KEY.fullmatch(key) is None:
        raise InvalidName(f"{key!r} is no bundle key.")
    return bundles_root(root) / f"{key}.bundle"


def is_bundle(file_name: str) -> bool:
    """Whether this is a finished bundle's file name."""
    return file_name.endswith(".bundle") and _KEY.fullmatch(file_name.removesuffix(".bundle")) is not None


def trash_root(root: Path) -> Path:
    """Where deleted repositories wait for their removal."""
    return root / "trash"


_CONFIG = (
    b"[core]\n\trepositoryformatversion = 0\n\tfilemode = false\n\tbare = true\n[transfer]\n\thideRefs = refs/pins\n"
)
_HEAD = b"ref: " + HEADS + DEFAULT_BRANCH.encode() + b"\n"


def ensure_repository(root: Path, tenant: str) -> Path:
    """The tenant's bare repository, made if it is missing: the least that git, pygit2 and dulwich all open.

    Safe to call from several threads and processes, and again after a crash in the middle. HEAD comes last: until
    then nobody takes the folder for a repository. Durable on return.
    """
    path = repository_path(root, tenant)
    head = path / "HEAD"
    if head.exists():
        return path
    (path / "objects" / "pack").mkdir(parents=True, exist_ok=True)
    (path / "refs").mkdir(exist_ok=True)
    write_durably(path / "config", _CONFIG)
    write_durably(head, _HEAD)
    for folder in (path / "objects", path.parent, root):
        sync(folder)
    return path
