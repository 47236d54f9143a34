"""A consistent copy of a running store: `GitStore.open` on the copy is the restore.

What must stay true: the rows are copied first, as of one moment, and objects only grow while the copying goes on
(`Parts.removing` is held), so every object that a copied row names is copied after it. Objects of later pushes may
be in the copy too; no row names them, and garbage collection takes them. The mirror is written again when the copy
is opened, and bundles, which are made from git, are made again when they are wanted.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import apsw

from .durable import sync
from .errors import Refused, Unavailable
from .names import database_path, ensure_repository, repository_path
from .parts import Parts


def backup(parts: Parts, target: Path) -> None:
    """Copy the store into the folder `target`, which must not exist or be empty. Durable on return.

    Pushes go on meanwhile; garbage collections and deletions of tenants wait.
    Raises Refused `target_not_empty`, Unavailable (disk full; what was copied so far is left for the caller to see).
    """
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise Refused(
                f"The folder {target} is not empty.",
                code="target_not_empty",
                hint="Name a new folder for the copy.",
                details={"path": str(target)},
            )
        (target / "repositories").mkdir(mode=0o700)
        with parts.removing:
            tenants = _copy_rows(parts, target)
            for tenant in tenants:
                _copy_repository(parts, tenant, target)
        sync(target / "repositories")
        sync(target)
    except OSError as error:
        raise Unavailable(
            f"The store cannot be copied to {target}: {error}.",
            code="storage_failed",
            hint="Make room, then try again.",
        ) from error


def _copy_rows(parts: Parts, target: Path) -> list[str]:
    """Copy the database and return the tenants in the copy."""
    with parts.database.connections.read() as source:
        copy = apsw.Connection(str(database_path(target)))
        try:
            with copy.backup("main", source, "main") as progress:
                progress.step()
            copy.execute("PRAGMA journal_mode = DELETE").fetchall()
            copy.execute("UPDATE tenants SET mirrored_version = refs_version - 1")
            return [str(row[0]) for row in copy.execute("SELECT name FROM tenants ORDER BY name")]
        finally:
            copy.close()


def _copy_repository(parts: Parts, tenant: str, target: Path) -> None:
    source = parts.repository_path(tenant)
    if not (source / "HEAD").exists():
        return
    copy = ensure_repository(target, tenant)
    objects = repository_path(target, tenant) / "objects"
    # An index names a pack that is whole; a pack without one is still on its way.
    packed = [
        file for index in (source / "objects" / "pack").glob("*.idx") for file in (index.with_suffix(".pack"), index)
    ]
    loose = [file for folder in (source / "objects").iterdir() if len(folder.name) == 2 for file in folder.iterdir()]
    for file in (*packed, *loose):
        place = objects / file.relative_to(source / "objects")
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, place)
        sync(place)
    for folder in {objects, objects / "pack", *(objects / file.parent.name for file in loose)}:
        sync(folder)
    sync(copy)
