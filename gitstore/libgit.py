"""libgit2's process-wide settings, made once at import, and how repositories are opened. No other file sets them.

The configuration of the user, the machine and XDG is never read: an `includeIf` or a `safe.directory` of whoever
runs the server must not change what a tenant's repository means (and opening gets a third faster).
Ownership of the folder is not checked either: the repositories are this program's own, hold no hooks and no
configuration but its own, and may have been restored from a backup by another user.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias, cast

import pygit2
from pygit2.enums import ConfigLevel, RepositoryOpenFlag

GitObject: TypeAlias = pygit2.Commit | pygit2.Tree | pygit2.Tag | pygit2.Blob

for _level in (ConfigLevel.PROGRAMDATA, ConfigLevel.SYSTEM, ConfigLevel.XDG, ConfigLevel.GLOBAL):
    pygit2.settings.search_path[_level] = ""
pygit2.settings.owner_validation = False


def open_repository(path: Path) -> pygit2.Repository:
    """A fresh handle on the bare repository at exactly `path`: no search upwards, no environment."""
    return pygit2.Repository(str(path), RepositoryOpenFlag.BARE | RepositoryOpenFlag.NO_SEARCH)


def read_object(repository: pygit2.Repository, oid: str) -> GitObject:
    """The object with this full id. Raises KeyError (absent), pygit2.GitError (unreadable)."""
    # pygit2's stubs make Commit, alone of the four, no subclass of Object.
    return cast("GitObject", repository[oid])
