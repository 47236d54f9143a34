"""Names that repeat in every row, once each: states, tenants, and versions (tenant, workflow, commit).

Only the fold writes, so only the fold asks for an id by name and may keep it in memory; readers ask the database. An id
is a small number, and is used again only after nothing refers to it.
"""

from __future__ import annotations

import apsw

# More names than this are looked up again: memory is bounded whatever tenants do.
KEPT_MAX = 20_000


class Dictionary:
    """Ids by name, made when they are first asked for. To be used inside a write transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._states: dict[str, int] = {}
        self._tenants: dict[str, int] = {}
        self._versions: dict[tuple[int, str, str], int] = {}

    def forget(self) -> None:
        """Ask the database again: names were dropped from it, or a transaction that made some was rolled back."""
        self._states.clear()
        self._tenants.clear()
        self._versions.clear()

    def state(self, name: str) -> int:
        found = self._states.get(name)
        if found is None:
            found = self._states[name] = self._id(
                "SELECT id FROM state WHERE name = ?", "INSERT INTO state(name) VALUES(?) RETURNING id", (name,)
            )
        return found

    def tenant(self, name: str) -> int:
        found = self._tenants.get(name)
        if found is None:
            if len(self._tenants) >= KEPT_MAX:
                self._tenants.clear()
            found = self._tenants[name] = self._id(
                "SELECT id FROM tenant WHERE name = ?", "INSERT INTO tenant(name) VALUES(?) RETURNING id", (name,)
            )
        return found

    def version(self, tenant: int, workflow: str, commit: str) -> int:
        name = (tenant, workflow, commit)
        found = self._versions.get(name)
        if found is None:
            if len(self._versions) >= KEPT_MAX:
                self._versions.clear()
            found = self._versions[name] = self._id(
                'SELECT id FROM version WHERE tenant = ? AND workflow = ? AND "commit" = ?',
                'INSERT INTO version(tenant, workflow, "commit") VALUES(?, ?, ?) RETURNING id',
                name,
            )
        return found

    def _id(self, asking: str, making: str, name: tuple[int | str, ...]) -> int:
        found = self._connection.execute(asking, name).get
        return int(found if found is not None else self._connection.execute(making, name).get)

    def drop_unused(self) -> None:
        """Forget versions and tenants without an instance, here and in the database: their names are erased too."""
        self._connection.execute(
            "DELETE FROM tally WHERE number = 0;"
            "DELETE FROM version WHERE id NOT IN (SELECT version FROM tally);"
            "DELETE FROM tenant WHERE id NOT IN (SELECT tenant FROM version)"
        )
        self.forget()
