"""packed-refs as a mirror of the rows, so that stray git tools see the truth and harm nothing.

It shows the branches and tags, and `refs/pins/<commit>` for every commit that is kept by a pin or a channel's
history: a `git gc --prune=now` by hand then keeps what garbage collection keeps (but for the commits that only its
`keep` argument names, and an instance pins its commit). The mirror is disposable: it is never read back by this
program, and is written again from the rows after every commit, and at open where a crash came between.
No object is read to write it: the header claims no peeled tags, so git peels them by itself.
"""

from __future__ import annotations

import logging
from pathlib import Path

from .database import MirrorContent
from .durable import write_durably
from .names import pin_ref
from .parts import Parts

log = logging.getLogger(__name__)

_HEADER = b"# pack-refs with: sorted \n"


def rewrite(parts: Parts, tenant: str) -> None:
    """Write the tenant's packed-refs from its rows, and remove loose refs. Call it after the commit. Durable on return.

    A tenant without refs and without a repository stays without one. Raises TenantNotFound.
    """
    with parts.lock(tenant):
        content = parts.database.mirror_content(tenant)
        repository = parts.repository_path(tenant)
        if content.refs or content.kept:
            repository = parts.ensure_repository(tenant)
        if (repository / "HEAD").exists():
            write_durably(repository / "packed-refs", packed_refs(content))
            for path in loose_refs(repository):
                path.unlink(missing_ok=True)
        parts.database.mark_mirrored(tenant, content.version)


def refresh(parts: Parts, tenant: str) -> None:
    """`rewrite` if the mirror is behind. A failing disk is logged, not raised: the rows are committed, and the mirror
    serves stray tools only; the next change writes it, or the next open. Raises TenantNotFound.
    """
    with parts.lock(tenant):
        if parts.database.is_mirrored(tenant):
            return
        try:
            rewrite(parts, tenant)
        except OSError:
            log.exception("mirror not written", extra={"tenant": tenant})


def heal(parts: Parts) -> list[str]:
    """Write the mirrors that a crash left behind their rows; return their tenants. Called at open."""
    stale = parts.database.unmirrored()
    for tenant in stale:
        rewrite(parts, tenant)
    return stale


def problems(parts: Parts, tenant: str) -> list[str]:
    """How the mirror on disk differs from the rows, in words. Raises TenantNotFound."""
    with parts.lock(tenant):
        content = parts.database.mirror_content(tenant)
        repository = parts.repository_path(tenant)
        if not (repository / "HEAD").exists():
            return ["the repository is missing although there are refs"] if content.refs or content.kept else []
        try:
            found = (repository / "packed-refs").read_bytes()
        except FileNotFoundError:
            found = _HEADER
        is_same = _lines(found) == _lines(packed_refs(content))
        loose = [str(path.relative_to(repository)) for path in loose_refs(repository)]
    differs = [] if is_same else ["packed-refs differs from the database; rewrite the mirror"]
    return differs + [f"{path} is a loose ref that the database does not know; rewrite the mirror" for path in loose]


def packed_refs(content: MirrorContent) -> bytes:
    """The file's bytes: a header, then `<oid> <name>` lines sorted by name. Source: git-pack-refs, packed-backend.c."""
    pins: dict[bytes, bytes] = {pin_ref(commit): commit.encode() for commit in content.kept}
    entries = content.refs | pins
    return _HEADER + b"".join(b"%b %b\n" % (entries[name], name) for name in sorted(entries))


def loose_refs(repository: Path) -> list[Path]:
    """Files under refs/: left by a stray git tool, they would hide the mirror's lines."""
    return sorted(path for path in (repository / "refs").rglob("*") if not path.is_dir())


def _lines(packed: bytes) -> list[bytes]:
    """Ref lines only: git's own rewriting adds a richer header and peeled tags."""
    return [line for line in packed.splitlines() if not line.startswith((b"#", b"^"))]
